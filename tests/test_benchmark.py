"""The benchmark runs, judges its bounds, writes its JSON and page; its evaluation and data sides measure the same work."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_benchmark_plain import OPTIONS, TINY

REPOSITORY = Path(__file__).parents[1]

from benchmarks import accuracy, gpu, page, pipeline  # noqa: E402
from benchmarks.bounds import BOUNDS  # noqa: E402
from benchmarks.generated import our_dataset, plain_dataset, prepared, refer_files  # noqa: E402
from benchmarks.inputs import Options  # noqa: E402
from benchmarks.timing import Row, check, interleave, ratio  # noqa: E402

from rec.data.dataset import RefCOCODataSet  # noqa: E402


def test_a_section_pins_the_allocator_and_writes_json_and_page(tmp_path) -> None:
    out = tmp_path / "performance"
    command = [sys.executable, "scripts/benchmark.py", "loss", "--size", "64", "--batches", "2", "--rounds", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [*command, "--out", str(out), "--work", str(tmp_path), *TINY], cwd=REPOSITORY, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((out / "loss.json").read_text(encoding="utf-8"))
    assert content["machine"]["allocator"] == "pinned" and content["machine"]["cores"] >= 1
    first = content["rows"][0]
    assert (
        first["value"] > 0
        and first["low"] <= first["value"] <= first["high"]
        and set(first["seconds"]) == {"plain", "ours"}
    )
    written = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert first["what"] in written and "Not run." in written and "What limits each path" in written


def test_bounds_are_judged_and_shown(tmp_path) -> None:
    times = {"slow": [3.0, 4.0, 8.0], "fast": [1.0, 2.0, 2.0]}
    row = replace(ratio("speed", times, "slow", "fast"), bound=">= 3.5")
    assert (row.value, row.low, row.high, row.kept) == (3.0, 2.0, 4.0, False) and "MISSED" in row.line()
    assert replace(ratio("speed", times, "fast", "slow"), bound="<= 0.5").kept and Row("x", 1, 1, 1).kept is None
    assert check("share", 1.1, 1.0).kept and not check("share", 1.2, 1.0).kept
    (tmp_path / "performance").mkdir()
    values = {"date": "2026-01-01", "machine": {"cpu": "c", "cores": 2, "threads": 2, "torch": "2"}, "seconds": 1.0}
    content = values | {"options": {"config": "c", "size": 64, "clock": "wall"}, "rows": [row.to_json()]}
    (tmp_path / "performance" / "model.json").write_text(json.dumps(content), encoding="utf-8")
    on_gpu = replace(row, what="training step, batch 8, bf16", value=5.0, bound=">= 4")
    content = content | {"rows": [on_gpu.to_json()], "machine": values["machine"] | {"gpu": "a GPU"}}
    (tmp_path / "performance" / "gpu.json").write_text(json.dumps(content), encoding="utf-8")
    text = page.write_page(tmp_path / "performance").read_text(encoding="utf-8")
    on_cpu, on_gpu = text.split("### GPU")
    assert "| speed | >= 3.5 | 3 x [2 to 4] | **no** |" in on_cpu
    assert "| training step, batch 8, bf16 | >= 2.4 | not run |  |" in on_cpu
    assert "| training step, batch 8, bf16 | >= 4 | 5 x [2 to 4] | yes |" in on_gpu and "a GPU, 2 thread(s)" in on_gpu


def test_every_bound_is_of_a_row_that_the_sections_give() -> None:
    recorded = [
        json.loads(file.read_text(encoding="utf-8")) for file in (REPOSITORY / "docs/performance").glob("*.json")
    ]
    assert set(BOUNDS["cpu"]) <= {row["what"] for content in recorded for row in content["rows"]}


def test_the_tables_of_the_page_are_those_of_the_recorded_results(tmp_path) -> None:
    docs = REPOSITORY / "docs"
    shutil.copytree(docs / "performance", tmp_path / "performance")
    written = page.write_page(tmp_path / "performance").read_text(encoding="utf-8")
    assert written == (docs / "performance.md").read_text(encoding="utf-8"), "run: python scripts/benchmark.py page"


def test_sides_are_timed_in_turn() -> None:
    calls: list[str] = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"] and {name: len(each) for name, each in times.items()} == {
        "a": 2,
        "b": 2,
    }


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    work = tmp_path_factory.mktemp("benchmark")
    source = refer_files(work, 2, 6)
    return source, prepared(source, work / "plain")


def test_plain_samples_are_ours(tables) -> None:
    source, table = tables
    ours = our_dataset(table, 96, training=False, with_masks=True)
    plain = plain_dataset(table, source, 96, training=False)
    assert len(ours) == len(plain) == 14
    for number in (0, 5, 13):
        got = ours[number]
        _, image, mask, label, box, _, info = plain[number]
        assert np.abs(got["image"].numpy() / 255 - image.numpy()).max() < 1e-6
        assert torch.allclose(got["box"], label[0], atol=1e-6) and got["geometry"].tolist() == info.tolist()
        assert torch.allclose(got["box_pixels"][:2], box[:2]) and (got["mask"] / 255 - mask).abs().max() < 0.01


def test_both_evaluations_judge_the_same_sentences_alike(tmp_path) -> None:
    rows = list(pipeline.eval(replace(OPTIONS, images=16, work=tmp_path)))
    assert rows[0].value > 0 and rows[-1].value == 0, rows[-1].line()


def test_layers_are_counted_with_their_operations_values_and_passes() -> None:
    from torch import nn

    frozen, trained = nn.Conv2d(3, 4, 3, padding=1, bias=False).requires_grad_(False), nn.Conv2d(4, 8, 1)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Sequential(frozen, nn.ReLU(), trained, nn.SiLU(), nn.Conv2d(8, 2, 1))

        def forward(self, batch):
            return self.parts(batch["image"])

    found = gpu.layers(Network(), {"image": torch.zeros(2, 3, 5, 5)})
    cells = 2 * 5 * 5
    assert [layer.passes for layer in found] == [
        1,
        1,
        2,
        2,
        3,
    ]  # the first that is trained needs no gradient of its input
    assert [layer.operations for layer in found] == [2 * 27 * 4 * cells, 0, 2 * 4 * 8 * cells, 0, 2 * 8 * 2 * cells]
    assert [layer.values for layer in found] == [
        7 * cells + 108,
        8 * cells,
        12 * cells + 32,
        16 * cells,
        10 * cells + 16,
    ]
    rates = gpu.Rates(operations=1000.0, bytes=1e9)
    assert found[4].seconds(rates, 2) == pytest.approx(3 * found[4].operations / 1000)
    assert found[3].seconds(rates, 2) == pytest.approx(2 * 32 * cells / 1e9)


def test_the_floor_of_a_training_step_is_measured_beside_it() -> None:
    rows = list(gpu.against_floor(OPTIONS, gpu.measured_rates("cpu"), "trained", 1, (gpu.TRAINED,)))
    share = rows[0]
    assert share.seconds["floor"] / share.seconds["step"] == share.value > 0 and "convolutions" in share.note
    assert rows[2].value == pytest.approx(gpu.REFCOCO / rows[1].value / 3600)


def test_time_to_accuracy_starts_both_sides_alike_and_tells_what_was_not_reached(tmp_path, monkeypatch) -> None:
    import benchmark

    seen: dict[str, Any] = {}

    def race(sides, total, asked, spent):
        seen.update(sides)
        batch = {name: value for name, value in asked[0].items() if name != "image_index"}
        batch["image"] = asked[0]["image"][asked[0]["image_index"]]
        plain, ours = sides["plain"].model, sides["ours"].model
        losses, wanted = ours(batch), plain(batch["image"], batch["tokens"], batch["box"][:, None])
        assert all(losses[name].item() == pytest.approx(wanted[name].item(), rel=1e-4) for name in wanted)
        for model in (plain, ours):
            model.eval()
        assert torch.allclose(sides["ours"].answer(asked[0]), sides["plain"].answer(asked[0]), atol=1e-2)
        assert accuracy.accuracy(sides["ours"], asked) == accuracy.accuracy(sides["plain"], asked) and plain.training
        return run(sides, total, asked, spent)

    run = accuracy.race
    for name, value in {"race": race, "GOALS": (0.0, 2.0), "EVERY": 2}.items():
        monkeypatch.setattr(accuracy, name, value)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "time_to_accuracy", "--rounds=1"])
    args = benchmark.of_section("time_to_accuracy", argparse.Namespace(config="", rounds=1))
    assert (args.rounds, args.images) == (1, 11_000)
    tiny = ("train.train_iter=2", "train.batch_size=4")
    options = Options(config=args.config, size=64, rounds=args.rounds, images=8, work=tmp_path, overrides=tiny)
    reached, missed, update = accuracy.time_to_accuracy(options)
    assert (
        set(reached.seconds) == {"plain", "ours"} and reached.note == "updates: plain 2, ours 2" and not reached.bound
    )
    assert (
        "not reached within" in missed.unit and "ours: not reached within 900 s or the schedule, 1 of 1" in missed.note
    )
    assert all(f"{side}: data " in update.note and "optimizer and EMA" in update.note for side in seen)

    # Plain's samples are ours, a phrase after the other.
    table = str(tmp_path / "scenes_8" / "scenes")
    how: dict[str, Any] = {"input_shape": [64, 64], "split": "train", "sentence_sampling": "per_sentence"}
    ours = RefCOCODataSet("scenes", {"scenes": table}, training=True, **how)
    plain = plain_dataset(Path(table), Path(table), 64, training=False, split="train")
    assert len(plain) == len(ours) == 24
    tokens, image, _, label, *_ = plain[5]
    assert torch.equal(tokens, ours[5]["tokens"]) and torch.allclose(label[0], ours[5]["box"], atol=1e-6)
    assert (ours[5]["image"] / 255 - image).abs().max() < 1e-6


def test_a_side_is_timed_until_it_has_reached_every_goal(monkeypatch) -> None:
    class Side:
        def __init__(self, *values: float) -> None:
            self.values, self.updates, self.parts = iter(values), list[int](), [(self, "pause", "data")]

        def pause(self) -> None: ...

        def update(self, number: int) -> None:
            self.updates.append(number)
            self.pause()

    monkeypatch.setattr(accuracy, "accuracy", lambda side, asked: next(side.values))
    slow, fast = Side(0.1, 0.85, 0.7, 0.8), Side(0.95)
    spent: dict[str, dict[str, float]] = {"slow": defaultdict(float), "fast": defaultdict(float)}
    found = accuracy.race({"slow": slow, "fast": fast}, 90, [], spent)
    assert [number for _, number in found["fast"].values()] == [25, 25] and fast.updates == list(range(25))
    assert list(found["slow"]) == [0.8] and found["slow"][0.8][1] == 50 and slow.updates == list(range(90))
    assert 0 < spent["slow"]["data"] < spent["slow"]["all"] and spent["slow"]["updates"] == 90
    monkeypatch.setattr(accuracy, "LIMIT", 0.0)
    assert accuracy.race({"slow": slow}, 90, [], spent) == {"slow": {}}
