"""The command line: the grammar of overrides, and that a misspelt key is an error."""

import argparse
import math
import os
import shlex

import pytest
from config_targets import Head, Part, Shape
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from rec.config import (
    ConfigError,
    LazyCall,
    apply_overrides,
    instantiate,
    parse_config_arguments,
    shell_override,
    to_native,
)
from rec.config.nodes import expand_home
from rec.config.overrides import parse_value


def config():
    return DictConfig(
        {
            "train": {"batch_size": 8, "epochs": 25, "lr": 0.1, "ema": {"enabled": True, "alpha": 0.5}, "name": "x"},
            "model": LazyCall(Part)(value=LazyCall(Head)(in_channels=1)),
            "named": LazyCall("config_targets.Part")(value=1),
            "pipeline": [{"type": "Load", "args": [1, 2]}, {"type": "Crop"}],
            "pair": (1, {"a": (2, [3])}),
            "paths": {"refcoco+": "a", "x.y": "b", 3: "c"},
            "ref": "${train.epochs}",
        },
        flags={"allow_objects": True},
    )


def after(*overrides):
    return to_native(apply_overrides(config(), overrides), resolve=False)


VALUES = {
    "1": 1, "-3": -3, "+3": 3, "1_000": 1000, "0": 0, "007": "007", "1e-4": 1e-4, "1.5": 1.5, ".5": 0.5, "1.": 1.0,
    "-1E3": -1000.0, "inf": math.inf, "-inf": -math.inf, "None": None, "null": None, "True": True, "true": True,
    "False": False, "false": False, "yes": "yes", "abc": "abc", "a b": "a b", "": "", "a=b": "a=b", "==": "==",
    "1_": "1_", "1__0": "1__0", "1_.5": "1_.5",
    "x==1,y=2": "x==1,y=2", "http://h:8/p?q=1&r=2": "http://h:8/p?q=1&r=2", "./a/b.pth": "./a/b.pth",
    "'1'": "1", '"1"': "1", '"p=q"': "p=q", "'it\\'s'": "it's", "\"a 'b' c\"": "a 'b' c", "'[1]'": "[1]",
    "${train.lr}": "${train.lr}", "[]": [], "()": (), "{}": {}, "[1,2]": [1, 2], "(1,2)": (1, 2), "(1,)": (1,),
    "(1)": 1,
    "[ a , 'b c' , None , 1e-4 , true ]": ["a", "b c", None, 1e-4, True], "[1,2,]": [1, 2], "[-1, .5]": [-1, 0.5],
    "[(train,1),(val,1)]": [("train", 1), ("val", 1)], "[[224,224],[256,256]]": [[224, 224], [256, 256]],
    "{a: 1, 'b c': [x], d: {e: (1, 2)}}": {"a": 1, "b c": ["x"], "d": {"e": (1, 2)}}, "{a:1}": {"a": 1},
    "{1: a}": {1: "a"},
    "[${train.lr}, ${oc.env:A}]": ["${train.lr}", "${oc.env:A}"], "[a-b, a.b, a b]": ["a-b", "a.b", "a b"],
}  # fmt: skip
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(("text", "value"), VALUES.items(), ids=repr)
def test_values(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "[1,2", "(1", "{a: 1", "'abc", '"abc', "[1]x", "'a'b", "'a' 'b'", "{a, b}", "[{a}]", "[a: b]", "{a}", "[a'b]",
        "[1]]",
    ],
)  # fmt: skip
def test_unfinished_values_are_errors_that_say_what_to_do(text):
    with pytest.raises(ConfigError, match="put quotes around all of it"):
        parse_value(text)


@given(LITERALS)
def test_any_python_literal_is_read_as_itself(value):
    assert repr(parse_value(repr(value))) == repr(value)


@given(st.text())
def test_any_text_gives_a_value_or_a_config_error(text):
    try:
        parse_value(text)
    except ConfigError:
        assert text.strip()[0] in "[({'\""


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.batch_size=16", ("train", "batch_size"), 16),
        ("train.name=a=b=c", ("train", "name"), "a=b=c"),
        ("train['epochs']=3", ("train", "epochs"), 3),
        ("pipeline.0.type=X", ("pipeline", 0, "type"), "X"),
        ("pipeline[0].type=X", ("pipeline", 0, "type"), "X"),
        ("pipeline.1=null", ("pipeline", 1), None),
        ("pipeline[0].args[1]=5", ("pipeline", 0, "args"), [1, 5]),
        ("pair.0=7", ("pair",), (7, {"a": (2, [3])})),
        ("pair[1].a[1][0]=7", ("pair",), (1, {"a": (2, [7])})),
        ("pair.1.a.0=7", ("pair",), (1, {"a": (7, [3])})),
        ("pair=[1,2]", ("pair",), [1, 2]),
        ("pair=5", ("pair",), 5),
        ("pair=5,", ("pair",), (5,)),
        ("pair={a: (1, 2)}", ("pair",), {"a": (1, 2)}),
        ("paths.refcoco+=z", ("paths", "refcoco+"), "z"),
        ('paths["x.y"]=z', ("paths", "x.y"), "z"),
        ("paths.3=z", ("paths", 3), "z"),
        ("model.value.in_channels=4", ("model", "value", "in_channels"), 4),
        ("model.value.act=relu", ("model", "value", "act"), "relu"),
        ("model.value.strides=(8,16)", ("model", "value", "strides"), (8, 16)),
        ("named.name=y", ("named", "name"), "y"),
        ("ref=4", ("ref",), 4),
        ("ref=${train.lr}", ("ref",), "${train.lr}"),
        ("train.ema={enabled: false}", ("train", "ema"), {"enabled": False, "alpha": 0.5}),
        ("train.ema={_delete_: true, x: 1}", ("train", "ema"), {"x": 1}),
        ("train={ema: {_delete_: true, x: {y: 1}}}", ("train", "ema"), {"x": {"y": 1}}),
        ("train.ema=null", ("train", "ema"), None),
        ("+train.new=1", ("train", "new"), 1),
        ("+a.b.c=[1]", ("a", "b", "c"), [1]),
        ("+train.ema={new: 1}", ("train", "ema"), {"enabled": True, "alpha": 0.5, "new": 1}),
        ("+train.epochs=1", ("train", "epochs"), 1),
        ("model={_delete_: true, _target_: config_targets.Head, in_channels: 3}", ("model",),
         {"_target_": "config_targets.Head", "in_channels": 3}),
    ],
)  # fmt: skip
def test_overrides_set_values(override, path, value):
    found = after(override)
    for key in path:
        found = found[key]
    assert found == value and type(found) is type(value)


def test_fields_of_a_dataclass_are_set_by_their_type():
    cfg = DictConfig({"shape": None}, flags={"allow_objects": True})
    cfg.shape = Shape(width=3)
    apply_overrides(cfg, ["shape.width=7", "shape={channels: 2}"])
    assert instantiate(cfg)["shape"] == Shape(channels=2, width=7)
    with pytest.raises(ConfigError, match=r"override `shape\.width=abc`: Value 'abc' of type 'str'"):
        apply_overrides(cfg, ["shape.width=abc"])


def test_overrides_delete():
    found = after("~train.ema", "~pipeline.0", "~named", "~pair[1].a", "~model.value")
    assert "ema" not in found["train"] and "named" not in found
    assert found["pipeline"] == [{"type": "Crop"}]
    assert found["pair"] == (1, {})
    assert found["model"] == {"_target_": "config_targets.Part"}


def test_overrides_apply_in_order_and_return_the_config():
    cfg = config()
    assert apply_overrides(cfg, ["+a={b: 1}", "a.b=2", "+a.c=3", "~a.b"]) is cfg
    assert cfg.a == {"c": 3}


def test_the_result_of_an_override_is_built(form):
    cfg = apply_overrides(
        config(), ["model.value.strides=(1,2)", "+model.value={act: {_target_: config_targets.Part}}"]
    )
    head = instantiate(form(cfg)).get("model").value
    assert head.strides == (1, 2) and isinstance(head.act, Part)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.batchsize=4", r"`train\.batchsize`: there is no such key; did you mean `train\.batch_size`"),
        ("batch_size=4", r"did you mean `train\.batch_size`"),
        ("trian.epochs=4", r"did you mean `train\.epochs`"),
        ("train.ema.enable=4", r"did you mean `train\.ema\.enabled`"),
        ("train.ema={enable: 1}", r"`train\.ema\.enable`: there is no such key; did you mean `train\.ema\.enabled`"),
        (
            "model.value.stride=4",
            r"config_targets\.Head: unexpected argument 'stride'; it takes .*did you mean `strides`",
        ),
        (
            "pipeline.2.type=4",
            r"`pipeline\[2\]\.type`: there is no such key.*to change the length of `pipeline`, write all of it",
        ),
        (
            "+pipeline.2=4",
            r"`pipeline\[2\]`: there is no such key.*to change the length of `pipeline`, write all of it",
        ),
        ("~train.nothing", r"`train\.nothing`: there is no such key.*nothing is deleted"),
        ("pipeline.first=4", r"`pipeline\.first`"),
        ("pair.5=4", r"`pair\[5\]`"),
        ("~train.emaa", r"did you mean `train\.ema`"),
        ("train.lr.x=4", r"`train\.lr` is 0\.1, which has no `x`"),
        ("+train.lr.x=4", r"`train\.lr` is 0\.1, which has no `x`"),
        ("train.train_epoch=4", r"`train\.train_epoch` is LiBai's name: use train\.epochs"),
        ("train.dist.tensor_parallel_size=2", r"no tensor or pipeline parallel, because"),
        ("zzzzzz=1", r"to add it: \+zzzzzz=\.\.\."),
        ("pipeline.²=1", r"`pipeline\.²`: there is no such key"),
    ],
)
def test_unknown_keys_are_key_errors_with_the_nearest_names(override, text):
    with pytest.raises(KeyError, match=text) as caught:
        after(override)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    "override",
    ["train.epochs", "=3", "~train.epochs=3", "--train.epochs=3", "a..b=1", "a[=1", "+", "~", "", ".a=1", "a[]=1"],
)
def test_malformed_overrides_say_how_to_write_them(override):
    with pytest.raises(ConfigError, match=r"is not an override: write key=value, \+key=value to add or ~key to delete"):
        after(override)


@pytest.mark.parametrize("text", ["{mine: 1, mine: 2}", "{mine: 1, 'mine': 2}", "[{a: {b: 1, c: 2, b: 3}}]"])
def test_a_key_that_is_written_twice_is_refused(text):
    with pytest.raises(ConfigError, match=r"override `train\.lr=.*has a key twice: write each once"):
        after(f"train.lr={text}")


def test_a_bad_value_names_the_override():
    with pytest.raises(ConfigError, match=r"override `train\.epochs=\[1`: `\[1` is not a value"):
        after("train.epochs=[1")
    with pytest.raises(ConfigError, match=r"override `train\.name=\$\{a`"):
        after("train.name=${a")


def test_a_target_given_by_name_is_not_imported_by_an_override(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass K: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = DictConfig({"x": LazyCall("hostile_module.K")(a=1)}, flags={"allow_objects": True})
    apply_overrides(cfg, ["x.a=2", "x.b=3", "~x.a"])
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["c.py", "a.b=1", "~d", "+e=2"],
        ["c.py", "--cfg-options", "a.b=1", "~d", "+e=2"],
        ["--check", "c.py", "--cfg-options", "a.b=1", "~d", "+e=2"],
        ["c.py", "a.b=1", "--check", "~d", "+e=2"],
    ],
)
def test_command_lines_of_scripts(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    args = parse_config_arguments(parser, words)
    assert (args.config, args.overrides, args.check) == ("c.py", ["a.b=1", "~d", "+e=2"], "--check" in words)


def test_a_command_without_a_config_misses_that_alone(capsys):
    with pytest.raises(SystemExit):
        parse_config_arguments(argparse.ArgumentParser(), [])
    assert capsys.readouterr().err.endswith("required: config\n")


@settings(max_examples=40)
@given(st.text(alphabet=st.characters(exclude_characters="$\0")))
def test_a_printed_override_survives_the_shell_and_the_grammar(text):
    for value in (text, {text or "empty": text}, 3, 0.5, None, True):
        words = shlex.split(shell_override("+paths.new", value))
        assert after(*words)["paths"]["new"] == value
    assert after(*shlex.split(shell_override("paths", {"x.y": text})))["paths"]["x.y"] == text


def test_paths_print_as_they_are_where_they_may():
    assert shell_override("a.b", "./data/x-1.json") == "a.b=./data/x-1.json"
    assert shell_override("a.b", "my [1] data/x") == "a.b='my [1] data/x'"
    assert shell_override("a.b", {"refcoco+": "/d/x"}) == "a.b='{refcoco+: /d/x}'"
    assert shell_override("a.b", {"my data": "d 1"}) == """a.b='{"my data": "d 1"}'"""


def test_the_home_folder_is_meant_by_its_sign_in_every_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = apply_overrides(
        config(),
        ["train.name=~/run", "+paths.deep={path: '~/a b'}", "+list=['~/x', '~', a~/b, '~you', './~', './~/x']"],
    )
    cfg = to_native(expand_home(cfg), resolve=False)
    assert cfg["train"]["name"] == "/home/me/run" and cfg["paths"]["deep"]["path"] == "/home/me/a b"
    folder = [
        os.path.abspath("./~"),
        os.path.abspath("./~/x"),
    ]  # whole: what Path leaves of ./~ would be the home folder
    assert cfg["list"] == ["/home/me/x", "/home/me", "a~/b", "~you", *folder] and cfg["ref"] == "${train.epochs}"
