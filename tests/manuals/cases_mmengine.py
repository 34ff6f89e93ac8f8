"""Behaviours of mmengine's Config, from its documentation and tests. Those with a second text are refused, with that word."""

import argparse
import copy
import pickle

import targets
from promises import book, raised

from rec.config import ConfigError, LazyConfig, apply_overrides, check, diff, instantiate, to_native
from rec.config.overrides import parse_config_arguments

behaviour = book("mmengine")
BASE = "item1 = dict(a=1, b=dict(c=2, d=[1, 2]))\nitem2 = [dict(type='Load'), dict(type='Crop')]\nitem3 = True\nitem4 = 'text'\n"
INHERITS = "_base_ = 'base.py'\n"


def child(place, text, **others):
    return place.load(INHERITS + text, base=BASE, **others)


def values(place, *overrides):
    return place.load(BASE, *overrides)


@behaviour("fromfile: attribute access")
def _(place):
    assert values(place).item1.b.c == 2


@behaviour("fromfile: item access")
def _(place):
    assert values(place)["item1"]["b"]["d"][1] == 2


@behaviour("fromfile: yaml")
def _(place):
    assert LazyConfig.load(place.file("a: {b: [1, x]}\n", "x.yaml")).a.b == [1, "x"]


@behaviour("fromfile: json", "JSON")
def _(place):
    assert ".yaml" in raised(ValueError, LazyConfig.load, place.file("{}", "x.json"))


@behaviour("fromfile: a file that is not there is a FileNotFoundError")
def _(place):
    assert "nope.py" in raised(FileNotFoundError, LazyConfig.load, place.folder / "nope.py")


@behaviour("fromfile: another suffix is refused")
def _(place):
    assert "a config is a .py" in raised(ValueError, LazyConfig.load, place.file("", "x.toml"))


@behaviour("fromfile: a syntax error names the file")
def _(place):
    assert "config.py:1" in raised(SyntaxError, place.load, "a = = 1\n")


@behaviour("scalars and lists of the file's top are kept")
def _(place):
    cfg = values(place)
    assert cfg.item3 is True and cfg.item4 == "text" and len(cfg.item2) == 2


@behaviour("modules, functions and classes of the file are not keys")
def _(place):
    assert list(place.load("import os\ndef f(): pass\nclass K: pass\na = 1\n")) == ["a"]


@behaviour("_base_: one file")
def _(place):
    assert to_native(child(place, "")) == to_native(values(place))


@behaviour("_base_: a list of files")
def _(place):
    cfg = place.load("_base_ = ['base.py', 'more.py']\n", base=BASE, more="item5 = dict(e=1)\n")
    assert cfg.item5.e == 1 and cfg.item1.a == 1


@behaviour("_base_: a key in two of them is an error")
def _(place):
    assert "duplicate key `item3`" in raised(
        KeyError, place.load, "_base_ = ['base.py', 'more.py']\n", base=BASE, more="item3 = 1\n"
    )


@behaviour("_base_: nested dicts are merged")
def _(place):
    assert to_native(child(place, "item1 = dict(b=dict(c=5))\n").item1) == {"a": 1, "b": {"c": 5, "d": [1, 2]}}


@behaviour("_base_: lists are replaced")
def _(place):
    assert child(place, "item2 = [3]\nitem1 = dict(b=dict(d=[9]))\n").item1.b.d == [9]


@behaviour("_base_: scalars are replaced")
def _(place):
    assert child(place, "item4 = 'other'\n").item4 == "other"


@behaviour("_base_: new top-level keys are added")
def _(place):
    assert child(place, "item9 = dict(x=1)\n").item9.x == 1


@behaviour("_base_: new keys of a group are added silently", "misspelt keys")
def _(place):
    assert "did you mean `item1.a`" in raised(KeyError, child, place, "item1 = dict(aa=1)\n")


@behaviour("_delete_: a group is replaced")
def _(place):
    assert to_native(child(place, "item1 = dict(_delete_=True, x=1)\n").item1) == {"x": 1}


@behaviour("_delete_: a group inside is replaced")
def _(place):
    assert to_native(child(place, "item1 = dict(b=dict(_delete_=True, x=1))\n").item1) == {"a": 1, "b": {"x": 1}}


@behaviour("_base_: a dict over a scalar is a TypeError that speaks of _delete_")
def _(place):
    assert "_delete_=True" in raised(TypeError, child, place, "item1 = dict(a=dict(x=1))\n")


@behaviour("{{_base_.item}}", "templates")
def _(place):
    assert 'write "${key}"' in raised(AttributeError, child, place, "item6 = {{_base_.item1}}\n")


@behaviour("{{fileBasename}}, {{fileDirname}}, {{fileExtname}}", "templates")
def _(place):
    assert "Path(__file__).stem" in raised(NameError, place.load, "a = {{fileBasename}}\n")
    assert "Path(__file__).stem" in check(place.load("a = dict(b='x/{{ fileBasenameNoExtension }}')\n"))[0]


@behaviour("{{$NAME:default}}", "templates")
def _(place):
    assert "os.environ" in check(place.load("a = dict(b='{{$HOME:x}}')\n"))[0]


@behaviour("merge_from_dict: dotted keys")
def _(place):
    assert values(place, "item1.b.c=7").item1.b.c == 7


@behaviour("merge_from_dict: an index into a list")
def _(place):
    assert values(place, "item2.1.type=Flip").item2[1].type == "Flip"


@behaviour("merge_from_dict: an index out of range is a KeyError")
def _(place):
    assert "item2[5]" in raised(KeyError, values, place, "item2.5.type=Flip")


@behaviour("DictAction: int, float, bool, None")
def _(place):
    cfg = values(place, "item1.a=3", "item1.b.c=1e-3", "item3=False", "item4=None")
    assert (cfg.item1.a, cfg.item1.b.c, cfg.item3, cfg.item4) == (3, 1e-3, False, None)


@behaviour("DictAction: k=1,2,3 is a list")
def _(place):
    assert values(place, "item1.b.d=1,2.5,x").item1.b.d == [1, 2.5, "x"]


@behaviour("DictAction: [a,b]")
def _(place):
    assert values(place, "item1.b.d=[a,b]").item1.b.d == ["a", "b"]


@behaviour("DictAction: (1,2) and nested tuples")
def _(place):
    assert to_native(values(place, "item1.a=[(train,1),(val,(2,3))]").item1.a) == [("train", 1), ("val", (2, 3))]


@behaviour("DictAction: only the first = separates")
def _(place):
    assert values(place, "item4=a=b").item4 == "a=b"


@behaviour("DictAction: --cfg-options before them")
def _(_):
    words = ["x.py", "--cfg-options", "a=1", "b.c=2"]
    assert parse_config_arguments(argparse.ArgumentParser(), words).overrides == ["a=1", "b.c=2"]


@behaviour("deepcopy")
def _(place):
    cfg = values(place)
    again = copy.deepcopy(cfg)
    again.item1.a = 9
    assert cfg.item1.a == 1


@behaviour("copy")
def _(place):
    assert copy.copy(values(place)) == values(place)


@behaviour("pickle")
def _(place):
    assert pickle.loads(pickle.dumps(values(place))) == values(place)


@behaviour("Config.diff")
def _(place):
    assert diff(values(place), values(place, "item1.a=2")) == ["~ item1.a: 1 → 2"]


@behaviour("pretty_text is Python")
def _(place):
    compile(LazyConfig.to_py(values(place)), "x", "exec")


@behaviour("dump, and load what was dumped")
def _(place):
    LazyConfig.save(values(place), place.folder / "x.yaml")
    assert LazyConfig.load(place.folder / "x.yaml") == values(place)


@behaviour("get with a default, in, len, iteration, keys, items")
def _(place):
    cfg = values(place)
    assert cfg.get("nope", 3) == 3 and "item1" in cfg and len(cfg) == 4
    assert list(cfg) == list(cfg.keys()) == [key for key, _ in cfg.items()]


@behaviour("a dict that is assigned is read by attribute")
def _(place):
    cfg = values(place)
    cfg.new = {"x": {"y": 1}}
    cfg["other"] = dict(z=2)
    assert cfg.new.x.y == 1 and cfg.other.z == 2


@behaviour("del, pop and pop with a default")
def _(place):
    cfg = values(place)
    del cfg.item3
    assert cfg.pop("item4") == "text" and cfg.pop("nope", 5) == 5 and list(cfg) == ["item1", "item2"]


@behaviour("update merges groups")
def _(place):
    cfg = place.load("from .base import item1\nitem1.update(dict(b=dict(c=8)))\nitem1.update(a=4)\n", base=BASE)
    assert to_native(cfg.item1) == {"a": 4, "b": {"c": 8, "d": [1, 2]}}


@behaviour("an attribute that is not there is an AttributeError")
def _(place):
    assert "nope" in raised(AttributeError, getattr, values(place).item1, "nope")


@behaviour("new style: with read_base(): from .x import *", "read_base")
def _(place):
    said = raised(
        ImportError,
        place.load,
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n",
        base=BASE,
    )
    assert "docs/coming_from.md" in said
    assert place.load("from .base import *\nitem1.a = 2\n", base=BASE).item1.a == 2


@behaviour("new style: classes and functions as values, built later")
def _(place):
    cfg = place.load(
        "from rec.config import LazyCall\nfrom targets import Optimizer\nx = dict(kind=Optimizer, part=LazyCall(Optimizer)(lr=3))\n"
    )
    assert cfg.x.kind is targets.Optimizer and instantiate(cfg.x.part).lr == 3


@behaviour("new style: a config is read where what it names is not installed")
def _(place):
    cfg = place.load("from rec.config import LazyCall\nx = LazyCall('not_installed.Thing')(a=1)\n")
    assert cfg.x.a == 1 and "No module named 'not_installed'" in raised(ConfigError, instantiate, cfg.x)
    assert apply_overrides(cfg, ["x.b=2"]).x.b == 2
