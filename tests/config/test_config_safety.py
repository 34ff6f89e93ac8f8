"""Hostile files: each has a canary, a file that exists only if something of it ran."""

import pickle
import sys

import pytest
from omegaconf import DictConfig

from rec.config import ConfigError, LazyCall, LazyConfig, check, instantiate, safe_load_yaml

ALLOWED = {"config_targets.Part", "config_targets.keep"}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    path = tmp_path / "canary"
    (tmp_path / "hostile_import.py").write_text(f"open({str(path)!r}, 'w')\ndef f(**kwargs): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("hostile_import", None)
    yield path
    assert not path.exists()


@pytest.fixture
def hostile(tmp_path):
    def write(text):
        (tmp_path / "hostile.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "hostile.yaml"

    return write


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {}']", "!!python/object/new:os.system ['touch {}']",
        "!!python/object:config_targets.Part {{}}", "!!python/name:os.system ''", "!!python/module:os ''",
        "!!python/complex 1j", "!!python/tuple x", "!!python/object/apply:eval [\"open('{}', 'w')\"]", "!!map x",
        "!!seq x", "!local x", "!local [1]", "!local {{a: 1}}",
    ],
)  # fmt: skip
def test_yaml_tags_run_nothing(hostile, canary, value):
    path = hostile(f"a: 1\nb:\n  c: {value.format(canary)}\n")
    for load in (safe_load_yaml, LazyConfig.load):
        with pytest.raises(ConfigError, match=r"hostile\.yaml:3: cannot be read as a safe config"):
            load(path)


TARGETS = [
    ("os.system", "command: touch {canary}"),
    ("posix.system", "command: touch {canary}"),
    ("subprocess.check_output", "args: [touch, '{canary}']"),
    ("builtins.eval", "source: \"open('{canary}', 'w')\""),
    ("builtins.exec", "source: \"open('{canary}', 'w')\""),
    ("builtins.open", "file: '{canary}', mode: w"),
    ("pathlib.Path.touch", "self: '{canary}'"),
    ("torch.hub.os.system", "command: touch {canary}"),
    ("torch.load", "f: '{pickle}', weights_only: false"),
    ("torch.utils.collect_env.run", "command: touch {canary}"),
    ("numpy.load", "file: '{pickle}', allow_pickle: true"),
    ("pickle.load", "file: '{pickle}'"),
    ("rec.config.call.importlib.import_module", "name: hostile_import"),
    ("rec.config.call.locate", "name: hostile_import.f"),
    ("rec.config.instantiate", "cfg: {{_target_: hostile_import.f}}"),
    ("rec.config.LazyConfig.load", "path: x.py"),
    ("config_targets.Part.__init__.__globals__", ""),
    ("config_targets.Part ", ""),
    ("config_targets.part", ""),
    ("hostile_import.f", ""),
    ("hostile_import.f.x", ""),
    ("", ""),
]


@pytest.mark.parametrize(("target", "arguments"), TARGETS)
@pytest.mark.parametrize(
    "place",
    [
        "x: {}",
        "x: {{_target_: config_targets.Part, value: {}}}",
        "x: {{_target_: config_targets.Part, value: [[{{a: {}}}]]}}",
        "x: {{_target_: config_targets.Part, value: {{_tuple_: [{}]}}}}",
        "x: {{_target_: {}}}",
    ],
)
def test_only_listed_names_are_built_and_nothing_else_is_imported(hostile, canary, tmp_path, target, arguments, place):
    class Bomb:
        def __reduce__(self):
            return open, (str(canary), "w")

    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    arguments = arguments.format(canary=canary, pickle=tmp_path / "bomb.pkl")
    call = f"{{_target_: '{target}', {arguments}}}" if arguments else f"{{_target_: '{target}'}}"
    path = hostile(place.format(call) + "\n")
    modules = set(sys.modules)
    for config in (LazyConfig.load(path).x, DictConfig(safe_load_yaml(path)).x, safe_load_yaml(path)["x"]):
        with pytest.raises(ConfigError, match="not on the list for configs from elsewhere") as caught:
            instantiate(config, ALLOWED)
        assert isinstance(caught.value, PermissionError) and str(caught.value).startswith("cfg")
    assert not {m for m in set(sys.modules) - modules if m.startswith(("hostile", "torch", "numpy"))}


@pytest.mark.parametrize(
    "text",
    [
        "x: {_target_: config_targets.keep, f: {_object_: os.system}}",
        "x: {_object_: os.system}",
        "x: {_target_: '${y}'}\ny: os.system",
        "x: {_target_: config_targets.keep, a: '${z}'}\nz: {_target_: os.system, command: 'true'}",
        "x: {_target_: {_target_: config_targets.Part}, number: 1}",
        "x: {_target_: 5}",
        "x: {_target_: null}",
        "x: {_target_: [config_targets.Part]}",
        "x: {_target_: config_targets.Part, _partial_: true, value: {_target_: os.getcwd, _partial_: true}}",
    ],
)
def test_no_detour_leads_around_the_list(hostile, canary, text):
    with pytest.raises(ConfigError, match="not on the list"):
        instantiate(LazyConfig.load(hostile(text)).x, _allowed_=ALLOWED)


def test_not_recursive_hands_hostile_calls_over_unbuilt(hostile, canary):
    path = hostile("x: {_target_: config_targets.keep, _recursive_: false, a: {_target_: hostile_import.f}}")
    built = instantiate(LazyConfig.load(path).x, ALLOWED)
    assert built["a"]["_target_"] == "hostile_import.f"


def test_listed_names_are_built(hostile):
    path = hostile("x: {_target_: config_targets.Part, value: {_target_: config_targets.keep, a: 1}}")
    assert instantiate(LazyConfig.load(path).x, ALLOWED).value == {"a": 1}


def test_live_callables_are_held_to_the_list_too():
    with pytest.raises(ConfigError, match=r"os\.getcwd|posix\.getcwd"):
        import os

        instantiate(LazyCall(os.getcwd)(), ALLOWED)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
@pytest.mark.parametrize("depth", [65, 100_000])
def test_deep_nesting_is_refused(hostile, opening, depth):
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]
    with pytest.raises(ConfigError, match=r"hostile\.yaml:\d+: a config has at most 64 levels"):
        safe_load_yaml(hostile("a: " * (opening != "- ") + opening * depth + "1" + closing * depth))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: &a {x: 1}\nb:\n  <<: *a\n",
    ],
)
def test_aliases_are_refused(hostile, text):
    with pytest.raises(ConfigError, match=r"hostile\.yaml:\d: a config has .* no aliases"):
        safe_load_yaml(hostile(text))


def test_an_alias_bomb_takes_no_time_and_memory(hostile):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="no aliases"):
        LazyConfig.load(hostile("\n".join(lines)))


def test_a_huge_file_is_refused_unparsed(hostile):
    with pytest.raises(ConfigError, match="the limit for the config is 1,048,576"):
        safe_load_yaml(hostile("a: " + "x" * (1 << 20)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"hostile\.yaml:3: duplicate key `a`, first set at .*hostile\.yaml:1"),
        ("x:\n  a: 1\n  a: 2\n", r"hostile\.yaml:3: duplicate key `x\.a`"),
        ("- 1\n", "a config is a mapping of names, this file holds a list"),
        ("text\n", "this file holds a str"),
        ("a: [1\nb: 2\n", r"hostile\.yaml:2: cannot be read as a safe config"),
        ("a: *nothing\n", r"hostile\.yaml:1: "),
        ("? [1, 2]\n: x\n", "cannot be read as a safe config"),
        ("a: 1\n---\nb: 2\n", "cannot be read as a safe config"),
        ("\tx: 1\n", r"hostile\.yaml:1: "),
        ("a: \x07\n", "cannot be read as a safe config"),
    ],
)
def test_unusable_yaml_is_refused_with_file_and_line(hostile, text, message):
    with pytest.raises(ConfigError, match=message):
        safe_load_yaml(hostile(text))


def test_yaml_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read as a safe config"):
        safe_load_yaml(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml"):
        safe_load_yaml(tmp_path / "b.yaml")


def test_yaml_numbers_are_what_they_look_like(hostile):
    text = "a: 1e-4\nb: 1.5\nc: '1e-4'\nd: 2020-01-01\ne: .inf\nf: 1_000\ng: 1.2.3\nh: 1e\n"
    text += "i: {_tuple_: [1, {_tuple_: []}]}\n"
    numbers = {"a": 1e-4, "b": 1.5, "e": float("inf"), "f": 1000, "i": (1, ())}
    assert safe_load_yaml(hostile(text)) == numbers | {"c": "1e-4", "d": "2020-01-01", "g": "1.2.3", "h": "1e"}


def test_what_other_tools_call_plain_values_is_read(hostile):
    text = "a: !!python/tuple [1, !!python/tuple [x]]\nb: !!python/unicode 'y'\nc: !!python/long 3\nd: !!python/none null\n"
    text += "e: !!python/list [!!python/bool true, !!python/float 1.5]\nf: !!python/dict {g: !!python/str '1'}\n"
    read = {"a": (1, ("x",)), "b": "y", "c": 3, "d": None, "e": [True, 1.5], "f": {"g": "1"}}
    assert safe_load_yaml(hostile(text)) == read


def test_an_empty_yaml_is_an_empty_config(hostile):
    assert safe_load_yaml(hostile("# nothing\n")) == {}


def test_a_problem_in_a_yaml_config_has_its_line(hostile):
    config = LazyConfig.load(hostile("a: 1\nmodel:\n  _target_: config_targets.Part\n  value: 1\n  nam: 2\n"))
    (problem,) = check(config)
    assert problem.startswith("cfg.model → config_targets.Part: unexpected argument 'nam'")
    assert problem.endswith("hostile.yaml:5]")


def test_extra_keys_named_like_python_internals_do_nothing(hostile, canary):
    path = hostile("x: {_target_: config_targets.keep, __class__: a, __init__: b, __builtins__: {}}\n")
    assert instantiate(LazyConfig.load(path).x, ALLOWED) == {"__class__": "a", "__init__": "b", "__builtins__": {}}
