"""A new run from weights: a file, a folder or a checkpoint, of any model; words by name, what fits by shape."""

import sys
from pathlib import Path

import pytest
import torch
from checkpoint_toy import Run, zeros
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from text_toy import word_tokenizer

import rec
from rec.config import LazyConfig, instantiate
from rec.data.subwords import Subwords
from rec.data.text import Vocabulary
from rec.errors import CheckpointError, InputError, RecError
from rec.model_folder.find import find_trained
from rec.training import build
from rec.training.weights import EMBEDDING, find_weights, load_matching

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = ["PAD", "UNK", "CLS"]


def small(name: str, words: int, seed: int) -> nn.Module:
    cfg = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    cfg.model.language_encoder.token_size = words
    torch.manual_seed(seed)
    return instantiate(cfg.model)


@pytest.mark.parametrize("name", ["simrec_small_scenes_quickstart", "mcn_small_scenes"])
def test_a_safetensors_file_alone_starts_a_run_of_any_model(tmp_path, name):
    old, new = small(name, 12, seed=0), small(name, 12, seed=1)
    save_file({key: value.clone() for key, value in old.state_dict().items()}, tmp_path / "weights.safetensors")
    report = load_matching(new, find_weights(str(tmp_path / "weights.safetensors")), [*WORDS, *"abcdefghi"])
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in new.state_dict().items())
    total = len(new.state_dict())
    assert report.startswith(f"{total} of {total} tensors from {tmp_path / 'weights.safetensors'}")
    assert "no vocab.json beside it, so its word vectors are taken id by id" in report
    assert "vocab.json" not in load_matching(new, tmp_path / "weights.safetensors", None), "a model without words"


def test_weights_of_a_model_of_another_width_fit_by_nothing_but_their_counters_and_are_refused(tmp_path):
    old, new = (nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width)) for width in (8, 4))
    save_file(old.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"none of the 7 tensors .* fits this model"):
        load_matching(new, tmp_path / "weights.safetensors", None)


def test_word_vectors_go_by_their_words_where_a_vocabulary_is_beside_the_file(tmp_path):
    name = "mcn_small_scenes"
    old, new = small(name, 6, seed=0), small(name, 7, seed=1)
    initial = new.state_dict()[EMBEDDING].clone()
    save_file({key: value.clone() for key, value in old.state_dict().items()}, tmp_path / "weights.safetensors")
    Vocabulary([*WORDS, "red", "left", "dog"]).save(tmp_path / "vocab.json")
    report = load_matching(new, tmp_path / "weights.safetensors", [*WORDS, "dog", "blue", "red", "cat"])
    now, then = new.state_dict()[EMBEDDING], old.state_dict()[EMBEDDING]
    assert torch.equal(now[[0, 1, 2, 3, 5]], then[[0, 1, 2, 5, 3]]) and torch.equal(now[[4, 6]], initial[[4, 6]])
    assert "5 of 7 words are known to it" in report
    Vocabulary([*WORDS, "red"]).save(tmp_path / "vocab.json")  # of other weights: it has another number of words
    new = small(name, 6, seed=1)
    initial = new.state_dict()[EMBEDDING].clone()
    assert f"initial: {EMBEDDING}" in load_matching(
        new, tmp_path / "weights.safetensors", [*WORDS, "red", "left", "dog"]
    )
    assert torch.equal(new.state_dict()[EMBEDDING], initial)


def test_whole_numbers_of_a_quantised_file_are_no_word_vectors(tmp_path):
    new = small("mcn_small_scenes", 6, seed=1)
    quantised = {name: value.to(torch.int8) for name, value in new.state_dict().items() if value.is_floating_point()}
    save_file(quantised, tmp_path / "weights.safetensors")
    Vocabulary([*WORDS, "red", "left", "dog"]).save(tmp_path / "vocab.json")
    with pytest.raises(CheckpointError, match="none of the"):
        load_matching(new, tmp_path / "weights.safetensors", [*WORDS, "red", "left", "dog"])


def test_word_vectors_of_subwords_go_by_their_pieces(tmp_path):
    pytest.importorskip("tokenizers")
    words = Subwords(word_tokenizer())
    old, new = small("mcn_small_scenes", len(words), seed=0), small("mcn_small_scenes", len(words), seed=1)
    save_file({key: value.clone() for key, value in old.state_dict().items()}, tmp_path / "weights.safetensors")
    words.save(tmp_path / "vocab.json")
    turned = [*words.words[:5], *reversed(words.words[5:])]
    assert f"{len(words)} of {len(words)} words are known" in load_matching(
        new, tmp_path / "weights.safetensors", turned
    )
    now, then = new.state_dict()[EMBEDDING], old.state_dict()[EMBEDDING]
    assert torch.equal(now[:5], then[:5]) and torch.equal(now[5:], then[5:].flip(0))


def test_a_damaged_checkpoint_starts_no_run(tmp_path):
    run = Run(tmp_path / "run", width=16)
    run.step()
    folder = run.save()
    other = Run(tmp_path / "other", seed=1, width=16)
    assert "ema.safetensors" in load_matching(other.model, find_weights(str(folder)), None)
    assert torch.equal(other.model[0].weight, run.ema.shadow["0.weight"])
    zeros(folder / "ema.safetensors")
    with pytest.raises(CheckpointError, match="its content has changed since it was saved"):
        load_matching(other.model, folder, None)


@pytest.mark.parametrize(
    "name", ["simrec.pth", "x.pt", "last.ckpt", "pytorch_model.bin", "weights/yolov3.weights", "a.PTH"]
)
@pytest.mark.parametrize("read", [find_weights, find_trained, rec.from_pretrained])
def test_weights_of_other_formats_name_the_script_that_converts_them(tmp_path, monkeypatch, read, name):
    monkeypatch.chdir(tmp_path)
    for there in (False, True):
        if there:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"\x80\x02")
        with pytest.raises(RecError, match="`rec convert FILE --out"):
            read(name)
    with pytest.raises(CheckpointError, match=r"train.resume_path: .*`rec convert`"):
        Run(tmp_path / "run").restore(resume_path=name)


def test_a_file_of_weights_is_no_model_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=f"there is no file {file}"):
        find_weights(str(file))
    with pytest.raises(RecError, match="is not there; expected a model folder"):
        rec.from_pretrained(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(RecError, match=r"is one file; expected a model folder.*train.load_weight"):
        rec.from_pretrained(file)
    with pytest.raises(CheckpointError, match="of a run, name its best/"):
        load_matching(nn.Linear(1, 1), tmp_path.parent, None)


def test_a_run_does_not_write_over_the_weights_it_starts_from(tmp_path, monkeypatch):
    config = str(CONFIGS / "simrec_small_scenes_quickstart.py")
    best = tmp_path / "run" / "best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    for weights in (best, best / "model.safetensors", "~/link/best"):
        for key in ("load_weight", "vl_pretrain_weight"):
            with pytest.raises(InputError, match="which is read"):
                build.read_training_config(config, [f"train.{key}={weights}", f"train.output_dir={tmp_path}/run"])
    cfg = build.read_training_config(config, [f"train.load_weight={best}", "train.output_dir=~/new run"])
    assert cfg.train.output_dir == str(tmp_path / "new run")
