"""The Grounder: every kind of input, boxes in the image's own pixels, one pass per image, clear errors."""

import copy
import gc
import io
import json
import multiprocessing
import pickle
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_toy import SIZE, new_model, write_folder
from PIL import Image

import rec
from rec import boxes, model_folder
from rec.data.images import ImageError
from rec.errors import InputError
from rec.inference import Grounder, download
from rec.inference.grounder import draw, suppress
from rec.trust import MAX_PIXELS


@pytest.fixture(scope="module")
def grounder(tmp_path_factory):
    return rec.from_pretrained(write_folder(tmp_path_factory.mktemp("model") / "best"), device="cpu")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (90, 140, 3), np.uint8)


def as_png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Pointer(torch.nn.Module):
    """Answers a fixed box of the letterboxed square, and counts how many images it was shown."""

    def __init__(self, box):
        super().__init__()
        self.fixed, self.images, self.phrases, self.head = torch.tensor(box), 0, [], None
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode_image(self, image):
        self.images += len(image)
        return [image]

    def ground(self, features, tokens, image_index=None):
        self.phrases.append(len(tokens))
        rows = len(tokens)
        inside = torch.zeros(rows, 1, *features[0].shape[-2:]) - 5
        left, top, right, bottom = (int(v) for v in self.fixed)
        inside[:, :, top:bottom, left:right] = 5
        return {"box": self.fixed.expand(rows, 4), "score": torch.full((rows,), 0.5), "mask": inside}


def pointing(grounder, box):
    return Grounder(Pointer(box), grounder.config, grounder.vocabulary, device="cpu")


def test_a_heat_map_is_the_scores_of_the_cells_over_the_image(grounder, pixels):
    plain = grounder(pixels, "the red circle")
    answer = grounder(pixels, "the red circle", heat_maps=True)
    assert plain.heat_map is None and plain.to_dict() == answer.to_dict()
    assert answer.heat_map.shape == (41, 64) and answer.heat_map.dtype == np.float32, "the square without its padding"
    assert answer.heat_map.max() <= answer.score * (1 + 1e-6) < 1.5 * answer.heat_map.max()
    masks_alone = pointing(grounder, [8.0, 16.0, 40.0, 48.0])(pixels, "it", heat_maps=True)
    assert masks_alone.heat_map is None, "its box has no cells"


def test_every_kind_of_input_gives_the_same_answer(grounder, pixels, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(as_png(pixels))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    expected = grounder(pixels, "the red circle").to_dict()
    for image in (path, str(path), path.read_bytes(), Image.open(path), tensor, tensor.float() / 255, rgba):
        assert grounder(image, "the red circle").to_dict() == expected


def test_gray_arrays_are_repeated_to_three_channels(grounder, pixels):
    gray = pixels[..., 0]
    expected = grounder(np.repeat(gray[..., None], 3, 2), "the red circle").box
    assert grounder(gray, "the red circle").box == expected == grounder(gray[..., None], "the red circle").box


def test_boxes_and_masks_come_back_in_the_images_own_pixels(grounder, pixels):
    target = np.array([70.0, 18.0, 105.0, 45.0])  # in the 140 x 90 image
    geometry = boxes.letterbox_geometry(90, 140, SIZE)
    result = pointing(grounder, boxes.to_letterbox(target, geometry).tolist())(pixels, "the red circle")
    np.testing.assert_allclose(result.box, target, atol=1e-3)
    assert result.mask.shape == (90, 140)
    rows, columns = np.nonzero(result.mask)
    np.testing.assert_allclose([columns.min(), rows.min(), columns.max(), rows.max()], target, atol=4)


def test_boxes_are_cut_at_the_images_border(grounder, pixels):
    assert pointing(grounder, [-50.0, -50.0, 500.0, 500.0])(pixels, "the red circle").box == (0, 0, 140, 90)


def test_exif_orientation_is_applied(grounder, pixels):
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert grounder(buffer.getvalue(), "the red circle", keep_images=True).image.shape == (140, 90, 3)


def test_lists_nest_as_they_were_given(grounder, pixels):
    one = grounder(pixels, "the red circle")
    both = grounder(pixels, ["the red circle", "small triangle"])
    assert [r.phrase for r in both] == ["the red circle", "small triangle"]
    np.testing.assert_allclose(both[0].box, one.box, atol=1e-3)
    pairs = grounder([pixels, pixels[:50]], ["the red circle", ["small triangle", "the red circle"]])
    assert pairs[0].phrase == "the red circle" and [r.phrase for r in pairs[1]] == ["small triangle", "the red circle"]
    assert [r.phrase for r in grounder([pixels] * 3, "the red circle", batch_size=2)] == ["the red circle"] * 3
    with pytest.raises(ValueError, match="2 images but 1 phrases"):
        grounder([pixels, pixels], ["the red circle"])


def test_phrases_of_one_image_share_one_backbone_pass(grounder, pixels):
    shared = pointing(grounder, [1.0, 2.0, 30.0, 40.0])
    shared(pixels, ["the red circle", "small triangle", "big square"])
    assert shared.model.images == 1


def test_many_phrases_about_one_image_are_asked_in_chunks(grounder, pixels):
    shared = pointing(grounder, [1.0, 2.0, 30.0, 40.0])
    answers = shared(pixels, [f"circle {number}" for number in range(70)])
    assert shared.model.images == 1 and shared.model.phrases == [32, 32, 6]
    assert [answer.phrase for answer in answers] == [f"circle {number}" for number in range(70)]
    one_each = grounder([pixels] * 40, "the red circle", batch_size=40)
    np.testing.assert_allclose([answer.box for answer in one_each], [one_each[0].box] * 40, atol=1e-3)


def test_a_model_without_shared_encoding_is_asked_phrase_by_phrase(grounder, pixels):
    class Plain(torch.nn.Module):
        def forward(self, batch):
            assert "image_index" not in batch and len(batch["image"]) == len(batch["tokens"])
            return {"box": torch.full((len(batch["tokens"]), 4), 3.0), "score": torch.ones(len(batch["tokens"]))}

    plain = Grounder(Plain(), grounder.config, grounder.vocabulary, device="cpu")
    assert len(plain([pixels, pixels], [["a circle", "a square"], ["a star"]])[0]) == 2


def test_a_stream_goes_on_after_a_bad_image(grounder, pixels):
    pairs = [(pixels, "the red circle"), (b"no image", "the red circle"), (pixels, " "), (pixels, "small triangle")]
    good, bad, empty, last = grounder.stream(pairs, batch_size=3)
    assert good[0].phrase == "the red circle" and last[0].phrase == "small triangle"
    assert isinstance(bad, ImageError) and "empty" in str(empty)


def test_phrases_that_come_one_by_one_are_all_asked_of_every_image(grounder, pixels):
    phrases = ["the red circle", "small triangle"]
    for images, how in (([pixels] * 3, {"product": True}), (iter([pixels] * 3), {})):
        answers = list(grounder(images, (phrase for phrase in phrases), **how))
        assert [[one.phrase for one in of_image] for of_image in answers] == [phrases] * 3


@pytest.mark.parametrize(
    "option",
    [
        {"top_k": 2.5},
        {"top_k": 0},
        {"top_k": "3"},
        {"top_k": 3, "nms_iou": 1.5},
        {"top_k": 3, "nms_iou": -1},
        {"nms_iou": "0.5"},
        {"threshold": "0.4"},
        {"threshold": True},
        {"threshold": [0.4]},
    ],
)
def test_options_that_mean_nothing_are_refused_by_their_name(grounder, pixels, option):
    for ask in (grounder, lambda *args, **how: next(grounder.stream([args], **how))):
        with pytest.raises(ValueError, match=f"{list(option)[-1]} is .*; expected"):
            ask(pixels, "the red circle", **option)
    assert len(grounder(pixels, "the red circle", top_k=np.int64(2)).candidates) == 2
    for score in (np.float32(0.25), torch.tensor(0.25), 1):
        grounder(pixels, "the red circle", threshold=score, nms_iou=score)


@pytest.mark.parametrize("switch", ["trust_config", "allow_urls", "compile", "send_images"])
def test_text_in_place_of_true_or_false_is_refused_since_no_would_count_as_yes(switch):
    with pytest.raises(InputError, match=f"{switch} is 'no'; expected True or False"):
        rec.from_pretrained("no folder", **{switch: "no"})


@pytest.mark.parametrize("switch", ["keep_images", "heat_maps", "product"])
def test_text_in_place_of_true_or_false_is_refused_in_a_call_too(grounder, pixels, switch):
    with pytest.raises(InputError, match=f"{switch} is 'no'; expected True or False"):
        grounder([pixels], ["the red circle"], **{switch: "no"})
    if switch != "product":
        with pytest.raises(InputError, match=switch):
            next(grounder.stream([(pixels, "the red circle")], **{switch: "false"}))
    with pytest.raises(InputError, match="compile is 'no'"):
        Grounder(grounder.model, grounder.config, grounder.vocabulary, compile="no")


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_of_no_images_is_refused_rather_than_answered_with_nothing(grounder, pixels, size):
    with pytest.raises(ValueError, match=f"batch_size is {size}"):
        grounder([pixels], "the red circle", batch_size=size)


def test_a_copied_or_pickled_grounder_answers_by_its_own_weights(grounder, pixels):
    expected = grounder(pixels, "the red circle", top_k=2)
    assert pickle.loads(pickle.dumps(grounder))(pixels, "the red circle", top_k=2) == expected
    copied = copy.deepcopy(grounder)
    assert copied(pixels, "the red circle", top_k=2) == expected
    for weights in copied.model.parameters():
        weights.data.zero_()
    assert copied(pixels, "the red circle").box != expected.box


def test_a_grounder_that_was_used_answers_in_a_forked_process(grounder, pixels):
    def ask(answers):
        box = grounder(pixels, "the red circle").box
        answers.put((torch.get_num_threads(), box))

    before, fork = torch.get_num_threads(), multiprocessing.get_context("fork")
    torch.set_num_threads(2)  # whose second one does not come along
    try:
        expected, answers = grounder(pixels, "the red circle").box, fork.Queue()
        child = fork.Process(target=ask, args=(answers,), daemon=True)
        child.start()
        try:
            threads, box = answers.get(timeout=60)
        finally:
            child.kill()
        assert threads == 1 and box == pytest.approx(expected) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_stream_reads_its_input_as_it_goes(grounder, pixels):
    taken = []

    def pairs():
        for number in range(100):
            taken.append(number)
            yield pixels, "the red circle"

    stream = grounder.stream(pairs(), batch_size=2)
    next(stream)
    assert len(taken) <= 8
    stream.close()


def test_what_a_generator_raises_comes_after_the_answers_to_what_it_gave(grounder, pixels):
    def frames():
        yield from [pixels] * 3
        raise OSError("the camera is gone")

    answers = grounder(frames(), "the red circle", batch_size=2)
    assert [next(answers).box for _ in range(3)] == [grounder(pixels, "the red circle").box] * 3
    with pytest.raises(OSError, match="camera"):
        next(answers)


def test_threads_get_the_same_answers(grounder, pixels):
    phrases = ["the red circle", "small triangle", "big blue square", "left of the circle"] * 4
    expected = [grounder(pixels, phrase).box for phrase in phrases]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda phrase: grounder(pixels, phrase).box, phrases)) == expected


def test_candidates_are_best_first_and_do_not_overlap(grounder, pixels):
    result = grounder(pixels, "the red circle", top_k=3, nms_iou=0.5)
    assert 1 <= len(result.candidates) <= 3
    np.testing.assert_allclose(result.candidates[0][0], result.box, atol=1e-3)
    scores = [score for _, score in result.candidates]
    assert scores == sorted(scores, reverse=True) and len(result.to_dict()["candidates"]) == len(scores)


def test_candidates_cost_no_second_pass(grounder, pixels):
    passes = []
    hook = grounder.model.head.register_forward_hook(lambda *_: passes.append(1))
    several, alone = grounder(pixels, "the red circle", top_k=3), grounder(pixels, "the red circle")
    hook.remove()
    assert len(passes) == 2 and (several.box, several.score) == (alone.box, alone.score)


def test_suppression_keeps_the_best_of_overlapping_boxes():
    found = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 9.5]], np.float64)
    assert suppress(found, np.array([0.5, 0.9, 0.3, 0.8]), 4, 0.5) == [1, 2]
    assert suppress(found, np.array([0.5, 0.9, 0.3, 0.8]), 1, 0.5) == [1]


def test_a_model_with_one_answer_refuses_top_k(grounder, pixels):
    with pytest.raises(ValueError, match="top_k"):
        pointing(grounder, [1.0, 2.0, 3.0, 4.0])(pixels, "the red circle", top_k=2)


def test_unknown_and_cut_phrases_are_answered_with_a_warning(grounder, pixels):
    assert grounder(pixels, "the red circle").warning is None
    assert "guess" in grounder(pixels, "xylophone zebra").warning
    assert "guess" in grounder(pixels, "???").warning
    assert grounder(pixels, "the red zebra").warning == "unknown to the model: zebra"
    assert "first 6 of 8 words" in grounder(pixels, "the big red circle left of the square").warning


@pytest.mark.parametrize("phrase", ["", "   ", [], ["a circle", ""], 7, [3], None, b"a circle", {1: "a"}, {"a": 1}])
def test_phrases_that_ask_nothing_are_errors(grounder, pixels, phrase):
    with pytest.raises(ValueError, match="phrase"):
        grounder(pixels, phrase)
    assert isinstance(next(grounder.stream([(pixels, phrase)])), ValueError)


def test_a_one_pixel_image_is_answered(grounder):
    result = grounder(np.zeros((1, 1, 3), np.uint8), "the red circle")
    assert all(0 <= v <= 1 for v in result.box)


def test_the_first_picture_of_an_animation_is_taken_with_a_warning(grounder, pixels):
    frames = [Image.fromarray(np.full((40, 60, 3), shade, np.uint8)) for shade in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    result = grounder(buffer.getvalue(), "the red circle", keep_images=True)
    assert result.image.mean() < 50 and "animated" in result.warning


def test_an_enormous_image_is_refused_by_its_header(grounder, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ImageError, match=r"huge\.png"):
        grounder(path, "the red circle")
    assert MAX_PIXELS < 20_000**2


@pytest.mark.parametrize(
    "image",
    [
        "absent.jpg",
        b"",
        b"\xff\xd8\xff\xe0 cut",
        np.full((4, 4, 3), 255.0),
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), 200, np.int32),
        torch.full((3, 4, 4), 255.0),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        torch.zeros(4, 4, 3),
        None,
        io.BytesIO(b"\xff\xd8\xff"),
        {"bytes": b"", "path": None},
        "https://example.com/a.jpg",
    ],
)
def test_what_is_no_image_is_one_clear_error(grounder, image):
    with pytest.raises(ImageError):
        grounder(image, "the red circle")


def test_addresses_are_fetched_only_on_request(grounder, pixels, monkeypatch):
    asked = []
    monkeypatch.setattr(download, "download", lambda address: asked.append(address) or as_png(pixels))
    address = "HTTPS://example.org/photo.png"
    with pytest.raises(ImageError, match="allow_urls"):
        grounder(address, "the red circle")
    assert not asked
    online = Grounder(new_model(), grounder.config, grounder.vocabulary, device="cpu", allow_urls=True)
    result = online(address, "the red circle")
    assert asked == [address] and np.array_equal(result.image, pixels) and asked == [address] * 2


def test_results_keep_no_pictures_and_find_them_again(grounder, pixels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(as_png(pixels))
    monkeypatch.setenv("HOME", str(tmp_path))
    given = pixels.copy()
    pair = [grounder("photo.png", "the red circle"), *grounder([Path("~/photo.png")], "the red circle")]
    pair += grounder([given, given], ["the red circle"] * 2)
    monkeypatch.chdir("/")
    for result in pair:
        assert np.array_equal(result.image, pixels) and result.draw().size == (140, 90)
        assert len(pickle.dumps(result)) < 2000 < pixels.nbytes
    held = weakref.ref(given)
    del given
    gc.collect()
    assert held() is None, "a result holds no picture"
    for gone in (pair[-1], grounder(as_png(pixels), "the red circle"), pickle.loads(pickle.dumps(pair[2]))):
        with pytest.raises(ImageError, match="keep_images=True"):
            gone.draw()
        assert gone.to_dict() == pair[0].to_dict()


def test_kept_pictures_are_those_that_were_asked_about(grounder, pixels, tmp_path):
    (tmp_path / "photo.png").write_bytes(as_png(pixels))
    frame = pixels.copy()
    kept = grounder([frame, tmp_path / "photo.png"], "the red circle", keep_images=True)
    lost = grounder(tmp_path / "photo.png", "the red circle")
    frame[:] = 0  # a video's buffer, used for the next frame
    (tmp_path / "photo.png").write_bytes(as_png(pixels[:50]))
    assert all(np.array_equal(result.image, pixels) for result in kept)
    assert np.array_equal(pickle.loads(pickle.dumps(kept[0])).image, pixels)
    with pytest.raises(ImageError, match="140 x 90 pixels when it was asked about and has 140 x 50 now"):
        lost.draw()


def test_drawing_marks_the_box_and_the_mask(grounder, pixels):
    dark = np.zeros_like(pixels)
    result = pointing(grounder, [10.0, 20.0, 40.0, 44.0])(dark, "the red circle")
    picture = np.asarray(result.draw())
    assert picture.shape == dark.shape and (picture != 0).any(axis=2).sum() > 100 and not dark.any()
    left, top = (round(v) for v in result.box[:2])
    assert picture[top : top + 2, left + 5].any()
    assert draw([result, result]).size == (140, 90)


def test_answers_are_plain_json(grounder, pixels):
    plain = pointing(grounder, [10.0, 20.0, 40.0, 44.0])(pixels, "the red circle").to_dict()
    assert json.loads(json.dumps(plain)) == plain and plain["width"] == 140 and plain["mask"]["size"] == [90, 140]


def test_half_precision_answers_agree_with_full_precision(grounder, pixels):
    half = Grounder(new_model(), grounder.config, grounder.vocabulary, device="cpu", dtype=torch.bfloat16)
    assert abs(half(pixels, "the red circle").score - grounder(pixels, "the red circle").score) < 0.05
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        Grounder(new_model(), grounder.config, grounder.vocabulary, dtype="int8")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_answers(grounder, pixels, tmp_path):
    compiled = rec.from_pretrained(write_folder(tmp_path / "best"), device="cpu", compile=True)
    phrases = ["the red circle", "the blue star"]
    answers = [grounder(pixels, phrases[0]), *grounder(pixels, phrases)]
    for one, other in zip(answers, [compiled(pixels, phrases[0]), *compiled(pixels, phrases)], strict=True):
        assert one.box == pytest.approx(other.box, abs=1e-2) and one.score == pytest.approx(other.score, abs=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_another_default_device_changes_nothing(grounder, pixels, tmp_path):
    folder = write_folder(tmp_path / "best")
    with torch.device("meta"):
        result = rec.from_pretrained(folder, device="cpu")(pixels, "the red circle")
    assert result == grounder(pixels, "the red circle")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype_changes_nothing(grounder, pixels, tmp_path, dtype):
    folder = write_folder(tmp_path / "best")
    torch.set_default_dtype(dtype)
    try:
        other = rec.from_pretrained(folder, device="cpu")
        assert torch.get_default_dtype() == dtype
        result = other(pixels, "the red circle")
    finally:
        torch.set_default_dtype(torch.float32)
    assert result == grounder(pixels, "the red circle")
    assert {value.dtype for value in other.model.parameters()} == {torch.float32}


def test_the_origin_says_shapes_only(grounder, tmp_path):
    assert grounder.knows_shapes_only and "drawn shapes only" in repr(grounder)
    real = rec.from_pretrained(write_folder(tmp_path / "best", dataset="refcoco", sources=["refcoco"]))
    assert not real.knows_shapes_only


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path):
    with pytest.raises(model_folder.ModelFolderError, match="neither a model folder nor a hub id"):
        rec.from_pretrained(tmp_path / "absent" / "deeper")
