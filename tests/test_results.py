"""The tables of docs/results.md are what scripts/write_results.py makes of the records, and the records are whole."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
RECORDS = [path for path in sorted((REPOSITORY / "docs" / "results").glob("*.json")) if path.stem != "published"]


sys.path.insert(0, str(REPOSITORY / "scripts"))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_records_give():
    written, writer = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8"), script("write_results")
    filled = writer.fill(written, writer.tables(REPOSITORY / "docs" / "results"))
    assert written == filled, "run: python scripts/write_results.py"


def test_a_page_without_marks_for_a_table_is_an_error():
    fill = script("page_tables").fill
    page = "before\n<!-- table one -->\nold\n<!-- end of one -->\nafter\n"
    assert fill(page, {"one": "new"}) == "before\n<!-- table one -->\n\nnew\n\n<!-- end of one -->\nafter\n"
    with pytest.raises(ValueError, match="two"):
        fill(page, {"one": "", "two": ""})


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_tells_how_to_measure_it_again(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["name"] == path.stem and record["date"] and record["machine"] and record["versions"]["torch"]
    assert all(run["commands"] and run["metrics"] for run in record["runs"])


def test_figures_of_several_seeds_are_shown_with_their_spread(tmp_path):
    run = {"metrics": {"val": {"Acc@0.5": 0.5, "mIoU": 0.4}}, "commands": ["x"]}
    other = {"metrics": {"val": {"Acc@0.5": 0.7, "mIoU": 0.4}}, "commands": ["x"]}
    for name, runs in (("recipe_quickstart", [run, run]), ("recipe_iou", [run, other])):
        record = {"date": "2026-01-01", "machine": "m", "versions": {"torch": "2"}, "runs": runs}
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    tables = script("write_results").tables(tmp_path)
    assert "| 60.0 ± 14.1 | +10.0 | 40.0 ± 0.0 |" in tables["recipes"] and "not run" in tables["scenes"]


def test_every_experiment_passes_the_check_of_its_config():
    from rec.config import LazyConfig, check

    for name, experiment in script("run_results").EXPERIMENTS.items():
        cfg = LazyConfig.load(str(REPOSITORY / experiment.config))
        assert check(LazyConfig.apply_overrides(cfg, list(experiment.overrides))) == [], name
