"""``.pth`` files of strangers: what runs code, asks for memory without end or for time is refused before it is loaded."""

import io
import pickle
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from rec.errors import UntrustedError
from rec.models.backbones import CspDarkNet, TimmBackbone
from rec.models.original_weights import read_state_dict
from rec.models.pth import load_pth


def archive(path, content, *, compress=zipfile.ZIP_STORED, extra=()):
    """A file laid out as torch.save lays it out, with ``content`` as its pickle."""
    with zipfile.ZipFile(path, "w", compress) as out:
        for name, data in (("x/data.pkl", content), ("x/version", b"3\n"), *extra):
            out.writestr(name, data)
    return path


def reduced(module, name, *arguments):
    """The pickle of a call ``module.name(*arguments)``, in the protocol of torch.save."""
    inner = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + inner + b"R."


def tuples(levels, fan):
    """A dict whose key is a tuple of tuples of tuples: few bytes, fan ** levels steps to hash."""
    value = (1,)
    for _ in range(levels):
        value = (value,) * fan
    return value


def nested_key(levels, fan):
    return b"\x80\x02}" + pickle.dumps(tuples(levels, fan), 2)[2:-1] + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        reduced("os", "system", "touch harmed"),
        reduced("builtins", "eval", "open('harmed', 'w')"),
        reduced("torch.hub", "os.system", "touch harmed"),
        reduced("builtins", "bytearray", 10**11),
        reduced("torch", "FloatTensor", 10**11),
        reduced("torch._utils", "_rebuild_wrapper_subclass"),
        nested_key(40, 2),
        nested_key(4, 1000),
        reduced("_codecs", "encode", "ü" * 200_000, "punycode"),
        b"\x80\x02",
        b"",
        b"\x80\x02" + b"(" * 1000 + b".",
        b"\x80\x02h\x05.",
    ],
    ids=[
        "os.system", "eval", "by another module", "bytearray", "FloatTensor", "wrapper", "deep key", "wide key",
        "codec",
    ]
    + ["cut", "empty", "marks", "memo"],
)  # fmt: skip
def test_a_hostile_pickle_is_refused_at_once(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "x.pth", content)
    started = time.perf_counter()
    with pytest.raises((ValueError, UntrustedError), match=r"x\.pth"):
        load_pth(path)
    assert time.perf_counter() - started < 10 and not (tmp_path / "harmed").exists()


def test_compressed_and_double_entries_are_refused(tmp_path):
    good = pickle.dumps({}, 2)
    with pytest.raises(UntrustedError, match="compressed"):
        load_pth(archive(tmp_path / "x.pth", good, compress=zipfile.ZIP_DEFLATED))
    with pytest.warns(UserWarning, match="Duplicate"), pytest.raises(UntrustedError, match="twice"):
        load_pth(archive(tmp_path / "x.pth", good, extra=[("x/data.pkl", b"other")]))
    with pytest.raises(UntrustedError, match=r"one data\.pkl"):
        load_pth(archive(tmp_path / "x.pth", good, extra=[("y/data.pkl", good)]))


def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "x.pth")
    with pytest.raises(UntrustedError, match="over fewer numbers"):
        load_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False])
def test_what_training_programs_save_is_read(new, tmp_path):
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(layer.parameters(), lr=float(np.float64(0.1)))
    layer(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": np.int64(3), "better": np.bool_(True), "lr": np.float64(0.1),
        "state_dict": layer.state_dict(), "optimizer": optimizer.state_dict(),
        "parameter": nn.Parameter(torch.ones(2)), "half": torch.ones(2, dtype=torch.float16), "betas": (0.9, 0.999),
        "names": OrderedDict(a=[1, "b", None, True]), "dtype": torch.float32, "shape": torch.Size([1, 2]),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    loaded = load_pth(tmp_path / "x.pth")
    assert loaded["names"] == content["names"] and loaded["lr"] == 0.1
    assert all(torch.equal(loaded["state_dict"][name], value) for name, value in layer.state_dict().items())


def test_the_old_format_is_walked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    place = data.index(b"\x80\x02}q\x00X\x01\x00\x00\x00a")  # the content behind magic number, version and system
    (tmp_path / "x.pth").write_bytes(data[:place] + reduced("builtins", "bytearray", 10**11) + data[place:])
    with pytest.raises(ValueError, match="holds Python objects"):
        load_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_torchs_own_reader_does_not_know_is_told_by_its_protocol(new, tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pth", pickle_protocol=4, _use_new_zipfile_serialization=new)
    with pytest.raises(UntrustedError, match=r"x\.pth is a pickle of protocol 4; read are .*save its tensors again"):
        load_pth(tmp_path / "x.pth")


def test_a_timm_backbones_pth_is_read_by_the_same_gate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "x.pth", reduced("os", "system", "touch harmed"))
    with pytest.raises(RuntimeError, match="holds Python objects"):
        TimmBackbone("resnet18", pretrained=True, pretrained_weight_path=str(tmp_path / "x.pth"))
    assert not (tmp_path / "harmed").exists()
    import timm

    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=0)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "good.pth")
    loaded = TimmBackbone("resnet18", pretrained=True, pretrained_weight_path=str(tmp_path / "good.pth"))
    weights = dict(loaded.named_parameters())
    assert any(torch.equal(value, source.conv1.weight) for value in weights.values())


def test_a_backbones_file_that_cannot_be_read_is_named_once(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"^\S+x\.pth is not a complete"):
        CspDarkNet(pretrained=True, pretrained_weight_path=str(tmp_path / "x.pth"), width=0.125, depth=0.33)


def test_weights_that_no_model_can_use_are_named(tmp_path):
    torch.save({5: torch.zeros(1), "a": torch.zeros(1)}, tmp_path / "x.pth")
    assert list(read_state_dict(tmp_path / "x.pth")) == ["a"]
