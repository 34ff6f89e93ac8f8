"""Old names give what is at the new ones, and say where that is."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("rec.inference.hub", "push", "rec.model_folder.hub.push"),
        ("rec.inference.model_folder", "read", "rec.model_folder.read"),
        ("rec.evaluation.evaluate", "write", "rec.evaluation.run.write"),
        ("rec.data.batch", "prepare", "rec.data.batch.model_input"),
        ("rec.data.word_vectors", "load_word_vectors", "rec.data.word_vectors.look_up_vectors"),
    ],
)
def test_an_old_name_works_and_says_where_it_is_now(module, name, now):
    place, _, new = now.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now {now}"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(place), new)
    with pytest.raises(AttributeError, match="nothing"):
        importlib.import_module(module).nothing


def test_the_function_keeps_its_place_in_the_package_beside_the_modules_old_name():
    from rec.evaluation.evaluate import BoxAndMaskEvaluator

    import rec.evaluation

    assert callable(rec.evaluation.evaluate) and BoxAndMaskEvaluator.__module__ == "rec.evaluation.run"


def test_arguments_that_are_handed_on_are_named_and_refused_where_they_are_unknown():
    import inspect

    from rec.config import LazyCall, check
    from rec.data.loader import training_loader
    from rec.data.stream import streamed_split
    from rec.models.backbones import ResNet

    assert list(inspect.signature(training_loader).parameters)[2:] == ["num_workers", "pin_memory", "on_lost_worker"]
    assert inspect.signature(streamed_split).parameters["buffer_size"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(ResNet).parameters)[:3] == ["depth", "pretrained", "pretrained_weight_path"]
    (problem,) = check(LazyCall(streamed_split)(path="shards", vocabulary="v.json", bufer_size=3))
    assert "bufer_size" in problem and "buffer_size" in problem
