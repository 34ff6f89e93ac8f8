"""``scripts/plot_metrics.py``: curves of several runs in one picture."""

import json
from functools import partial
from pathlib import Path

import pytest


def write_run(folder: Path, scale: float, more: str = "") -> Path:
    records = [{"kind": "train", "update": u, "loss": scale / u, "lr": 1e-4 * u} for u in range(1, 41)]
    records += [{"kind": "evaluation", "update": u, "split": "val", "Acc@0.5": 1 - scale / u} for u in (20, 40)]
    folder.mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records) + more
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def plot(call_script):
    return partial(call_script, "plot_metrics")


def test_runs_are_drawn_over_each_other_in_three_panels(plot, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    import numpy as np
    from PIL import Image

    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    runs = [write_run(tmp_path / "first", 1.0), write_run(tmp_path / "second", 2.0, more='{"kind": "tr')]
    status, _, error = plot(runs[0], runs[1] / "metrics.jsonl", "--out", tmp_path / "new" / "curves.png")
    assert status == 0, error
    loss, rate, accuracy = figures[0].axes
    assert [line.get_label() for line in loss.lines] == ["first loss", "second loss"]
    assert [line.get_label() for line in accuracy.lines] == ["first val Acc@0.5", "second val Acc@0.5"]
    assert list(loss.lines[1].get_ydata())[:2] == [2.0, 1.0] and list(accuracy.lines[0].get_xdata()) == [20, 40]
    assert list(rate.lines[0].get_ydata())[-1] == pytest.approx(4e-3)
    picture = np.asarray(Image.open(tmp_path / "new" / "curves.png").convert("RGB"))
    assert picture.shape[1] > 1000 and picture.min() < 100 and picture.max() == 255


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_curves_for_papers(plot, tmp_path, ending, start):
    pytest.importorskip("matplotlib")
    status, _, error = plot(write_run(tmp_path / "run", 1.0), "--out", tmp_path / f"curves.{ending}")
    assert status == 0, error
    assert (tmp_path / f"curves.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, (), "does not exist: give run folders"),
        ("", (), "has no record yet"),
        ("{}\n{}\n", (), "line 1: expected a record with kind and update"),
        ("[1]\n{}\n", (), "line 1: expected a record"),
        ('{"kind": [], "update": 1}\n{}\n', (), "line 1: expected a record"),
        ('{"kind": "train", "update": "1"}\n{}\n', (), "line 1: expected a record"),
        ('{"kind": "evaluation", "split": {}, "update": 1}\n{}\n', (), "line 1: expected a record"),
        (f'{{"kind": "train", "update": 1, "loss": 1{"0" * 400}}}\n{{}}\n', (), "line 1: expected a record"),
        ("[" * 100_000 + "\n{}\n", (), "line 1: expected a record"),
        ('{"kind": "train", "update": 1, "loss": {"a": 1}}\n', (), "no run has any of loss"),
        (None, ("--out", "curves.gif"), "ends in .png or .pdf or .svg"),
        (
            '{"kind": "train", "update": 1, "loss": 1}\n',
            ("--losses", "los"),
            "no train record of any run has los; did you mean `loss`?: known are loss",
        ),
        (
            '{"kind": "train", "update": 1, "loss": 1}\n{"kind": "evaluation", "update": 1, "split": "val", "Acc@0.5": 1}\n',
            ("--accuracies", "Acc@0.5", "mIou"),
            "no evaluation record of any run has mIou: known are Acc@0.5",
        ),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(plot, tmp_path, content, arguments, message):
    if "--losses" in arguments:
        pytest.importorskip("matplotlib")
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="utf-8")
    status, _, error = plot(tmp_path, *arguments)
    assert status == 2 and message in " ".join(error.split())
