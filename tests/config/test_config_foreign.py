"""Interpolations of a stranger's config: paths into the config, nothing else, within limits; and how large a config may be."""

import os
import time

import pytest

from rec.config import ConfigError, LazyConfig, safe_load_yaml, to_native, without_interpolations
from rec.errors import UntrustedError


@pytest.fixture
def loaded(tmp_path):
    def load(text):
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        return LazyConfig.load(tmp_path / "x.yaml")

    return load


def test_paths_are_followed_as_omegaconf_follows_them(loaded):
    cfg = loaded("""
        a: {b: 1, c: "${.b}", d: [7, "${.0}", "${..b}"], e: {f: "${..b}-${a.b}", g: {_tuple_: ["${a.d[0]}"]}}}
        whole: "${a}"
        list: ["${whole.e.f}", "x${a.b}"]
    """)
    resolved = without_interpolations(cfg)
    assert to_native(resolved, resolve=False) == to_native(cfg)
    assert to_native(resolved).get("list") == ["1-1", "x1"] and "${" not in str(resolved)


def test_what_follows_nothing_is_the_config_itself(loaded):
    cfg = loaded("a: {b: $1, c: '{x}'}\n")
    assert without_interpolations(cfg) is cfg


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: ${oc.env:HOME}", "not a path into the config"),
        ("a: ${oc.env:HOME,x}", "not a path"),
        ("a: {b: '${oc.decode:${.c}}', c: 1}", "not a path"),
        ("a: '{oc.env:HOME}'\nb: '$${a}'", "not a path"),  # put together from innocent parts
        ("a: b\nb: '${${a}}'", "not a path"),
        ("a: '\\${b}'\nb: 1", "not a path"),
        ("a: ${nowhere}", "leads nowhere"),
        ("a: ${b.c}\nb: 1", "leads nowhere"),
        ("a: ${....b}\nb: 1", "out of the config"),
        ("a: ${b}\nb: ${a}", "circle"),
        ("a: {b: '${a}'}", "circle"),
        ("a: x${b}\nb: {c: 1}", "is a group"),
    ],
)
def test_anything_else_is_refused(loaded, text, said, monkeypatch):
    monkeypatch.setenv("HOME", "/the-secret")
    with pytest.raises(UntrustedError, match=said) as refused:
        without_interpolations(loaded(text))
    assert "the-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "a0: xxxxxxxxxx\n" + "".join(f"a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 60)),
        "a0: [x, x]\n" + "".join(f"a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}']\n" for i in range(1, 60)),
        "a: {" + ", ".join(f"k{i}: x" for i in range(2000)) + "}\n" + "".join(f"b{i}: ${{a}}\n" for i in range(2000)),
        "".join(f"a{i}: ${{a{i + 1}}}\n" for i in range(5000)) + "a5000: 1\n",
    ],
    ids=["text", "lists", "one group many times", "a chain"],
)
def test_a_bomb_of_interpolations_is_refused_at_once(loaded, text):
    started = time.perf_counter()
    with pytest.raises(UntrustedError, match=r"interpolations make more|a circle"):
        without_interpolations(loaded(text))
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        f"channels: [{', '.join(['1'] * 240_000)}]\n",
        "a:\n" + "- {}\n" * 30_000,
        "".join(f"k{i}: {i}\n" for i in range(15_000)),
    ],
    ids=["numbers", "groups", "keys"],
)
def test_a_config_of_too_many_values_is_refused_before_it_is_built(loaded, text):
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="20,000 keys and values"):
        loaded(text)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("number", ["1" * 5000, "0x" + "f" * 900_000, ":".join(["59"] * 300_000), "1." + "0" * 900_000])
def test_a_number_of_a_megabyte_is_refused_at_once(tmp_path, number):
    (tmp_path / "x.yaml").write_text(f"a: {number}\n", encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        safe_load_yaml(tmp_path / "x.yaml")
    assert time.perf_counter() - started < 5


def test_a_config_that_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, kind in (("pipe", "a FIFO"), ("folder", "a folder")):
        with pytest.raises(ConfigError, match=kind):
            safe_load_yaml(tmp_path / f"{name}.yaml")
