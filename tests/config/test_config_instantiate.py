"""What ``instantiate`` builds: each config as written and as saved and loaded again."""

import functools

import config_targets as t
import pytest
from config_targets import Colour, Head, Part, Shape, Size
from omegaconf import DictConfig, ListConfig, OmegaConf

from rec.config import ConfigError, LazyCall, LazyConfig, instantiate


def cfg(**arguments):
    return LazyCall(t.keep)(**arguments)


def test_calls_in_lists_tuples_and_dicts_are_built(form):
    part = LazyCall(Part)(value=1)
    built = instantiate(form(cfg(a=[part, 2], b=(part, (part,)), c={"x": {"y": part}})))
    assert isinstance(built["a"][0], Part) and built["a"][1] == 2
    assert isinstance(built["b"][0], Part) and isinstance(built["b"][1][0], Part)
    assert isinstance(built["c"]["x"]["y"], Part)


@pytest.mark.parametrize(
    "value", [[1, 2], (1, 2), {"a": [1, (2, 3)]}, (), [], {}, ((1, 2), [3, (4,)]), {"a": {"b": ((),)}}, (None, True)]
)
def test_constructors_get_native_containers(form, value):
    def types(value):
        if isinstance(value, dict):
            return {k: types(v) for k, v in value.items()}
        return (type(value), [types(v) for v in value]) if isinstance(value, list | tuple) else type(value)

    built = instantiate(form(cfg(value=value)))["value"]
    assert built == value
    assert types(built) == types(value)


@pytest.mark.parametrize("value", [256, [256, 256], None, {"a": 1}, "x"])
def test_a_tuple_can_be_replaced_by_anything(form, value):
    config = form(cfg(planes=(512, 512)))
    config.planes = value
    assert instantiate(config) == {"planes": value}


def test_an_element_of_a_tuple_can_be_set(form):
    config = form(cfg(planes=(512, (1, 2))))
    config.planes[1][0] = 7
    assert instantiate(config) == {"planes": (512, (7, 2))}


def test_containers_built_without_a_call_are_native_too(form):
    built = instantiate(form(DictConfig({"a": [1, {"b": LazyCall(Part)(value=2)}]}, flags={"allow_objects": True})))
    assert type(built) is dict and type(built["a"]) is list and type(built["a"][1]) is dict
    assert built["a"][1]["b"].value == 2


def test_keys_need_not_be_strings(form):
    assert instantiate(form(cfg(table={1: "a", 2: {"b": 3}}))) == {"table": {1: "a", 2: {"b": 3}}}


@pytest.mark.parametrize("value", [None, True, 0, 1, 1e-9, float("inf"), "", "1e-4", "null", "über", "a: b", "3"])
def test_scalars_arrive_unchanged(form, value):
    built = instantiate(form(cfg(value=value)))["value"]
    assert built == value and type(built) is type(value)


def test_interpolations_are_followed_and_stay_live(form):
    config = form(cfg(a=3, b="${a}", inner=LazyCall(t.keep)(c="${..a}", d="n${..a}")))
    assert instantiate(config) == {"a": 3, "b": 3, "inner": {"c": 3, "d": "n3"}}
    config.a = 5
    assert instantiate(config) == {"a": 5, "b": 5, "inner": {"c": 5, "d": "n5"}}


def test_an_interpolated_call_is_built(form):
    built = instantiate(form(cfg(a=LazyCall(Part)(value=[1]), b="${a}", c=["${a.value}"])))
    assert isinstance(built["b"], Part) and built["b"] is not built["a"]
    assert built["c"] == [[1]] and type(built["c"][0]) is list


def test_a_dataclass_assigned_later_arrives_as_that_dataclass(form):
    config = cfg(shape=None)
    config.shape = Shape(4, 5)
    assert instantiate(form(config)) == {"shape": Shape(4, 5)}


def test_a_dataclass_type_can_be_an_argument(form):
    assert instantiate(form(cfg(kind=Shape)))["kind"] is Shape


def test_a_namedtuple_arrives_as_that_namedtuple(form):
    built = instantiate(form(cfg(size=Size(1, (2, 3)), more=[Size(4, LazyCall(Part)(value=5))])))
    assert built["size"] == Size(1, (2, 3)) and type(built["size"]) is Size
    assert type(built["more"][0]) is Size and built["more"][0].width.value == 5


@pytest.mark.parametrize("value", [Part, t.keep, len, Colour.RED, functools.reduce, dict])
def test_classes_functions_and_enum_members_arrive_as_themselves(form, value):
    built = instantiate(form(cfg(value=value, more=[{"x": value}])))
    assert built["value"] is value and built["more"][0]["x"] is value


def test_a_torch_dtype_arrives_as_itself(form):
    torch = pytest.importorskip("torch")
    assert instantiate(form(cfg(dtype=torch.bfloat16)))["dtype"] is torch.bfloat16


def test_partial_calls_wait_for_the_rest(form):
    built = instantiate(form(LazyCall(t.needs_two)(b=LazyCall(int)(), _partial_=True)))
    assert isinstance(built, functools.partial) and built(a=4) == 4


def test_partial_calls_inside_arguments_wait_too(form):
    built = instantiate(form(cfg(optimizer=LazyCall(t.needs_two)(b=1, _partial_=True))))
    assert built["optimizer"](2) == 3


def test_not_recursive_hands_nested_calls_over_as_config(form):
    built = instantiate(form(LazyCall(t.keep)(part=LazyCall(Part)(value=1), other=[(1, 2)], _recursive_=False)))
    assert isinstance(built["part"], DictConfig) and instantiate(built["part"]).value == 1
    assert built["other"] == [(1, 2)] and type(built["other"]) is list


def test_an_attribute_of_a_class_can_be_the_target(form):
    assert instantiate(form(LazyCall("config_targets.Part.named")(name="x"))).name == "x"
    assert instantiate(form(LazyCall(Part.named)(name="y"))).name == "y"


def test_another_call_can_be_the_target(form):
    config = LazyCall(LazyCall(Part)(value=3))(number=4)
    assert instantiate(form(config)) == (3, 4)


def test_extra_arguments_are_added_and_win(form):
    config = form(LazyCall(t.keep)(a=1, b=2))
    assert instantiate(config, b=3, c=4) == {"a": 1, "b": 3, "c": 4}
    assert instantiate(config) == {"a": 1, "b": 2}


def test_extra_arguments_are_passed_as_they_are(form):
    extra = [{"_target_": "config_targets.Part"}]
    assert instantiate(form(cfg()), extra=extra)["extra"] is extra


def test_an_extra_argument_can_fill_in_a_mandatory_one(form):
    config = form(LazyCall(t.keep)(a="???"))
    assert instantiate(config, a=1) == {"a": 1}
    with pytest.raises(ConfigError, match=r"cfg\.a: mandatory value \(\?\?\?\) is not set"):
        instantiate(config)


def test_one_group_of_a_config_can_be_built_alone(form):
    config = form(DictConfig({"lr": 2, "optim": cfg(lr="${lr}")}, flags={"allow_objects": True}))
    assert instantiate(config.optim) == {"lr": 2}


@pytest.mark.parametrize("value", [5, "text", None, [3, 4], (3, 4), {"x": "y"}, Part(1), Size(1, 2), [[{"a": (1,)}]]])
def test_what_has_nothing_to_build_is_returned_itself(value):
    assert instantiate(value) is value


def test_native_containers_with_calls_in_them_are_built():
    built = instantiate([1, {"a": LazyCall(Part)(value=2)}, (LazyCall(Part)(value=3),)])
    assert built[1]["a"].value == 2 and built[2][0].value == 3 and type(built[2]) is tuple


def test_a_native_dict_that_describes_a_call_is_built():
    assert instantiate({"_target_": "config_targets.Part", "value": {"_target_": Part}}).value.name == "part"


def test_building_twice_gives_two_objects_and_leaves_the_config_alone(form):
    config = form(cfg(part=LazyCall(Part)(value=[1])))
    before = OmegaConf.to_container(config)
    one, two = instantiate(config), instantiate(config)
    assert one["part"] is not two["part"]
    assert OmegaConf.to_container(config) == before


def test_lists_of_a_config_are_copied_for_the_object(form):
    config = form(cfg(values=[1]))
    instantiate(config)["values"].append(2)
    assert config["values"] == ListConfig([1]) or list(config["values"]) == [1]


def test_arguments_are_by_keyword_only():
    with pytest.raises(TypeError, match=r"LazyCall\(config_targets\.Part\) takes its arguments by keyword.*not as 1;"):
        LazyCall(Part)(1)
    uncalled = r"cfg\.a\[0\] is LazyCall\(config_targets\.Part\), which is not called yet"
    with pytest.raises(TypeError, match=uncalled):
        instantiate(LazyCall(dict)(a=[LazyCall(Part)]))


@pytest.mark.parametrize("target", [3, None, [Part]])
def test_a_target_must_be_something_to_call(target):
    with pytest.raises(TypeError, match="LazyCall needs"):
        LazyCall(target)


def test_an_unexpected_argument_is_an_error_with_path_and_known_names(form):
    config = form(
        DictConfig({"model": {"head": LazyCall(Head)(in_channels=1, stride=2)}}, flags={"allow_objects": True})
    )
    built = Head.built
    with pytest.raises(
        ConfigError,
        match=r"cfg\.model\.head → config_targets\.Head: unexpected argument 'stride'; it "
        r"takes in_channels, strides, act; did you mean `strides`\?",
    ) as caught:
        instantiate(config.model)
    assert isinstance(caught.value, TypeError)
    assert Head.built == built


def test_an_unexpected_argument_deep_in_a_list_has_its_path(form):
    config = form(DictConfig({"a": [0, (cfg(b={"c": LazyCall(Head)(in_chanels=1)}),)]}, flags={"allow_objects": True}))
    with pytest.raises(ConfigError, match=r"cfg\.a\[1\]\[0\]\.b\.c → .*did you mean `in_channels`"):
        instantiate(config)


def test_a_target_that_raises_keeps_its_exception_type_and_cause(form):
    config = form(cfg(part=LazyCall(t.fails)(reason="too small")))
    with pytest.raises(ValueError, match=r"cfg\.part → config_targets\.fails raised ValueError: too small") as caught:
        instantiate(config)
    assert isinstance(caught.value, ConfigError) and type(caught.value.__cause__) is ValueError


def test_a_missing_argument_is_an_error_with_the_path(form):
    with pytest.raises(ConfigError, match=r"cfg\.sum → config_targets\.needs_two raised TypeError: .*'b'"):
        instantiate(form(cfg(sum=LazyCall(t.needs_two)(a=1))))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (
            "no_such_package.Thing",
            r"cfg\.x: `no_such_package.Thing` cannot be imported: .*No module named 'no_such_package'",
        ),
        ("config_targets.Heat", r"cfg\.x: .*no attribute 'Heat'; did you mean `Head`\?"),
        ("config_targets.Head.missing", r"cfg\.x: .*no attribute 'missing'"),
        ("Head", r"cfg\.x: `Head` is not a dotted name"),
        (
            "config_targets.not_callable",
            r"cfg\.x → config_targets.not_callable raised TypeError: 'int' object is not callable",
        ),
        ("broken_target.Thing", r"cfg\.x: .*RuntimeError: broken on purpose"),
        ("wants_missing.Thing", r"cfg\.x: .*No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_target_that_cannot_be_had_is_an_error_with_path_and_cause(form, target, text, tmp_path, monkeypatch):
    (tmp_path / "broken_target.py").write_text("raise RuntimeError('broken on purpose')")
    (tmp_path / "wants_missing.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=text):
        instantiate(form(cfg(x=LazyCall(target)())))


def test_an_unresolvable_interpolation_is_an_error_with_the_path(form):
    with pytest.raises(ConfigError, match=r"cfg\.part\.value: .*'nowhere"):
        instantiate(form(cfg(part=LazyCall(Part)(value="${nowhere.to.go}"))))


def test_extra_arguments_for_no_call_are_refused():
    with pytest.raises(ConfigError, match="arguments value were given, but this is not a LazyCall"):
        instantiate({"a": 1}, value=2)


def test_positional_only_parameters_are_not_taken_by_name(form):
    with pytest.raises(ConfigError, match="unexpected argument 'b'; it takes c"):
        instantiate(form(LazyCall(t.first)(b=1)))


def test_the_file_and_line_that_set_a_bad_argument_are_named(files):
    path = files(
        parts="""
            from config_targets import Head
            from rec.config import LazyCall
            head = LazyCall(Head)(
                in_channels=1,
                act="silu",
            )
        """,
        leaf="""
            from rec.config import LazyCall
            from config_targets import Part
            from .parts import head as renamed
            model = LazyCall(Part)(value=[renamed])
            renamed.stride = 3
            other = dict(part=LazyCall(Part)(
                valeu=2,
            ))
        """,
    )
    config = LazyConfig.load(path)
    with pytest.raises(ConfigError, match=rf"cfg\.renamed → .*'stride'.*\[{path}:6\]"):
        instantiate(config.renamed)
    with pytest.raises(ConfigError, match=rf"cfg\.other\.part → .*'valeu'.*\[{path}:8\]"):
        instantiate(config.other)
    config.renamed.pop("stride")
    config.renamed.actt = 1
    with pytest.raises(ConfigError, match=rf"cfg\.renamed → .*'actt'.*\[{path.parent / 'parts.py'}:4\]"):
        instantiate(config.renamed)


def test_the_override_that_set_a_bad_argument_is_named(files):
    config = LazyConfig.load(files(a="from rec.config import LazyCall\nx = LazyCall('config_targets.Part')(value=1)\n"))
    LazyConfig.apply_overrides(config, ["x.nam=2"])
    with pytest.raises(ConfigError, match=r"'nam'.*did you mean `name`.*\[command line: x\.nam=2\]"):
        instantiate(config.x)
