"""Prediction on a GPU: the same answers compiled, in half precision, in any batch; export of a model that is there."""

import numpy as np
import pytest
import torch
from inference_toy import SENTENCES, SIZE, VOCABULARY, folder_config, new_model

from rec.boxes import box_iou
from rec.config import get_config, instantiate
from rec.data.dataset import RefCOCODataSet
from rec.data.loader import evaluation_loader
from rec.evaluation import evaluate
from rec.inference.export import compare, export
from rec.inference.grounder import Grounder

IMAGES = [np.random.default_rng(n).integers(0, 255, (48 + 8 * n, 64, 3), np.uint8) for n in range(3)]


def answers(device: torch.device, batch_size: int = 8, turns: int = 1, **how) -> np.ndarray:
    """``(6, 5)`` boxes and scores of two phrases about three images, asked ``turns`` times, other images in between."""
    torch.manual_seed(0)
    model = new_model()
    grounder = Grounder(model, folder_config(), VOCABULARY, device=device, **how)
    for _ in range(turns - 1):
        grounder([255 - image for image in IMAGES], [SENTENCES] * len(IMAGES), batch_size=batch_size)
    found = grounder(IMAGES, [SENTENCES] * len(IMAGES), batch_size=batch_size)
    return np.array([[*answer.box, answer.score] for each in found for answer in each])


def test_batches_do_not_change_the_answers(device):
    cpu = answers(torch.device("cpu"))
    for batch_size in (1, 2, 8):
        assert np.allclose(answers(device, batch_size), cpu, atol=1e-2)


@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"compile": True}])
def test_half_precision_and_compiling_keep_the_answers(device, how):
    if device.type == "cpu" and how != {"dtype": "bfloat16"}:
        pytest.skip("compiling for a CPU takes a compiler and minutes; float16 is a GPU's")
    found, wanted = answers(device, turns=3 if "compile" in how else 1, **how), answers(torch.device("cpu"))
    assert np.abs(found[:, 4] - wanted[:, 4]).max() < 0.02
    if how != {"dtype": "bfloat16"}:  # an untrained model's cells are nearly equal: in bfloat16 another may win
        assert np.median(box_iou(found[:, :4], wanted[:, :4])) > 0.9


class Kept:
    """An evaluator that keeps every cell's answer."""

    def __init__(self):
        self.found = {}

    def update(self, outputs, batch):
        answers = torch.cat([outputs["candidate_boxes"], outputs["candidate_scores"][..., None]], -1).float().cpu()
        self.found |= dict(zip(batch["index"].tolist(), answers, strict=True))

    def compute(self):
        return {"count": len(self.found)}


def test_recorded_evaluation_of_any_number_of_objects_answers_as_an_ordinary_one(device):
    source = {"path": "scenes", "targets": "any", "count": {"train": 4, "val": 12}}
    data = RefCOCODataSet("scenes", {"scenes": source}, input_shape=(64, 64), split="val", targets="any")
    node = get_config("common/models/simrec_small.py").model
    node.language_encoder.token_size = len(data.vocabulary)
    torch.manual_seed(0)
    model = instantiate(node).eval()
    torch.nn.init.normal_(model.head.objectness.bias)
    how = {"mean": [0.0] * 3, "std": [1.0] * 3}
    wanted, judged = Kept(), evaluate(model, evaluation_loader(data, 8), data, **how)[0]
    evaluate(model, evaluation_loader(data, 8), data, evaluator=wanted, **how)
    model.to(device, memory_format=torch.channels_last)
    for _ in range(4):  # an ordinary call, a recording, replays
        kept = Kept()
        evaluate(model, evaluation_loader(data, 8), data, evaluator=kept, replay=True, **how)
        for index, answers in wanted.found.items():
            assert torch.allclose(kept.found[index], answers, rtol=1e-3, atol=2e-2), index
        assert evaluate(model, evaluation_loader(data, 8), data, replay=True, **how)[0] == pytest.approx(
            judged, abs=0.05
        )


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_model_on_the_device_is_exported(rehearsed, kind, tmp_path):
    model, file = new_model().to(rehearsed).eval(), tmp_path / f"model.{kind}"
    export(model, folder_config(), VOCABULARY, file, kind=kind, size=SIZE)
    assert max(compare(file, model.cpu(), folder_config(), samples=4).values()) < 1e-2
