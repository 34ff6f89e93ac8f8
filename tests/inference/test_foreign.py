"""Other people's models behind the same door: real code of transformers on tiny random models, a server that misbehaves."""

import base64
import http.client
import json
import os
from importlib.util import find_spec
from pathlib import Path

import cv2
import foreign_toys
import numpy as np
import pytest

import rec
from rec.command_line import explained
from rec.contracts import Answer
from rec.errors import InputError
from rec.files import alone_in
from rec.inference.foreign import local, openai
from rec.inference.foreign.asking import ask
from rec.inference.foreign.base import NOTHING, ForeignGrounder
from rec.inference.foreign.families import family_of
from rec.inference.foreign.openai import ServerError
from rec.model_folder.format import ModelFolderError

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 140, 3), np.uint8)
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(openai.time, "sleep", lambda _: None)
    servers = []

    def start(*answers, **how):
        servers.append(foreign_toys.ChatServer(list(answers)))
        how = {"coordinates": "0-1000"} | how
        return servers[-1], rec.from_pretrained(f"openai:toy@{servers[-1].address}", **how)

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """The text of a config of scenes, which is ``scenes.py`` in the working folder."""
    from test_evaluate_script import CONFIG

    (tmp_path / "scenes.py").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return CONFIG


def sent_image(body):
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)


def test_a_server_is_a_grounder(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server, grounder = serve(
        '{"bbox_2d": [100, 200, 500, 1000]}', '{"bbox_2d": null}', "I cannot see [well.", "[[1, 2, 3, 4], [5, 6, 7, 8]]"
    )
    grounder.at_once = 1
    found, none, unread, several = grounder(IMAGE, ["the dog", "a cat", "a bird", "two"], top_k=2)
    assert found.box == pytest.approx((14, 18, 70, 90)) and found.score == 1 and found.warning is None
    assert none.box is None and none.warning is None
    assert unread.box is None and "cannot be read: 'I cannot see [well.'" in unread.warning
    assert len(several.candidates) == 2 and "2 boxes" in several.warning and len(several.boxes) == 1
    assert (found.found, none.found, none.score) == (True, False, None)
    grounder.answer = Answer(0.5)
    assert len(grounder(IMAGE, "two").boxes) == 2, "with a threshold all of them are the answer"
    assert sent_image(server.asked[0]).shape == IMAGE.shape and server.headers[0]["Authorization"] == "Bearer secret"
    assert '"the dog"' in server.asked[0]["messages"][0]["content"][1]["text"] and server.asked[0]["temperature"] == 0
    assert "secret" not in repr(grounder) and "on this machine" in grounder.origin


def test_a_family_that_writes_the_top_first_is_read_so(serve, monkeypatch):
    server, _ = serve('```json\n[{"box_2d": [200, 100, 1000, 500], "label": "dog"}]\n```')
    grounder = rec.from_pretrained(f"openai:gemini-3-flash@{server.address}")
    assert grounder(IMAGE, "the dog").box == pytest.approx((14, 18, 70, 90))


def test_a_prompt_may_ask_for_another_order_of_the_numbers(serve, scenes, call_script):
    server, _ = serve("[200, 100, 800, 500]")
    model, prompt = f"openai:gemini-3-flash@{server.address}", "Where is {phrase}? [left, top, width, height]"
    grounder = rec.from_pretrained(model, prompt=prompt, box_format="xywh")
    assert grounder(IMAGE, "the dog").box == pytest.approx((28, 9, 140, 54))
    words = (model, "--config", "scenes.py", "--splits", "val", "--prompt", prompt, "--out", "out")
    assert call_script("evaluate", *words, "--box-format", "xywh")[0] == 0
    left, top, right, bottom = json.loads(Path("out/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])["box"]
    assert (left / right, top / bottom) == pytest.approx((0.2, 1 / 6))
    status, _, error = call_script("evaluate", *words)
    assert status == 2 and "name another --out" in " ".join(error.split()), "they were read in another way"


def test_a_lying_answer_stays_inside_the_image(serve):
    _, grounder = serve('{"bbox_2d": [900, 5000, -100, 100]}')
    left, top, right, bottom = grounder(IMAGE, "x").box
    assert 0 <= left <= right <= 140 and 0 <= top <= bottom <= 90


def test_requests_at_once_are_bounded_and_answers_keep_their_order(serve):
    def answer(body):
        number = int(body["messages"][0]["content"][1]["text"].split('"')[1])
        openai.threading.Event().wait(0.02 * (3 - number % 3))
        return f"[0, 0, {number}, {number}]"

    server, grounder = serve(answer)
    found = grounder(IMAGE, [str(number) for number in range(1, 21)])
    assert [round(one.box[2] / 140 * 1000) for one in found] == list(range(1, 21)) and 1 < server.most_at_once <= 4


def test_a_busy_or_broken_server_is_asked_again_and_a_refusal_is_not(serve):
    server, grounder = serve(503, b"{broken", 429, b"[]", "[0, 0, 10, 10]")
    assert grounder(IMAGE, "x").box is None, "a list is not a chat answer"
    assert len(server.asked) == 4
    assert grounder(IMAGE, "x").box is not None
    server, grounder = serve(404)
    with pytest.raises(ServerError, match="404"):
        grounder(IMAGE, "x")
    assert len(server.asked) == 1
    server, grounder = serve(500)
    with pytest.raises(ServerError, match="does not answer for toy"):
        grounder(IMAGE, "x")
    assert len(server.asked) == openai.TRIES
    server, grounder = serve(302)
    with pytest.raises(ServerError, match="302"):
        grounder(IMAGE, "x")
    _, grounder = serve(b"x" * (openai.MAX_ANSWER + 2))
    with pytest.raises(ServerError, match="more than"):
        grounder(IMAGE, "x")
    server, grounder = serve("[0, 0, 1, 1]")
    whole = rec.from_pretrained(f"openai:toy@{server.address}/chat/completions", coordinates="0-1000")
    assert whole(IMAGE, "x").box is not None, "as it stands in a curl command"
    server.close()
    with pytest.raises(ServerError, match="is it running"):
        grounder(IMAGE, "x")


def test_what_a_refusal_says_may_break_off_and_an_error_is_no_answer(serve, monkeypatch):
    broken = http.client.IncompleteRead(b"abc")
    monkeypatch.setattr(openai.urllib.error.HTTPError, "read", lambda *_: (_ for _ in ()).throw(broken), raising=False)
    server, grounder = serve(503, "[0, 0, 10, 10]")
    assert grounder(IMAGE, "x").box is not None and len(server.asked) == 2
    busy = json.dumps({"error": {"code": 429, "message": "Rate limit exceeded"}}).encode()
    server, grounder = serve(busy, busy, "[0, 0, 10, 10]")
    assert grounder(IMAGE, "x").warning is None and len(server.asked) == 3
    server, grounder = serve(busy)
    with pytest.raises(ServerError, match="Rate limit exceeded"):
        grounder(IMAGE, "x")
    assert len(server.asked) == openai.TRIES


@pytest.mark.parametrize(
    ("key", "sent"), [("secret\r\n", "Bearer secret"), ("sec\rret", None), ("secret\u2026", None), (" ", None)]
)
def test_a_key_is_sent_without_its_lines_end_and_shown_in_no_error(serve, monkeypatch, key, sent):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    if not sent and key.strip():
        with pytest.raises(InputError, match="OPENAI_API_KEY") as caught:
            serve("[0, 0, 10, 10]")
        assert "sec" not in str(caught.value)
        return
    server, grounder = serve("[0, 0, 10, 10]")
    assert grounder(IMAGE, "x").box is not None and server.headers[0].get("Authorization") == sent


def test_the_address_that_servers_print_is_of_this_machine():
    assert rec.from_pretrained("openai:toy@http://0.0.0.0:1/v1", coordinates="0-1").is_here


def test_a_model_that_takes_no_temperature_or_length_is_asked_without(serve):
    def answer(body):
        for name in ("max_tokens", "temperature"):
            if name in body:
                return 400, json.dumps(
                    {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}}
                )
        return "[0, 0, 10, 10]"

    server, grounder = serve(answer)
    grounder.at_once = 1
    assert grounder(IMAGE, "x").box is not None and len(server.asked) == 3
    assert grounder(IMAGE, "x").box is not None and len(server.asked) == 4, "once learnt, it is not asked in vain again"
    server, grounder = serve((400, "max_tokens is too large for this context"))
    with pytest.raises(ServerError, match="too large"):
        grounder(IMAGE, "x")
    assert len(server.asked) == 2


def test_a_minute_without_answers_and_every_fault_of_a_server_are_waited_for(serve, monkeypatch):
    waited = []
    for told in (520, 529, (422, "max_tokens: extra inputs are not permitted")):
        server, grounder = serve(told, "[0, 0, 10, 10]")
        assert grounder(IMAGE, "x").box is not None and len(server.asked) == 2
    server, grounder = serve((429, "15 requests a minute"), (429, "15 requests a minute"), "[0, 0, 10, 10]")
    monkeypatch.setattr(openai.time, "sleep", waited.append)
    assert grounder(IMAGE, "x").box is not None and sum(waited) * 2 >= 60


def test_an_image_that_a_providers_filter_refuses_is_an_answer_that_cannot_be_read(serve):
    refused = json.dumps({"error": {"param": None, "code": "data_inspection_failed", "message": "inappropriate"}})
    server, grounder = serve((400, refused))
    assert "cannot be read: 'refused:" in grounder(IMAGE, "x").warning and len(server.asked) == 1


def test_an_answer_that_was_cut_off_says_so(serve):
    for content, said in (
        (None, "cut off after 300 tokens"),
        ("[0, 0, 10, 10] and", None),
        ('{"bbox_2d": null}', None),
    ):
        _, grounder = serve(
            json.dumps({"choices": [{"finish_reason": "length", "message": {"content": content}}]}).encode()
        )
        warning = grounder(IMAGE, "x").warning
        assert warning is None if said is None else said in warning


def test_an_answer_may_be_as_long_as_the_caller_says(serve, scenes, call_script):
    server, _ = serve("[0, 0, 500, 500]")
    words = (f"openai:toy@{server.address}", "--config", "scenes.py", "--out", "out", "--coordinates", "0-1000")
    for tokens in (4000, 8000):
        status, _, error = call_script("evaluate", *words, "--splits", "val", "--max-tokens", str(tokens))
    assert status == 2 and "8000 tokens" in error and {body["max_tokens"] for body in server.asked} == {4000}
    cut = json.dumps({"choices": [{"finish_reason": "length", "message": {"content": None}}]}).encode()
    assert "cut off after 900 tokens" in serve(cut, max_tokens=900)[1](IMAGE, "x").warning


def test_nothing_goes_to_another_machine_unasked(monkeypatch):
    monkeypatch.setattr(openai.socket, "getaddrinfo", lambda host, _: [(0, 0, 0, "", ("192.0.2.7", 0))])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=r"example\.org is another machine.*--send-images"):
        rec.from_pretrained("openai:qwen3-vl@https://example.org/v1")
    grounder = rec.from_pretrained("openai:qwen3-vl@https://example.org/v1", send_images=True)
    assert "to which every image is sent" in grounder.origin and not grounder.is_here
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(InputError, match="unencrypted"):
        rec.from_pretrained("openai:qwen3-vl@http://example.org/v1", send_images=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai:", "names no model"),
        ("openai:model", "names no server"),
        ("openai:@http://127.0.0.1:1/v1", "names no server"),
        ("openai:model@ftp://127.0.0.1/v1", "names no server"),
        ("openai:model@http://user:word@127.0.0.1/v1", "names no server"),
        ("openai:unheard-of@http://127.0.0.1:1/v1", "is not known"),
        ("openai:model@http://[::1/v1", "names no server"),
        ("openai:model@http://a..b/v1", "cannot be found"),
    ],
)
def test_names_that_cannot_be_asked(name, said):
    with pytest.raises(InputError, match=said):
        rec.from_pretrained(name)


def test_a_threshold_is_a_share_for_foreign_models_too(serve):
    with pytest.raises(ValueError, match="expected a score, 0 to 1"):
        serve("null", threshold=5)


def test_options_of_foreign_models_are_refused_for_ours(tmp_path):
    with pytest.raises(InputError, match="coordinates: for models named"):
        rec.from_pretrained(tmp_path, coordinates="0-1")
    from rec.model_folder.find import find_folder

    with pytest.raises(ModelFolderError, match="not a model folder that could be exported"):
        find_folder("openai:model@http://127.0.0.1:1/v1")


def test_families_see_the_size_their_processor_would_make():
    family = family_of("Qwen/Qwen2.5-VL-3B-Instruct")
    for height, width in ((90, 140), (3000, 4000), (20, 5000), (1, 1)):
        sent = family.fitted(np.zeros((height, width, 3), np.uint8))
        assert (
            sent.shape[0] % 28 == 0 and sent.shape[1] % 28 == 0 and sent.shape[0] * sent.shape[1] <= family.max_pixels
        )
    assert str(family.convention(84, 140).coordinates) == "140x84"
    assert family_of("Qwen3-VL-8B").coordinates == family_of("OpenGVLab/InternVL3-2B").coordinates == "0-1000"
    assert family_of("other", "0-1").coordinates == "0-1"
    gemini = family_of("gemini-2.5-flash")
    assert "[ymin, xmin, ymax, xmax]" in gemini.question("dog") and gemini.convention(90, 140).box_format == "yxyx"
    with pytest.raises(InputError, match="phrase"):
        family_of("qwen3-vl", prompt="where?")


@needs_transformers
@pytest.mark.parametrize("toy", ["grounding_dino", "owlv2"])
def test_detectors_of_transformers_answer_in_pixels(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    getattr(foreign_toys, toy)(tmp_path)
    grounder = rec.from_pretrained(f"transformers:{tmp_path}", device="cpu")
    answers = grounder([IMAGE, IMAGE[:50]], ["the red circle", ["a dog", "the dog"]], top_k=5)
    for answer, height in ((answers[0], 90), (answers[1][0], 50), (answers[1][1], 50)):
        assert len(answer.candidates) == 5 and answer.candidates[0] == (answer.box, answer.score)
        for (left, top, right, bottom), score in answer.candidates:
            assert 0 <= left <= right <= 140 and 0 <= top <= bottom <= height and 0 <= score <= 1
    alone = grounder(IMAGE[:50], "the dog")
    assert alone.box == pytest.approx(answers[1][1].box, abs=0.1), "a batch answers what one image is answered"
    with pytest.raises(InputError, match="dtype is 'fp16'"):
        rec.from_pretrained(f"transformers:{tmp_path}", device="cpu", dtype="fp16")
    assert toy.partition("2")[0].replace("_", "-") in grounder.origin and "own licence" in grounder.origin


@needs_transformers
@pytest.mark.parametrize("toy", ["florence2", "qwen25_vl"])
def test_models_of_transformers_that_write_are_read(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    getattr(foreign_toys, toy)(tmp_path)
    how = {} if toy == "florence2" else {"coordinates": "pixel"}
    grounder = rec.from_pretrained(f"transformers:{tmp_path}", device="cpu", **how)
    answer = grounder(IMAGE, "the dog")
    assert answer.box is None or 0 <= answer.box[0] <= answer.box[2] <= 140
    words = {"florence2": "dog<loc_100><loc_200><loc_500><loc_900>", "qwen25_vl": '{"bbox_2d": [14, 28, 70, 84]}'}[toy]
    monkeypatch.setattr(
        type(grounder.processor), "batch_decode", lambda *_, **__: [f"</s><s>{words}</s>" if how == {} else words]
    )
    expected = (14.07, 18.045, 70.07, 81.045) if toy == "florence2" else (14, 30, 70, 90)  # 90 rows are seen as 84
    assert grounder(IMAGE, "the dog").box == pytest.approx(expected)
    words = "<think>The dog"  # a random model says as much as it may
    monkeypatch.setattr(local, "MAX_NEW_TOKENS", 2)
    assert toy == "florence2" or "cut off after 2 tokens" in grounder(IMAGE, "the dog").warning


@needs_transformers
def test_strangers_code_and_pickles_are_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    foreign_toys.owlv2(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    (tmp_path / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(rec.errors.RecError, match="cannot be opened"):
        rec.from_pretrained(f"transformers:{tmp_path}")
    (tmp_path / "evil.py").write_text("import os; os.mkdir('canary')")
    config = json.loads((tmp_path / "config.json").read_text())
    for change in (
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}},
        {"quantization_config": {"quant_method": "x"}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(rec.errors.RecError, match=r"not run|quantised"):
            rec.from_pretrained(f"transformers:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(rec.errors.RecError, match="is a bert"):
        rec.from_pretrained(f"transformers:{tmp_path}")
    with pytest.raises(rec.errors.RecError, match="cannot be opened"):
        rec.from_pretrained("transformers:nobody/nothing")
    assert not os.path.exists("canary")


def test_answers_about_images_in_no_encoding_are_kept_and_a_full_disk_is_told(tmp_path):
    class Nothing(ForeignGrounder):
        def ask(self, images, phrases):
            return [NOTHING] * len(phrases)

    class Data:
        fingerprint, targets = "abc", "one"

        def picture(self, index):
            return np.zeros((4, 4, 3), np.uint8)

        def describe(self, index):
            return {"image": os.fsdecode(b"caf\xe9.jpg"), "ref_id": "1", "sentence": "the dog"}

        def target_boxes(self, index):
            return np.zeros((1, 4)), 4, 4

    def ask_all(path):
        ask(Nothing("toy", "a toy"), {"val": Data()}, [("val", [0])], path)

    ask_all(tmp_path / "answers.jsonl")
    assert json.loads((tmp_path / "answers.jsonl").read_text("utf-8"))["image"] == os.fsdecode(b"caf\xe9.jpg")
    with pytest.raises(OSError, match="No space left") as caught:
        ask_all(Path("/dev/full"))
    assert explained(caught.value).startswith("/dev/full: No space left on device; free some space")


def test_an_evaluation_asks_what_is_not_answered_yet(serve, scenes, call_script):
    server, _ = serve("[0, 0, 500, 500]")

    def evaluate(*more):
        model = f"openai:toy@{server.address}"
        words = (model, "--config", "scenes.py", "--out", "out", "--coordinates", "0-1000")
        return call_script("evaluate", *words, *more)

    status, said, error = evaluate("--splits", "val", "--report", "out/report.html")
    assert status == 0 and "15 of 15 phrases are still to ask" in said and "15 answers matched" in said, error
    assert f"<dt>Model</dt><dd>openai:toy@{server.address}, kept in" in Path("out/report.html").read_text("utf-8")
    metrics = json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["val"]
    answers = Path("out/answers.jsonl").read_text(encoding="utf-8")
    assert metrics["count"] == len(answers.splitlines()) == 15 == len(server.asked)
    with alone_in(Path("out")):
        status, _, error = evaluate("--splits", "val")
    assert status == 2 and "out is being written by another process" in error, "each would ask for all of them"
    Path("out/answers.jsonl").write_text(answers[: answers.rfind('"index"') - 5], encoding="utf-8")
    status, said, _ = evaluate("--splits", "val")
    assert status == 0 and "1 of 15 phrases are still to ask" in said and len(server.asked) == 16
    assert Path("out/answers.jsonl").read_text(encoding="utf-8") == answers
    assert json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["val"] == metrics
    status, _, error = evaluate("--splits", "validation")  # as others call it, and so with another fingerprint
    assert status == 2 and "asked about other data" in error and len(server.asked) == 16
    status, _, error = evaluate("--splits", "val", "dataset.ann_path.scenes.count.val=4")
    assert status == 2 and "other data" in error
    for other in (("--coordinates", "0-999"), ("--prompt", "Where is {phrase}?"), ("dataset.targets=any",)):
        status, _, error = evaluate("--splits", "val", *other)
        assert status == 2 and "name another --out" in " ".join(error.split()), other
    status, _, error = call_script("evaluate", f"openai:other@{server.address}", "--config", "scenes.py", "--out", "out",
                                   "--coordinates", "0-1000")  # fmt: skip
    assert status == 2 and "'openai:toy" in error and "'openai:other" in error and len(server.asked) == 16
    again = ("--answers", "out/answers.jsonl", "--config", "scenes.py", "--out", "out")
    assert call_script("evaluate", *again)[0] == 0, "they are scored where they lie"
    assert json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["val"] == metrics


def test_eval_iter_asks_as_many_batches_as_it_names(serve, scenes, call_script):
    server, _ = serve("[0, 0, 500, 500]")
    words = (f"openai:toy@{server.address}", "--config", "scenes.py", "--out", "out", "--coordinates", "0-1000")
    first = "train.evaluation.eval_iter=1"  # of four phrases
    for more, asked, count in (((first,), 4, 4), ((), 15, 15), ((first, "--report", "out/report.html"), 15, 4)):
        status, said, error = call_script("evaluate", *words, "--splits", "val", *more)
        metrics = json.loads(Path("out/metrics.json").read_text(encoding="utf-8"))["val"]
        assert status == 0 and f"{count} answers matched" in said and f"val: {count} phrases" in said, error
        assert len(server.asked) == asked and metrics["count"] == count and "wrong" not in said


@pytest.mark.parametrize("text", ["[100, -200, 1300, 700]", "[900, 900, 100, 100]"])
def test_an_answer_scores_the_same_asked_or_read_from_a_file(text, serve, scenes, call_script):
    server, _ = serve(text)
    words = ("--config", "scenes.py", "--splits", "val", "--coordinates", "0-1000")
    assert call_script("evaluate", f"openai:toy@{server.address}", *words, "--out", "asked")[0] == 0
    asked = Path("asked/predictions.jsonl").read_text(encoding="utf-8")
    keys = [{key: json.loads(line)[key] for key in ("index", "sentence")} for line in asked.splitlines()]
    Path("told.jsonl").write_text("".join(json.dumps(key | {"text": text}) + "\n" for key in keys), encoding="utf-8")
    assert call_script("evaluate", "--answers", "told.jsonl", *words, "--out", "told")[0] == 0
    told = Path("told/predictions.jsonl").read_text(encoding="utf-8")
    for one, other in zip(map(json.loads, asked.splitlines()), map(json.loads, told.splitlines()), strict=True):
        assert one["box"] == pytest.approx(other["box"]) and one["iou"] == pytest.approx(other["iou"])


def test_what_a_server_answered_before_it_ended_is_kept(serve, scenes, call_script):
    server, _ = serve(*["[0, 0, 500, 500]"] * 9, 401)
    words = ("--config", "scenes.py", "--out", "out", "--coordinates", "0-1000", "--splits", "val")
    status, _, error = call_script("evaluate", f"openai:toy@{server.address}", *words)
    assert status == 2 and "401" in error
    assert len(Path("out/answers.jsonl").read_text(encoding="utf-8").splitlines()) == 6, "two images of three phrases"


def test_what_cannot_be_read_is_not_read_as_what_its_warning_quotes(serve, scenes, call_script):
    server, _ = serve('[{"bbox_2d": [1, 2, 3]}, {"bbox_2d": [0, 0, 500, 500]}]')
    words = ("--config", "scenes.py", "--out", "out", "--coordinates", "0-1000", "--splits", "val")
    for _ in range(2):  # asked, and read again
        status, said, error = call_script("evaluate", f"openai:toy@{server.address}", *words)
        assert status == 0 and "15 unparsable (wrong)" in said, error
    line = json.loads(Path("out/answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert "[0, 0, 500, 500]" in line["warning"] and len(server.asked) == 15


def test_where_phrases_name_any_number_of_objects_every_box_is_an_answer(serve, scenes, call_script):
    text = scenes.replace('split="train",', 'split="train", targets="any",').replace(
        '"size"', '"targets": "any", "size"'
    )
    Path("any.py").write_text(text, encoding="utf-8")
    server, _ = serve("[[0, 0, 500, 500], [500, 500, 1000, 1000]]")
    model = f"openai:toy@{server.address}"
    words = (model, "--config", "any.py", "--out", "out", "--coordinates", "0-1000", "--splits", "val")
    for more, count in ((), 2), (("--threshold", "1"), 2):
        status, _, error = call_script("evaluate", *words, *more)
        lines = [json.loads(line) for line in Path("out/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        assert status == 0 and {len(line["boxes"]) for line in lines} == {count}, error
        assert lines[0]["scores"] == [1, 1] and lines[0]["threshold"] == (1 if more else 0.5)
    asked = rec.from_pretrained(model, coordinates="0-1000")
    picture = np.zeros((20, 20, 3), np.uint8)
    assert (
        "the first counts" in asked(picture, "a dog").warning and asked(picture, "a dog", threshold=0.5).warning is None
    )
