"""Strangers' model folders: each of these tries something, and a canary shows that nothing ran.

The canary is threefold: a file that the attack would make, a module that it would import, and Python's own audit events
(processes, sockets, unpickling, dynamic loading, files opened outside the folder).
"""

import importlib
import importlib.util
import inspect
import json
import os
import pickle
import pkgutil
import resource
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from inference_toy import VOCABULARY, folder_config, model_node, new_model, write_folder
from safetensors.torch import load_file, save_file

import rec.models
from rec import model_folder
from rec.config import LazyCall, LazyConfig, instantiate, to_native
from rec.config.call import object_name
from rec.inference.export import ExportError, export
from rec.model_folder.allowed import ALLOWED_TARGETS
from rec.model_folder.format import ModelFolderError
from rec.models.backbones import Backbone, SmallResNet
from rec.models.language_encoders import LanguageEncoder
from rec.trust import unlisted

ROOT = Path(__file__).parents[2]

WATCHED = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "urllib.Request"),
    *("pickle.find_class", "ctypes.dlopen", "marshal.loads", "os.mkdir", "os.remove", "shutil.copyfile"),
}
seen, watching = [], []


def _audit(event, arguments):
    if watching and (event in WATCHED or (event == "open" and "secret" in str(arguments[0]))):
        seen.append((event, arguments))


sys.addaudithook(_audit)


class Loot:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['REC_CANARY']}",)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A good folder; and the models package fully imported, so that imports of our own do not look like an attack."""
    folder = write_folder(tmp_path_factory.mktemp("original") / "best")
    model_folder.read(folder)
    importlib.import_module("timm")
    return folder


@pytest.fixture
def place(original, tmp_path, monkeypatch):
    """A copy of the good folder to spoil, beside a secret file and a module that must not be imported."""
    monkeypatch.setenv("REC_CANARY", str(tmp_path / "canary"))
    folder = tmp_path / "outer" / "best"
    folder.mkdir(parents=True)
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "digests.json").unlink()  # a stranger's would be right
    save_file(new_model().state_dict(), tmp_path / "secret.safetensors")
    (tmp_path / "secret.pth").write_bytes(pickle.dumps(Loot()))
    package = tmp_path / "canary_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\ndef load(**_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def touch(folder):
    return f"touch {folder.parents[1] / 'canary'}"


def secret(folder, ending="pth"):
    return str(folder.parents[1] / f"secret.{ending}")


def change(folder, function):
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump(function(config) or config), encoding="utf-8")


def root(target, **arguments):
    """An attack that replaces the whole model by a call."""

    def attack(folder):
        given = {k: v(folder) if callable(v) else v for k, v in arguments.items()}
        change(folder, lambda config: config.update(model={"_target_": target, **given}))

    return attack


def edit(function):
    return lambda folder: change(folder, function)


def text(name, content):
    def attack(folder):
        data = content(folder) if callable(content) else content
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return attack


def link(name, to="/etc/passwd"):
    def attack(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(to if to.startswith("/") else secret(folder, to))

    return attack


def weights(function):
    def attack(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(function(tensors), folder / "model.safetensors")

    return attack


def vocabulary(**changes):
    def attack(folder):
        content = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        (folder / "vocab.json").write_text(json.dumps(content | changes), encoding="utf-8")

    return attack


def header(function):
    """Rewrites the safetensors header (8 bytes of length, then JSON), leaving the data as they are."""

    def attack(folder):
        data = (folder / "model.safetensors").read_bytes()
        size = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + size])
        changed = json.dumps(function(entries) or entries).encode()
        (folder / "model.safetensors").write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + size :])

    return attack


def set_encoder(**changes):
    return edit(lambda config: config["model"]["language_encoder"].update(changes))


def in_head(value):
    return edit(lambda config: config["model"]["head"].update(act=value))


def timm_model(name):
    return {"_target_": "rec.models.backbones.TimmBackbone", "model_name": name, "pretrained": True}


def small_resnet(**arguments):
    return {"_target_": "rec.models.backbones.SmallResNet", **arguments}


def fifo(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def folder_for_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def pickles_only(folder):
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pth", "model.pkl", "model.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Loot()))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
SYSTEM = {"_target_": "os.system", "command": "touch canary"}

HOSTILE = {
    # code named outright, and reached through modules that are innocent themselves
    "os.system": root("os.system", command=touch),
    "module attribute: torch.hub.os.system": root("torch.hub.os.system", command=touch),
    "module attribute of our own package": root("rec.models.original_weights.torch.hub.os.system", command=touch),
    "an allowed class by another way": root("rec.models.simrec.nn.Identity"),
    "subprocess.Popen": root("subprocess.Popen", args=lambda f: ["touch", str(f.parents[1] / "canary")]),
    "builtins.eval": root("builtins.eval", source="__import__('os').system('touch canary')"),
    "import of a package beside the folder": root("canary_package.load"),
    "our own locate": root("rec.config.locate", name="os.system"),
    "our own instantiate": root("rec.config.instantiate", cfg=SYSTEM),
    "our own backbone loader": root("rec.models.original_weights.load_backbone", path=secret),
    # loaders that unpickle, fetch or import
    "torch.load": root("torch.load", f=secret, weights_only=False),
    "numpy.load": root("numpy.load", file=secret, allow_pickle=True),
    "spacy.load": root("spacy.load", name="canary_package"),
    "timm.create_model": root("timm.create_model", model_name="hf_hub:stranger/model"),
    "a timm model from a hub": edit(lambda c: c["model"].update(visual_backbone=timm_model("hf-hub:stranger/model"))),
    "a timm model from a folder": edit(lambda c: c["model"].update(visual_backbone=timm_model("local-dir:/secret"))),
    "a timm model that only begins well": edit(
        lambda c: c["model"].update(visual_backbone=timm_model("resnet18.hf-hub:stranger/model"))
    ),
    # the same, hidden deeper
    "a call as an argument": in_head(SYSTEM),
    "a call in a list": edit(lambda config: config["model"]["fusion_manner"]["modules"].append(SYSTEM)),
    "a call as the target of a call": root({"_target_": "functools.partial", "func": SYSTEM}),
    "a partial call": root("os.system", _partial_=True, command=touch),
    "an object by name": in_head({"_object_": "os.system"}),
    "a name with a blank at its end": root("rec.models.SimREC "),
    "a name in other letters": root("rec.models.\u0405imREC"),
    "a private name": root("rec.models.SimREC.__init__.__globals__"),
    # YAML
    "YAML python tag": text("config.yaml", "model: !!python/object/apply:os.system ['touch canary']\n"),
    "YAML python name": text("config.yaml", "model: {_target_: !!python/name:os.system }\n"),
    "YAML bomb": text("config.yaml", BOMB),
    "YAML nested deeply": text("config.yaml", "model: " + "[" * 5000),
    "YAML of megabytes": text("config.yaml", "model: '" + "x" * (2 << 20) + "'"),
    "YAML that is not text": text("config.yaml", b"\xff\xfe\x00model"),
    # names of files, links and kinds of files
    "weights are a link": link("model.safetensors", "safetensors"),
    "config is a link": link("config.yaml"),
    "vocabulary is a link": link("vocab.json"),
    "a link into a folder that looks like a hub cache": link("model.safetensors", "/etc/blobs/x"),
    "weights are a pipe": fifo,
    "weights are a folder": folder_for_file,
    "pickles in place of safetensors": pickles_only,
    "a pickle under the name of safetensors": text("model.safetensors", lambda f: pickle.dumps(Loot())),
    # sizes
    "an embedding of 10^12 rows": set_encoder(token_size=10**12),
    "an embedding of 10^30 rows": set_encoder(token_size=10**30),
    "10^9 layers": set_encoder(depth=10**9),
    "a backbone 10^6 deep": edit(lambda config: config["model"]["visual_backbone"].update(depth=1e6)),
    "a backbone 10^5 wide": edit(lambda config: config["model"]["visual_backbone"].update(width=1e5)),
    "an input of 10^6 pixels a side": edit(lambda config: config["preprocess"].update(input_shape=[10**6, 10**6])),
    "10^9 words a phrase": edit(lambda config: config["preprocess"].update(max_token_length=10**9)),
    "a header that declares terabytes": header(lambda h: h["head.box.bias"].update(shape=[10**12])),
    "a header whose data lie beyond the file": header(lambda h: h["head.box.bias"].update(data_offsets=[0, 10**13])),
    "a header longer than the file": text("model.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
    "a header that is not JSON": text("model.safetensors", (4).to_bytes(8, "little") + b"\x00\x01\x02\x03"),
    "a header of 5 MB": text("model.safetensors", (5 << 20).to_bytes(8, "little") + b" " * (5 << 20)),
    "30,000 tensors of nothing": header(
        lambda h: h | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}
    ),
    "10,000 words a phrase": edit(lambda config: config["preprocess"].update(max_token_length=10_000)),
    "an attention of many heads": edit(
        lambda c: (
            c["model"]["language_encoder"].update(num_heads=16),
            c["preprocess"].update(max_token_length=512, mean=[1e39] * 3),
        )
    ),
    "a config of 240,000 numbers": text("config.yaml", "model: {channels: [" + "1," * 240_000 + "1]}"),
    "channels as a list of 15,000": edit(
        lambda c: c["model"].update(visual_backbone=small_resnet(channels=[8] * 15_000))
    ),
    "a number of 5,000 digits": text("config.yaml", "model: {_target_: rec.models.SimREC, x: " + "9" * 5000 + "}"),
    "a vocabulary of 300,000 empty lists": text(
        "vocab.json", '{"tokenizer": "simrec", "words": [' + ",".join(["[]"] * 300_000) + "]}"
    ),
    "an empty weights file": text("model.safetensors", b""),
    "vocabulary of nested lists": text("vocab.json", "[" * 100_000),
    # values
    "NaN weights": weights(lambda t: t | {"head.box.bias": torch.full((4,), float("nan"))}),
    "infinite weights": weights(lambda t: t | {"head.box.bias": torch.full((4,), float("inf"))}),
    "float64 weights that are infinite as float32": weights(
        lambda t: t | {"head.box.bias": torch.full((4,), 1e300, dtype=torch.float64)}
    ),
    "a negative variance": weights(lambda t: t | {"head.stem.norm.running_var": torch.full((16,), -1.0)}),
    "finite weights whose answer is not": weights(lambda t: {k: v * 1e20 if "conv" in k else v for k, v in t.items()}),
    "complex weights": weights(lambda t: t | {"head.box.bias": torch.zeros(4, dtype=torch.complex64)}),
    "weights that are true or false": weights(lambda t: t | {"head.box.bias": torch.zeros(4, dtype=torch.bool)}),
    "weights of no elements": weights(lambda t: t | {"head.box.bias": torch.zeros(0)}),
    "a mean beyond float32": edit(lambda config: config["preprocess"].update(mean=[1e39, 0, 0])),
    "an input that the strides do not divide": edit(lambda c: c["preprocess"].update(input_shape=[65, 65])),
    "sources that are a number": edit(lambda config: config["about"].update(sources=5)),
    "an origin of mappings": edit(lambda config: config.update(about={"dataset": {"a": "b"}})),
    "an origin that is a list": edit(lambda config: config.update(about=["scenes"])),
    "weights of another kind": weights(lambda t: t | {"head.box.bias": torch.zeros(4, dtype=torch.int64)}),
    "a standard deviation of zero": edit(lambda config: config["preprocess"].update(std=[0, 1, 1])),
    "a mean that is not a number": edit(lambda config: config["preprocess"].update(mean=[float("nan"), 0, 0])),
    # the tokenizer's name
    "tokenizer is a package": vocabulary(tokenizer="spacy:canary_package"),
    "tokenizer is a path": vocabulary(tokenizer="spacy:../../canary_package"),
    "tokenizer is an object": vocabulary(tokenizer={"_target_": "os.system"}),
    "words are objects": vocabulary(words=[{"_target_": "os.system"}]),
    "no model": text("config.yaml", "preprocess: {}\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_and_nothing_runs(name, place, tmp_path, monkeypatch):
    HOSTILE[name](place)
    monkeypatch.chdir(tmp_path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    seen.clear()
    watching.append(True)
    try:
        with pytest.raises(ModelFolderError) as refused:
            model_folder.read(place)
    finally:
        watching.clear()
    assert not seen and not (tmp_path / "canary").exists() and "canary_package" not in sys.modules
    assert time.perf_counter() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "kilobytes"
    assert str(place) in str(refused.value) or "config" in str(refused.value)


def test_a_small_file_that_asks_for_large_maps_is_refused(tmp_path):
    """Its weights have a few megabytes; the maps of the first layer would have 177 million numbers."""
    node = model_node()
    node.visual_backbone = LazyCall(SmallResNet)(channels=[4096, 16, 32, 64, 128], out_strides=[8, 16, 32])
    config = folder_config() | {"model": node}
    config["preprocess"]["input_shape"] = [416, 416]
    folder = model_folder.write(tmp_path / "best", instantiate(node).state_dict(), config, VOCABULARY)
    assert (folder / "model.safetensors").stat().st_size < 10 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelFolderError, match=r"takes maps of 2e\+08 numbers.*limits.*trust_config=True"):
        model_folder.read(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "kilobytes"
    assert model_folder.read(folder, trust_config=True)[0].levels == {"head": 2}


def test_a_config_edited_by_hand_is_told_what_is_wrong_and_trust_only_where_it_helps(place):
    edit(lambda config: config["preprocess"].__delitem__("max_token_length"))(place)
    with pytest.raises(ModelFolderError, match=r"no preprocess\.max_token_length"):
        rec.from_pretrained(place)
    model, config, words = model_folder.read(place)
    with pytest.raises(ExportError, match=r"no preprocess\.max_token_length"):
        export(model, config, words, place / "model.onnx")
    edit(lambda config: config["model"]["head"].update(nope=1))(place)
    with pytest.raises(ModelFolderError, match="unexpected argument 'nope'") as refused:
        model_folder.read(place)
    assert "trust_config" not in str(refused.value)
    in_head(SYSTEM)(place)
    with pytest.raises(ModelFolderError, match=r"os\.system is not on the list.*trust_config=True"):
        model_folder.read(place)


HARMLESS = {
    "pretrained with a path to a pickle": edit(
        lambda config: config["model"]["visual_backbone"].update(
            pretrained=True, pretrained_weight_path="../../secret.pth"
        )
    ),
    "a shard index that points outside": text(
        "model.safetensors.index.json", '{"weight_map": {"a": "../../secret.pth"}}'
    ),
    "code beside the weights": text("modeling.py", "raise SystemExit"),
    "an address of other files in the config": edit(
        lambda c: c.update(weights="../../secret.safetensors", code="x.py")
    ),
    "pickles beside the weights": text("optimizer.bin", lambda folder: pickle.dumps(Loot())),
    "terminal codes in the origin": edit(lambda config: config["about"].update(sources=["\x1b]0;owned\x07"])),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_needed_is_not_touched(name, place, tmp_path, monkeypatch):
    HARMLESS[name](place)
    monkeypatch.chdir(tmp_path)
    seen.clear()
    watching.append(True)
    try:
        _, config, _ = model_folder.read(place)
    finally:
        watching.clear()
    assert not seen and not (tmp_path / "canary").exists()
    assert model_folder.describe_origin(config).isprintable()


def test_the_canary_would_have_sung(place, tmp_path):
    """The same attack with trust: proves that the canary is alive and that trust_config is what protects."""
    HOSTILE["os.system"](place)
    seen.clear()
    watching.append(True)
    try:
        with pytest.raises(ModelFolderError, match="int, no"):
            model_folder.read(place, trust_config=True)
    finally:
        watching.clear()
    assert (tmp_path / "canary").exists() and "os.system" in [event for event, _ in seen]


def test_links_inside_a_hub_cache_are_followed(place, tmp_path):
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in place.iterdir():
        (blobs / f"sha-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/sha-{path.name}")
    model_folder.read(snapshot)
    (snapshot / "config.yaml").unlink()
    (snapshot / "config.yaml").symlink_to(tmp_path / "secret.pth")
    with pytest.raises(ModelFolderError, match="link"):
        model_folder.read(snapshot)


def test_a_model_folder_whose_name_is_not_utf_8_is_not_called_damaged(place):
    elsewhere = place.with_name(os.fsdecode(b"m\xff"))
    place.rename(elsewhere)
    with pytest.raises(ModelFolderError, match="opens no file whose name is not UTF-8") as refused:
        model_folder.read(elsewhere)
    assert "complete" not in str(refused.value)


def test_links_to_files_deeper_in_the_folder_are_followed(place):
    (place / "large").mkdir()
    (place / "model.safetensors").rename(place / "large" / "x.safetensors")
    (place / "model.safetensors").symlink_to("large/x.safetensors")
    model_folder.read(place)


def test_every_allowed_name_is_a_module_class():
    for name in ALLOWED_TARGETS:
        module, _, tail = name.rpartition(".")
        found = getattr(importlib.import_module(module), tail)
        assert inspect.isclass(found) and issubclass(found, torch.nn.Module), name


def test_every_model_the_project_can_build_is_allowed():
    for path in sorted((ROOT / "configs").glob("*.py")):
        cfg = LazyConfig.load(str(path))
        assert not unlisted(to_native(cfg.get("model", {})), ALLOWED_TARGETS), path.name
    for info in pkgutil.walk_packages(rec.models.__path__, "rec.models."):
        if info.name == "rec.models.fused_norm" and importlib.util.find_spec("triton") is None:
            continue  # kernels for GPUs, where torch brings it
        for found in vars(importlib.import_module(info.name)).values():
            concrete = inspect.isclass(found) and found not in (Backbone, LanguageEncoder) and found.__name__[0] != "_"
            if concrete and issubclass(found, Backbone | LanguageEncoder):
                assert object_name(found) in ALLOWED_TARGETS, f"add {object_name(found)} to rec/model_folder/allowed.py"


@pytest.mark.parametrize(
    "name", ["posix.system", "os.system", "builtins.eval", "torch.nn.ReLU.forward", "torch.nn.relu", ""]
)
def test_no_name_is_let_through_but_those_of_the_list(name):
    nested = {"a": [{"_target_": "torch.nn.ReLU", "x": {"_object_": name}}]}
    assert unlisted(nested, frozenset({"torch.nn.ReLU"})) == [name]
