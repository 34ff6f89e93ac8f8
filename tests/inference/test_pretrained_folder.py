"""Model folders with a published text encoder (format 2): complete, offline, refused where they are not to be trusted."""

import json
import re
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from inference_toy import folder_config, mcn_node, model_node
from text_toy import config_of, multilingual_tokenizer, word_tokenizer

import rec
from rec import model_folder
from rec.config import LazyCall, instantiate
from rec.data.subwords import Subwords
from rec.inference import export
from rec.model_folder import hub
from rec.model_folder.format import FILES, ModelFolderError
from rec.models.pretrained_text import PretrainedText

FILES_1 = {"model.safetensors", "config.yaml", "vocab.json", "README.md", "digests.json"}
IMAGE = np.full((48, 64, 3), 90, np.uint8)


def encoder_node(kind="bert", **options):
    config = {
        key: value for key, value in config_of(kind).items() if not key.endswith(("bos_token_id", "eos_token_id"))
    }
    config.pop("type_vocab_size", None)
    return LazyCall(PretrainedText)(config=config, digest="0" * 32, hidden_size=16, **options)


def write(folder, node=None, words=None, **options):
    """A folder of a SimREC or MCN with a published encoder and random weights."""
    words = words or Subwords(word_tokenizer())
    node = node or model_node()
    node.language_encoder = encoder_node(**options)
    node.language_encoder.token_size = len(words)
    torch.manual_seed(0)
    weights = instantiate(node).state_dict()
    if "head.anchors.weight" in weights:
        weights["head.anchors.weight"] *= 10
    return model_folder.write(folder, weights, folder_config() | {"model": node}, words, {"val": {"Acc@0.5": 0.5}})


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "best", name="user/tiny-text")


@pytest.mark.parametrize(
    ("model", "kind"),
    [("simrec", "bert"), ("simrec", "roberta"), ("mcn", "clip_text_model"), ("simrec", "siglip2_text_model")],
)
def test_a_folder_answers_offline_as_it_did_when_it_was_written(model, kind, tmp_path, offline):
    words = Subwords(multilingual_tokenizer() if kind == "roberta" else word_tokenizer())
    node = model_node() if model == "simrec" else mcn_node()
    folder = write(tmp_path / "best", node, words, kind=kind, name="user/tiny-text")
    assert {path.name for path in folder.iterdir()} == {*FILES}
    grounder = rec.from_pretrained(folder)
    assert grounder.vocabulary == words and grounder.config["format"] == 2
    before = grounder(IMAGE, ["the giraffe on the left", "red circle"])
    again = model_folder.write(tmp_path / "again", grounder.model.state_dict(), grounder.config, grounder.vocabulary)
    shutil.rmtree(folder)
    assert [a.box for a in rec.from_pretrained(again)(IMAGE, ["the giraffe on the left", "red circle"])] == [
        b.box for b in before
    ]


def test_nothing_of_this_machine_is_in_a_folder(tmp_path):
    (tmp_path / "encoders" / "mine").mkdir(parents=True)
    folder = write(tmp_path / "best", name=str(tmp_path / "encoders" / "mine"), lora={"rank": 2})
    text = "".join(
        path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".yaml", ".json", ".md")
    )
    assert str(tmp_path) not in text and "name: mine" in text and "lora: null" in text
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["tokenizer"] == "file:tokenizer.json"


def test_the_card_names_the_encoder_and_the_hub_takes_every_file(folder, tmp_path, monkeypatch):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "of the kind `bert`, comes from `user/tiny-text`" in card and "subwords, their ends included." in card
    sent = []

    class Api:
        endpoint = "nowhere"
        create_repo = staticmethod(lambda *_, **__: "address")
        preupload_lfs_files = staticmethod(lambda *_, **__: None)
        create_commit = staticmethod(lambda _, files, **__: sent.extend(file.path_in_repo for file in files))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    hub.push(folder, "user/name")
    assert set(sent) == {*FILES}


def test_folders_without_a_published_encoder_stay_as_they_were(tmp_path):
    from inference_toy import write_folder

    folder = write_folder(tmp_path / "best")
    assert {path.name for path in folder.iterdir()} == FILES_1
    assert "format" not in (folder / "config.yaml").read_text(encoding="utf-8")


def test_a_newer_format_is_refused_by_its_number(folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("format: 2", "format: 3"), encoding="utf-8")
    with pytest.raises(ModelFolderError, match="of format 3, this version of rec reads up to 2: update rec"):
        model_folder.read(folder)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "evil"}}, "quantization_config"),
        ({"attn_implementation": "user/kernel"}, "attn_implementation"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "missing"),
        ({"vocab_size": 1_000_000, "hidden_size": 8192}, "of another shape"),
        ({"vocab_size": 10}, "the tokenizer has"),
    ],
)
def test_hostile_encoder_files_are_refused(folder, values, told):
    change(folder / "encoder.json", **values)
    with pytest.raises(ModelFolderError, match=told):
        model_folder.read(folder)


def test_a_tokenizer_of_more_pieces_than_the_encoder_knows_is_refused(folder):
    """Where the config does not say how many words the model was built for, too."""
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(re.sub(r"token_size: \d+", "token_size: null", config), encoding="utf-8")
    (folder / "digests.json").unlink()
    assert model_folder.read(folder)[1]["model"]["language_encoder"]["token_size"] == 25
    (folder / "tokenizer.json").write_text(word_tokenizer(words=[f"w{i}" for i in range(60)]), encoding="utf-8")
    with pytest.raises(ModelFolderError, match="the tokenizer has 67 ids, the encoder 60"):
        model_folder.read(folder)


def test_broken_links_and_missing_files_are_named(folder, tmp_path):
    for name in ("encoder.json", "tokenizer.json"):
        (folder / name).rename(tmp_path / name)
        with pytest.raises(ModelFolderError, match=f"has no {name}"):
            model_folder.read(folder)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(ModelFolderError, match=f"{name} is a link"):
            model_folder.read(folder)
        (folder / name).unlink()
        (folder / name).write_text("{" * 100, encoding="utf-8")
        with pytest.raises(ModelFolderError, match="JSON"):
            model_folder.read(folder)
        (folder / name).unlink()
        (tmp_path / name).rename(folder / name)


def test_what_no_subword_stands_for_is_told(folder):
    grounder = rec.from_pretrained(folder)
    assert grounder(IMAGE, "the giraffe").warning is None
    assert "unknown to the model: Zebra" in grounder(IMAGE, "the Zebra").warning
    assert "cut to the first 4 of 6 subwords" in grounder(IMAGE, "the big red dog on the").warning


class Pointer(torch.nn.Module):
    """Keeps the model contract with as little as that takes: three families answer together."""

    def __init__(self, words):
        super().__init__()
        nodes = (encoder_node(kind, layers=1) for kind in ("bert", "clip_text_model", "siglip_text_model"))
        self.encoders = torch.nn.ModuleList(instantiate(node, token_size=len(words)) for node in nodes)

    def forward(self, batch):
        answer = sum(encoder(batch["tokens"]) for encoder in self.encoders) * batch["image"].mean((1, 2, 3))[:, None]
        return {"box": answer[:, :4], "score": answer[:, 4]}


def test_an_exported_file_subtracts_and_masks_inside_and_brings_its_tokenizer(tmp_path):
    pytest.importorskip("onnxruntime")
    import tokenizers

    words = Subwords(word_tokenizer())
    model, config = Pointer(words).eval(), folder_config()
    export.export(model, config, words, tmp_path / "model.onnx")
    worst = export.compare(tmp_path / "model.onnx", model, config, samples=9)
    assert worst["box"] < 1e-4 and worst["score"] < 1e-4
    about = export.load(tmp_path / "model.onnx")[1]
    ids = tokenizers.Tokenizer.from_str(about["tokenizer_file"])
    ids.no_padding()
    ids.no_truncation()
    assert [number + 1 for number in ids.encode("the big dog").ids] == words.encode("the big dog", 5)
