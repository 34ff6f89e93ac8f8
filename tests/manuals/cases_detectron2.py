"""detectron2's page on lazy configs, and the behaviours of its own tests and of LiBai's copies of them."""

import warnings

import targets
from omegaconf import DictConfig
from promises import book, raised

from rec.config import LazyCall as L
from rec.config import LazyConfig, get_config, instantiate, to_native

promise = book("detectron2")
NESTED = "from rec.config import LazyCall as L\nfrom targets import Trainer, Optimizer\n"
NESTED += 'cfg = L(Trainer)(optimizer=L(Optimizer)(lr=0.01, algo="SGD"))\n'
TREE = {"_target_": "targets.Trainer", "optimizer": {"_target_": "targets.Optimizer", "lr": 0.01, "algo": "SGD"}}


@promise("A Python config file can be loaded like this: cfg = LazyConfig.load(...); assert cfg.a.z.xx == 1")
def a_file_is_loaded(place):
    cfg = place.load("a = dict(x=1, y=2, z=dict(xx=1))\nb = dict(x=3, y=4)\n")
    assert cfg.a.z.xx == 1 and isinstance(cfg, DictConfig)


@promise("`cfg` will be a dictionary that contains all dictionaries defined in the global scope of the config file")
def all_dictionaries_are_in_it(place):
    assert list(place.load("a = dict(x=1)\n_b = dict(x=2)\ndef f(): pass\nc = {'y': 2}\n")) == ["a", "c"]


@promise("Easily manipulate the dictionary (addition & deletion) using Python.")
def dictionaries_are_manipulated(place):
    text = "a = dict(x=1, y=2)\na['z'] = 3\ndel a['x']\n"
    assert to_native(place.load(text).a) == {"y": 2, "z": 3}


@promise("Write simple arithmetics or call simple functions.")
def arithmetics(place):
    assert place.load("import math\na = dict(x=2 ** 3, y=math.floor(2.5), z=max(1, 7))\n").a.z == 7


@promise("Use more data types / objects.")
def objects_are_values(place):
    cfg = place.load("from targets import Optimizer\na = dict(kind=Optimizer, f=len, pair=(1, (2,)))\n")
    assert cfg.a.kind is targets.Optimizer and cfg.a.f is len and to_native(cfg.a.pair) == (1, (2,))


@promise("Import / compose other config files, using the familiar Python import syntax.")
def files_are_composed(place):
    text = "from .common.train import train\ntrain.lr = 2\n"
    assert place.load(text, common__train="train = dict(lr=1, n=3)\n").train == {"lr": 2, "n": 3}


@promise("This enables access to omegaconf features, such as its access syntax")
def access_syntax(place):
    cfg = place.load("a = dict(x=1, l=[dict(k=5)])\n")
    assert cfg.a.x == cfg["a"]["x"] == 1 and cfg.a.l[0].k == 5 and cfg.a.get("nope", 7) == 7


@promise("and interpolation")
def interpolation(place):
    cfg = place.load('a = dict(x=1, y="${.x}")\nb = dict(z="${a.x}")\n')
    cfg.a.x = 4
    assert (cfg.a.y, cfg.b.z) == (4, 4)


@promise("Absolute imports in `config.py` works the same as in regular Python.")
def absolute_imports(place):
    assert (
        place.load("from os.path import join\nimport json as j\na = dict(x=join('u', 'v'), y=j.dumps([1]))\n").a.y
        == "[1]"
    )


@promise("Relative imports can only import dictionaries from config files. ... syntax sugar for LazyConfig.load_rel")
def load_rel_is_a_relative_import(place):
    text = "from rec.config import LazyConfig\nx = LazyConfig.load_rel('dir/other.py', 'd')\nfrom .dir.other import d as y\n"
    cfg = place.load(text, dir__other="d = dict(k=1)\n")
    assert cfg.x == cfg.y == {"k": 1}


@promise("They can load Python files at relative path without requiring `__init__.py`.")
def no_init_is_needed(place):
    text = "from .deep.down.other import d\nfrom .deep.up import u\n"
    assert place.load(text, deep__down__other="from ..up import u as d\n", deep__up="u = dict(k=1)\n").d.k == 1


@promise("LazyConfig.save can save a config object to yaml.")
def a_config_is_saved(place):
    cfg = place.load(NESTED)
    LazyConfig.save(cfg, place.folder / "x.yaml")
    assert to_native(LazyConfig.load(place.folder / "x.yaml").cfg) == TREE


@promise(
    "Note that this is not always successful if non-serializable objects appear in the config file (e.g. lambdas)."
)
def lambdas_are_named(place):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        LazyConfig.save(place.load("a = dict(f=lambda x: x)\n"), place.folder / "x.yaml")
    assert "cannot rebuild a.f" in str(said[0].message)


@promise('A "_target_" key which contains path to the callable; LazyCall helps create such dictionaries')
def a_call_is_a_dictionary(place):
    assert to_native(place.load(NESTED).cfg) == TREE


@promise("trainer = instantiate(cfg)  # equivalent to: Trainer(optimizer=Optimizer(lr=0.01, algo='SGD'))")
def a_call_is_made(place):
    trainer = instantiate(place.load(NESTED).cfg)
    assert isinstance(trainer, targets.Trainer) and (trainer.optimizer.lr, trainer.optimizer.algo) == (0.01, "SGD")


@promise("Arguments themselves can be defined using recursive instantiation.")
def arguments_are_built(place):
    text = NESTED + "deep = L(Trainer)(parts=[L(Trainer)(x=(L(Optimizer)(),))])\n"
    assert instantiate(place.load(text).deep).more["parts"][0].more["x"][0].algo == "SGD"


@promise("After installing detectron2, they can be loaded by the model zoo API model_zoo.get_config")
def shipped_configs_are_found(_):
    assert get_config("common/train.py").train.epochs == 25


@promise('a better way to view the structure of a config: print(LazyConfig.to_py(get_config("...")))')
def a_config_is_shown_as_python(_):
    assert "cfg.train.batch_size = 8\n" in LazyConfig.to_py(get_config("common/train.py"))


@promise("`cfg.model` defines a model object and `cfg.train` contains training options in key-value form")
def model_and_train(place):
    cfg = place.run("")
    assert cfg.model._target_ and cfg.train.batch_size


@promise(
    "`cfg.dataloader.{train,test}` defines dataloader objects; `dataloader.train.total_batch_size`, `optimizer.lr`",
    "dataloader",
)
def our_names_are_told(place):
    said = place.refused(
        "dataloader = dict(train=dict(total_batch_size=8))\noptimizer = dict(lr=1)\nlr_multiplier = dict()"
    )
    assert (
        "use dataset, train.batch_size and train.data" in said and "use optim" in said and "use train.scheduler" in said
    )


@promise("It also shows how to support command line value overrides.")
def overrides(place):
    cfg = place.load("a = dict(x=1, b=[dict(k=2)])\n", "a.x=7", "a.b.0.k='v w'")
    assert (cfg.a.x, cfg.a.b[0].k) == (7, "v w")


@promise("objects to be constructed ... can even live in other libraries: torch.nn.Conv2d defines a conv layer")
def other_libraries(_):
    layer = instantiate({"_target_": "torch.nn.Conv2d", "in_channels": 10, "out_channels": 10, "kernel_size": 1})
    assert layer.weight.shape == (10, 10, 1, 1)


@promise("Clarity of what function/classes will be called, and what arguments they use.")
def unknown_arguments_are_told(_):
    assert "it takes lr, algo; did you mean `algo`" in raised(TypeError, instantiate, L(targets.Optimizer)(allgo=3))


@promise("`cfg` doesn't need pre-defined keys and structures.")
def any_keys(place):
    assert place.load("anything = dict(at=dict(all=1))\n").anything.at.all == 1


@promise("You can still pass huge dictionaries as arguments, just like the old way.")
def dictionaries_as_arguments(_):
    built = instantiate(L(targets.Trainer)(solver={"steps": [1, 2], "warmup": {"a": (1,)}}))
    assert built.more["solver"] == {"steps": [1, 2], "warmup": {"a": (1,)}} and type(built.more["solver"]) is dict


@promise("Recursive instantiation and Python syntax are orthogonal: you can use one without the other.")
def yaml_alone(place):
    path = place.file("cfg: {_target_: targets.Optimizer, lr: 1e-3}\n", "x.yaml")
    assert instantiate(LazyConfig.load(path).cfg).lr == 1e-3


@promise(
    "config files ... can be easily manipulated further by composition or overrides; executed later when `instantiate` is called"
)
def nothing_is_built_before(place):
    cfg = place.load(
        "from rec.config import LazyCall\nx = LazyCall('targets.WarmupCosineLR')(optimizer=1, max_iter=2)\n",
        "x.alpha=3",
    )
    assert cfg.x.alpha == 3 and "never built" in raised(AssertionError, instantiate, cfg.x)


# The 17 tests of detectron2's own suite, in its order.
tested = book("detectron2's tests")
DIR1 = {"dir1__a": "dir1a_str = 'base_a_1'\ndir1a_dict = dict(a=1, b=2)\n"}
DIR1 |= {"dir1__b": "from .a import dir1a_dict, dir1a_str\ndir1a_dict.a = 'modified'\ndir1b_str = 'base_b_1'\n"}
ROOT_FILE = """
from itertools import count
from rec.config import LazyCall as L
from .dir1.a import dir1a_dict, dir1a_str
dir1a_dict.a = "modified"
from .dir1.b import dir1a_dict as again
lazyobj = L(count)(x=dir1a_str, y=again)
"""


@tested("test_load")
def values_are_imported_and_isolated(place):
    cfg = place.load(ROOT_FILE, **DIR1)
    assert cfg.dir1a_dict.a == "modified" and cfg.lazyobj.x == "base_a_1"
    cfg.lazyobj.x = "new"
    assert place.load(ROOT_FILE).lazyobj.x == "base_a_1"


@tested("test_save_load")
def callables_become_names(place):
    cfg = place.load(ROOT_FILE, **DIR1)
    LazyConfig.save(cfg, place.folder / "s.yaml")
    again = LazyConfig.load(place.folder / "s.yaml")
    assert again.lazyobj._target_ == "itertools.count" and again.dir1a_dict == cfg.dir1a_dict


@tested("test_failed_save: also writes a .pkl", "pickles")
def no_pickle_is_written(place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LazyConfig.save(DictConfig({"x": lambda: 3}, flags={"allow_objects": True}), place.folder / "s.yaml")
    assert (place.folder / "s.yaml").exists() and not (place.folder / "s.yaml.pkl").exists()


@tested("test_overrides")
def overrides_are_typed(place):
    cfg = place.load(ROOT_FILE, "lazyobj.x=123", "dir1a_dict.b='123'", **DIR1)
    assert (cfg.lazyobj.x, cfg.dir1a_dict.b) == (123, "123")


@tested("test_invalid_overrides")
def a_scalar_has_no_keys(place):
    cfg = place.load(ROOT_FILE, **DIR1)
    assert "has no `xxx`" in raised(KeyError, LazyConfig.apply_overrides, cfg, ["lazyobj.x.xxx=123"])


@tested("test_to_py")
def to_py_is_python(place):
    text = LazyConfig.to_py(
        place.load("from rec.config import LazyCall\nx = LazyCall('a.B')(d=dict(x=dict(y='1')), f=[1.0])\n")
    )
    assert text == 'cfg.x = a.B(d={"x": {"y": "1"}}, f=[1.0])\n'


@tested("test_bad_import")
def a_folder_is_no_config(place):
    assert "relative import" in raised(ImportError, place.load, "from . import dir1\n")


@tested("test_bad_import2")
def a_missing_file_is_told(place):
    assert "not exist" in raised(ImportError, place.load, "from .does_not_exist import x\n")


@tested("test_load_rel")
def load_rel(place):
    text = "from rec.config import LazyConfig\nx = LazyConfig.load_rel('dir1/a.py')\n"
    assert "dir1a_dict" in place.load(text, **DIR1).x


def _both_forms(place, node):
    LazyConfig.save(DictConfig({"x": node}, flags={"allow_objects": True}), place.folder / "n.yaml")
    return node, LazyConfig.load(place.folder / "n.yaml").x


@tested("test_basic_construct")
def nested_with_interpolation(place):
    node = L(targets.Trainer)(int_arg=5, list_arg=[10], optimizer=L(targets.Optimizer)(lr="${..int_arg}", algo="a"))
    for cfg in _both_forms(place, node):
        built = instantiate(cfg)
        assert built.optimizer.lr == 5 and built.more["list_arg"] == [10] and type(built.more["list_arg"]) is list


@tested("test_instantiate_other_obj")
def other_objects_are_returned(_):
    for value in (5, [3, 4, 5], {"x": "y"}, object()):
        assert instantiate(value) is value


@tested("test_instantiate_lazy_target")
def a_call_as_target(_):
    built, given = instantiate(L(L(targets.Trainer)(a=3))(x=L(targets.Optimizer)(lr=1)))
    assert built.more == {"a": 3} and given.lr == 1


@tested("test_instantiate_list")
def lists_are_built(place):
    for cfg in _both_forms(place, L(targets.Trainer)(x=[1, 2, L(targets.Optimizer)(lr=2)])):
        assert instantiate(cfg).more["x"][2].lr == 2


@tested("test_instantiate_dataclass")
def a_dataclass_as_target(place):
    for cfg in _both_forms(place, L(targets.Spec)(channels=1)):
        cfg.height = 7
        assert instantiate(cfg) == targets.Spec(1, 7)


@tested("test_instantiate_dataclass_as_subconfig")
def a_dataclass_as_value(place):
    for cfg in _both_forms(place, L(targets.Trainer)(spec=targets.Spec(1, 3))):
        assert instantiate(cfg).more["spec"] == targets.Spec(1, 3)


@tested("test_bad_lazycall")
def a_number_is_no_target(_):
    assert "LazyCall needs" in raised(TypeError, L, 3)


@tested("test_interpolation")
def interpolation_survives_saving(place):
    node = DictConfig({"a": 3, "b": "${a}"})
    LazyConfig.save(node, place.folder / "i.yaml")
    again = LazyConfig.load(place.folder / "i.yaml")
    again.a = 5
    assert again.b == 5


# What LiBai's copies of these tests add or leave out.
libai = book("LiBai's tests")
for _test in (values_are_imported_and_isolated, callables_become_names, overrides_are_typed, a_scalar_has_no_keys, to_py_is_python,
              nested_with_interpolation, other_objects_are_returned, a_call_as_target, lists_are_built, a_dataclass_as_target,
              a_number_is_no_target):  # fmt: skip
    libai(f"as detectron2's: {_test.__name__}")(_test)
libai("test_failed_save: also writes a .pkl", "pickles")(no_pickle_is_written)


@libai("test_instantiate_namedtuple")
def a_namedtuple_as_value(place):
    for cfg in _both_forms(place, L(targets.Trainer)(shape=targets.Shape(1, 3))):
        assert instantiate(cfg).more["shape"] == targets.Shape(1, 3)


@libai("test_instantiate_no_recursive")
def not_recursive(_):
    built = instantiate(L(targets.Trainer)(optimizer=L(targets.Optimizer)(lr=2), _recursive_=False))
    assert isinstance(built.optimizer, DictConfig) and built.optimizer.lr == 2
