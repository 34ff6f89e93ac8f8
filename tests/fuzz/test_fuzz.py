"""Every input that once failed, and some fresh ones, for each reader; ``python tests/fuzz/run.py`` makes many more."""

import logging
import sys
from pathlib import Path

import datasets.config
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run

# What takes longer; the last three read what the others read too.
FRESH = {"config": 6, "model_folder": 8, "checkpoint": 12} | dict.fromkeys(("coco", "label_studio", "conversations"), 8)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)  # is put back
    handlers, disabled = logging.getLogger("rec").handlers, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(disabled)
    logging.getLogger("rec").handlers = handlers


@pytest.mark.parametrize("reader", run.READERS)
@pytest.mark.filterwarnings("ignore")
def test_spoilt_files_are_read_or_refused(reader, tmp_path):
    template = tmp_path / "template"
    template.mkdir()
    run.READERS[reader].seed(template)
    kept = sorted(path for path in (run.KEPT / reader).glob("*") if path.is_dir())
    found = {}
    for number, case in enumerate([*kept, *range(FRESH.get(reader, 30))]):
        folder = tmp_path / f"case-{number}"
        run.lay_out(reader, template, folder, case)
        found[case] = run.outcome(reader, folder)
    assert not {case: text for case, text in found.items() if text}


def test_a_finding_is_noticed(tmp_path, monkeypatch):
    def crash(_):
        raise KeyError("x")

    monkeypatch.setitem(run.READERS, "bad", run.readers.Reader(run.readers.nothing, run.readers.spoil, crash))
    assert run.outcome("bad", tmp_path).startswith("KeyError in ?")
