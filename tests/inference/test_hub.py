"""Push and download through the real Hub client, against a server on localhost that checks and sometimes fails."""

import hashlib
import threading
import time
from types import SimpleNamespace

import pytest
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http
from inference_toy import write_folder

import rec
from rec import model_folder
from rec.data.pretrained import pretrained_file
from rec.errors import InputError
from rec.model_folder import hub
from rec.model_folder.hub import HubError, Pusher

FILES = {"model.safetensors", "config.yaml", "vocab.json", "README.md", "digests.json"}
TOKEN = "hf_averysecrettoken"


@pytest.fixture
def server(tmp_path, monkeypatch):
    def start(fail_every=0):
        server = HubServer(fail_every)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "_DELAYS", (0.01,) * 5)
        monkeypatch.setattr(_http, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        return server

    return start


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "run" / "best")


def test_a_push_and_a_download_give_identical_bytes_though_one_request_in_five_fails(server, folder):
    running = server(fail_every=5)
    hub.push(folder, "user/shapes", message="first")
    (folder / "optimizer.bin").write_bytes(b"state")  # never pushed, though it lies there
    hub.push(folder, "user/shapes")
    assert set(running.files("user/shapes")) == FILES and not running.trouble
    there = hub.pull("user/shapes")
    for name in FILES:
        assert (there / name).read_bytes() == (folder / name).read_bytes()
    assert "SimREC" in repr(rec.from_pretrained("user/shapes", device="cpu"))
    log = "\n".join(running.log)
    assert "optimizer" not in log and TOKEN not in log and running.requests > 15


def test_the_digests_in_a_repository_are_those_of_what_was_pushed_last(server, folder):
    running = server()
    hub.push(folder, "user/shapes")
    config = folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "\n# mine\n", encoding="utf-8")
    with pytest.raises(model_folder.ModelFolderError, match="edited"):
        hub.push(folder, "user/shapes")
    (folder / "digests.json").unlink()  # edited on purpose
    hub.push(folder, "user/shapes")
    assert set(running.files("user/shapes")) == FILES and model_folder.read(hub.pull("user/shapes"))


def test_a_published_encoder_whose_repository_lacks_a_file_says_what_writes_it(server, folder):
    running = server()
    hub.push(folder, "user/shapes")  # no text model: it has no config.json
    for file, writer in (
        ("tokenizer.json", "AutoTokenizer"),
        ("config.json", "expected a transformers model"),
    ):
        with pytest.raises(InputError, match=f"has no {file}") as told:
            pretrained_file("user/shapes", file, "model.language_encoder.name")
        assert writer in str(told.value)
    with pytest.raises(InputError, match="private or gated"):
        pretrained_file("user/nothing", "config.json", "model.language_encoder.name")
    assert not running.trouble


def test_a_revision_can_be_asked_for(server, folder):
    running = server()
    hub.push(folder, "user/shapes")
    sha = running.repositories["user/shapes"]["sha"]
    write_folder(folder, samples=99)
    hub.push(folder, "user/shapes")
    assert "8 samples" in repr(rec.from_pretrained(f"user/shapes@{sha}", device="cpu"))
    assert "99 samples" in repr(rec.from_pretrained("user/shapes", device="cpu"))


def test_only_the_files_of_a_model_folder_are_downloaded(server, folder):
    running = server()
    hub.push(folder, "user/shapes")
    running.files("user/shapes").update({"evil.py": b"raise SystemExit", "pytorch_model.bin": b"x", "../up.txt": b"x"})
    there = hub.pull("user/shapes")
    assert {path.name for path in there.iterdir()} == FILES and not (there.parent / "up.txt").exists()


def test_an_existing_folder_wins_over_a_hub_id_of_the_same_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "SimREC" in repr(rec.from_pretrained("run/best", device="cpu"))


def test_optimizer_state_is_pushed_only_when_a_checkpoint_is_named(server, folder, tmp_path):
    running = server()
    checkpoint = tmp_path / "step_00000001"
    checkpoint.mkdir()
    for name in ("trainer_state.json", "optimizer.bin"):
        (checkpoint / name).write_bytes(name.encode())
    hub.push(folder, "user/shapes", checkpoint=checkpoint)
    assert set(running.files("user/shapes")) == FILES | {"checkpoint/trainer_state.json", "checkpoint/optimizer.bin"}
    with pytest.raises(model_folder.ModelFolderError, match="not a checkpoint"):
        hub.push(folder, "user/shapes", checkpoint=folder)


def test_what_will_not_pass_is_said_at_once(server, folder, tmp_path):
    running = server()
    with pytest.raises(HubError, match=r"refused \(403\)"):
        hub.push(folder, "other/shapes")
    assert sum("/api/repos/create" in line for line in running.log) == 1, "not repeated"
    with pytest.raises(HubError, match="no such repository"):
        rec.from_pretrained("user/absent")
    hub.push(folder, "user/shapes")
    with pytest.raises(HubError, match="no such repository or revision"):
        rec.from_pretrained("user/shapes@absent")
    with pytest.raises(model_folder.ModelFolderError, match="not a model folder"):
        hub.push(tmp_path, "user/shapes")


def test_a_hub_that_cannot_be_reached_is_a_clear_error_unless_the_cache_has_it(server, folder, monkeypatch):
    server()
    hub.push(folder, "user/shapes")
    hub.pull("user/shapes")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert "SimREC" in repr(rec.from_pretrained("user/shapes", device="cpu"))
    with pytest.raises(HubError, match="failed"):
        rec.from_pretrained("user/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"offline.*no copy"):
        rec.from_pretrained("user/other")
    with pytest.raises(HubError, match=r"push to user/name .*offline \(HF_HUB_OFFLINE is set\)$"):
        hub.push(folder, "user/name")


def test_the_background_pusher_keeps_the_folder_as_it_was(server, folder):
    running, lines = server(fail_every=5), []
    pusher = Pusher("user/shapes", report=lines.append)
    first = (folder / "README.md").read_bytes()
    pusher.push(folder, "best")
    write_folder(folder, samples=123)  # replaced while the upload runs
    assert pusher.close() and any("pushed to" in line for line in lines)
    assert running.files("user/shapes")["README.md"] == first
    assert [path.name for path in folder.parent.iterdir()] == ["best"], "nothing set aside stays"


def test_a_newer_folder_supersedes_those_that_wait(server, folder, monkeypatch):
    running, lines, gate = server(), [], threading.Event()
    pusher = Pusher("user/shapes", report=lines.append)
    monkeypatch.setattr(hub, "push", lambda *a, real=hub.push, **k: (gate.wait(10), real(*a, **k))[1])
    for number in range(4):
        write_folder(folder, samples=number + 1)
        pusher.push(folder, f"save {number}")
        while number == 0 and pusher._waiting is not None:
            time.sleep(0.01)
    gate.set()
    assert pusher.close() and len(lines) == 2 and "save 3" in lines[-1]
    assert b"4 samples" in running.files("user/shapes")["README.md"]


def test_a_push_that_fails_never_raises_and_is_tried_again_at_the_end(server, folder):
    running, lines = server(fail_every=1), []
    pusher = Pusher("user/shapes", report=lines.append)
    pusher.push(folder, "best")
    deadline = time.monotonic() + 30
    while not lines and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "training goes on" in lines[0] and TOKEN not in lines[0]
    running.fail_every = 0
    assert pusher.close() and set(running.files("user/shapes")) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_a_hub_that_stays_away_leaves_a_line_and_no_litter(server, folder):
    server(fail_every=1)
    lines = []
    pusher = Pusher("user/shapes", report=lines.append)
    pusher.push(folder, "best")
    assert not pusher.close() and len(lines) == 2
    pusher = Pusher("user/shapes", report=lines.append)
    pusher.push(folder / "absent", "best")
    assert pusher.close() and "set aside" in lines[-1]
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_the_script_pushes_a_run_s_best_folder(server, folder, call_script):
    running = server()
    status, said, _ = call_script("push_to_hub", folder.parent, "user/shapes")
    assert status == 0 and "user/shapes" in said
    weights = running.files("user/shapes")["model.safetensors"]
    assert hashlib.sha256(weights).digest() == hashlib.sha256((folder / "model.safetensors").read_bytes()).digest()
