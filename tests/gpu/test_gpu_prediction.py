"""Prediction on a GPU: the same answers compiled, in half precision, in any batch; export of a model that is there."""

import numpy as np
import pytest
import torch
from inference_toy import SENTENCES, SIZE, VOCABULARY, folder_config, new_model

from rec.boxes import box_iou
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


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_model_on_the_device_is_exported(rehearsed, kind, tmp_path):
    model, file = new_model().to(rehearsed).eval(), tmp_path / f"model.{kind}"
    export(model, folder_config(), VOCABULARY, file, kind=kind, size=SIZE)
    assert max(compare(file, model.cpu(), folder_config(), samples=4).values()) < 1e-2
