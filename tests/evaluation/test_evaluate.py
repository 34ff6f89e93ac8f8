"""The evaluation loop: every sample once on any number of processes, records, custom evaluators."""

import gc
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from evaluation_toy import ToyModel, ToySplit, run

from rec.cuda_graphs import replayed_forward
from rec.data.masks import decode
from rec.errors import InputError
from rec.evaluation import evaluate
from rec.evaluation.run import BoxAndMaskEvaluator, write
from rec.models.soundness import PredictionError

ROOT = Path(__file__).parents[2]
NORMALISATION = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def loader(dataset, batch_size, indices=None):
    return torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, indices) if indices is not None else dataset, batch_size=batch_size
    )


def test_results_do_not_depend_on_batch_size_or_order():
    dataset, model = ToySplit(23), ToyModel().train()
    reference = evaluate(model, loader(dataset, 23), dataset, **NORMALISATION)
    assert model.training, "the model comes back in the mode it was in"
    for size in (1, 4, 7):
        assert evaluate(model, loader(dataset, size), dataset, **NORMALISATION) == reference
    backwards = loader(dataset, 5, list(range(22, -1, -1)))
    assert evaluate(model, backwards, dataset, **NORMALISATION) == reference
    assert reference[0]["count"] == 23 and 0 < reference[0]["Acc@0.5"] < 1


def test_samples_repeated_by_a_padding_sampler_count_once():
    dataset, model = ToySplit(5), ToyModel()
    padded = loader(dataset, 2, [0, 1, 2, 3, 4, 0, 1])
    assert evaluate(model, padded, dataset, **NORMALISATION) == evaluate(
        model, loader(dataset, 5), dataset, **NORMALISATION
    )


def test_a_lost_sample_is_an_error_not_a_better_number():
    dataset = ToySplit(5)
    with pytest.raises(RuntimeError, match="4 of the split's 5"):
        evaluate(ToyModel(), loader(dataset, 2, [0, 1, 2, 3]), dataset, **NORMALISATION)


def test_what_samples_lack_is_named_in_a_sentence():
    class Bare(ToySplit):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return {name: sample[name] for name in sample.keys() - {"box_pixels", "geometry"}}

    with pytest.raises(InputError, match="an evaluation needs box_pixels, geometry in every sample"):
        evaluate(ToyModel(), loader(Bare(2), 2), Bare(2), **NORMALISATION)


def test_limit_stops_after_that_many_batches():
    dataset, model = ToySplit(50), ToyModel()
    result, records = evaluate(model, loader(dataset, 4), dataset, limit=2, **NORMALISATION)
    assert result["count"] == len(records) == 8 and model.batches_seen == 2


def test_records_name_the_sample_and_hold_boxes_in_original_pixels():
    dataset = ToySplit(3, with_masks=True)
    _, records = evaluate(ToyModel(with_masks=True), loader(dataset, 2), dataset, **NORMALISATION)
    first = records[0]
    assert first["sentence"] == "thing 0" and first["image"] == "0.jpg" and first["index"] == 0 and first["score"] == 1
    geometry, truth = dataset.truth(0)
    np.testing.assert_allclose(first["target"], truth)
    np.testing.assert_allclose(first["box"], truth, atol=1e-3)  # sample 0 is answered without a shift
    mask = decode(first["mask"])
    assert mask.shape == tuple(geometry[:2].astype(int)) and first["mask_intersection"] / first["mask_union"] > 0.8


@pytest.mark.parametrize("name", ["box", "score", "mask"])
@pytest.mark.parametrize("own_evaluator", [False, True])
def test_a_prediction_that_is_not_finite_is_an_error_and_no_miss(name, own_evaluator):
    class Broken(ToyModel):
        def forward(self, batch):
            outputs = super().forward(batch)
            outputs[name].view(len(outputs[name]), -1)[1, -1] = float("nan")
            return outputs

    class Judge:
        def update(self, outputs, batch):
            pass

        def compute(self):
            return {"count": 0}

    dataset = ToySplit(5, with_masks=True)
    model, judge = Broken(with_masks=True), Judge() if own_evaluator else None
    with pytest.raises(
        PredictionError, match=r"2 predictions of this Broken are not finite.* sample 1, 'thing 1 very red' on 1.jpg"
    ):
        evaluate(model, loader(dataset, 3), dataset, evaluator=judge, **NORMALISATION)
    assert model.training  # back in its former mode
    dataset.describe = lambda index: {}  # as of a data set of one's own
    with pytest.raises(PredictionError, match=r"the first for sample 1: its weights are damaged"):
        evaluate(model, loader(dataset, 3), dataset, evaluator=judge, **NORMALISATION)


def test_a_segmentation_model_without_boxes_has_mask_metrics_only():
    class MasksOnly(ToyModel):
        def forward(self, batch):
            outputs = super().forward(batch)
            return {"mask": outputs["mask"], "score": outputs["score"]}

    dataset = ToySplit(4, with_masks=True)
    result, records = evaluate(MasksOnly(with_masks=True), loader(dataset, 4), dataset, **NORMALISATION)
    assert "mask_mIoU" in result and "Acc@0.5" not in result and records[0]["box"] is None


def test_the_metric_of_the_page_on_evaluation_works_as_it_stands():
    page = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    space = {}
    exec(re.findall(r"```python\n(class .*?)```", page, re.DOTALL)[0], space)
    dataset = ToySplit(10)
    judge = space["MeanScore"]()
    result, records = evaluate(ToyModel(), loader(dataset, 3), dataset, evaluator=judge, **NORMALISATION)
    assert result == {"mean_score": pytest.approx(0.55)} and records == [], "in place of the built-in one"


def test_one_two_and_three_processes_agree_to_the_last_digit(tmp_path):
    reference = {length: run(Accelerator(cpu=True), int(length), 3) for length in ("1", "13")}
    for processes in (2, 3):
        out = tmp_path / f"run{processes}"
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
        command += [str(Path(__file__).parent / "evaluation_toy.py"), str(out), *reference]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = [json.loads(Path(f"{out}.{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]
        for length, expected in reference.items():
            reports = [rank[length] for rank in ranks]
            assert all(report["processes"] == processes for report in reports), "the processes really formed one group"
            assert sum(report["samples_here"] for report in reports) == int(length)
            assert all(report["metrics"] == expected["metrics"] for report in reports)
            assert all(report["any"]["metrics"] == expected["any"]["metrics"] for report in reports)
            assert reports[0]["any"]["records"] == expected["any"]["records"]
            assert all(report["buffer"] == [0.0, 0.0, 0.0] for report in reports), "all use process 0's statistics"
            assert reports[0]["records"] == expected["records"]
            assert all(report["records"] == [] for report in reports[1:]), "records are the main process's"
            assert expected["metrics"]["count"] == int(length) == len(expected["records"])


def test_processes_without_a_batch_keep_a_sharded_models_collectives_in_step():
    class Sharded:
        """An accelerator whose other process has five batches where this one has two."""

        distributed_type, device, is_main_process = "FSDP", torch.device("cpu"), True
        steps = 0

        def reduce(self, tensor, how):
            self.steps += 1
            return tensor + (1 if self.steps <= 5 else 0)

        def unwrap_model(self, model):
            return model

        def autocast(self):
            return torch.autocast("cpu", enabled=False)

    dataset, model = ToySplit(4), ToyModel()
    result, _ = evaluate(model, loader(dataset, 2), dataset, Sharded(), **NORMALISATION)
    assert model.batches_seen == 5 and result["count"] == 4


def test_written_files_can_be_read_back_and_nothing_partial_stays(tmp_path):
    dataset = ToySplit(3)
    result, records = evaluate(ToyModel(), loader(dataset, 2), dataset, **NORMALISATION)
    empty = {"empty": {"Acc@0.5": float("nan"), "count": 0}}
    write(tmp_path / "nan", empty, {"empty": []})
    assert json.loads((tmp_path / "nan" / "metrics.json").read_text())["empty"] == {"Acc@0.5": None, "count": 0}
    write(tmp_path / "out", {"val": result, "test": result}, {"val": records, "test": records[:1]})
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == {
        "val": result,
        "test": result,
    }
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["val", "val", "val", "test"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_masks_are_judged_with_the_models_own_threshold():
    class Faint(ToyModel):
        def forward(self, batch):
            outputs = super().forward(batch)
            outputs["mask"] = torch.where(outputs["mask"] > 0, 0.0, -8.0)  # probability one half inside
            return outputs

    dataset = ToySplit(4, with_masks=True)
    own, _ = evaluate(Faint(with_masks=True), loader(dataset, 4), dataset, **NORMALISATION)
    judge = BoxAndMaskEvaluator(dataset, mask_threshold=0.6)
    strict, _ = evaluate(Faint(with_masks=True), loader(dataset, 4), dataset, evaluator=judge, **NORMALISATION)
    assert own["mask_mIoU"] > 0.5 and strict["mask_mIoU"] < 1e-6


def test_a_batch_is_judged_after_the_model_has_been_given_the_next_one():
    """So that a GPU computes while the host judges; the last one is judged too."""
    events = []

    class Told(ToySplit):
        def target_mask(self, i):
            events.append(f"judged {i}")
            return super().target_mask(i)

    class Telling(ToyModel):
        def forward(self, batch):
            events.append(f"given {batch['index'].tolist()}")
            return super().forward(batch)

    dataset = Told(3, with_masks=True)
    evaluate(Telling(with_masks=True), loader(dataset, 1), dataset, **NORMALISATION)
    assert events == ["given [0]", "given [1]", "judged 0", "given [2]", "judged 1", "judged 2"]


def test_recorded_work_is_kept_for_the_model_while_its_weights_stay_where_they_are():
    model = torch.nn.Linear(2, 2)
    first = replayed_forward(model)
    model.weight.data.mul_(2)  # as averages are put in place
    assert replayed_forward(model) is first
    model.weight = torch.nn.Parameter(torch.ones(2, 2))
    assert replayed_forward(model) is not first
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and first is not None
