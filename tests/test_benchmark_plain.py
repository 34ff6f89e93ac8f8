"""The benchmark's plain implementation gives our numbers: losses, gradients, boxes, averages, samples."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from benchmarks.inputs import Options, batch_of, build, plain_batch
from benchmarks.network import OurTraining, raw_outputs
from benchmarks.plain_loop import PlainEMA, PlainTraining
from benchmarks.plain_loss import plain_losses
from benchmarks.plain_model import PlainSimREC

from rec.data.batch import model_input
from rec.models.heads import REChead
from rec.training.ema import EMA

TINY = (
    "model.visual_backbone.width=0.125", "model.visual_backbone.depth=0.33", "model.language_encoder.dropout_rate=0.0",
    *(f"model.fusion_manner.modules.{i}.v_planes=null" for i in range(3)), "model.attention_manner.dropout_rate=0.0",
)  # fmt: skip
OPTIONS = Options(overrides=TINY, size=96, batches=(3,), rounds=1)
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def doubled(batch: dict) -> dict:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


@pytest.mark.parametrize("original_arithmetic", [False, True])
def test_plain_training_gives_our_losses_and_gradients(original_arithmetic) -> None:
    model = build(OPTIONS, original_arithmetic).double()
    plain = PlainSimREC(model, frozen_statistics=not original_arithmetic)
    batch = batch_of(4, OPTIONS)
    ready = doubled(plain_batch(batch))
    model.train()
    plain.train()
    losses = model(doubled(model_input(batch, *RAW)))
    wanted = plain(ready["image"], ready["tokens"], ready["label"])
    for name in ("loss", "loss_iou", "loss_obj"):
        assert losses[name].item() == pytest.approx(wanted[name].item(), rel=1e-6), name
    losses["loss"].backward()
    wanted["loss"].backward()
    theirs = {id(q): q.grad for q in plain.parameters()}
    pairs = [
        (name, parameter.grad, theirs[id(twin)])
        for part, twin_part in (
            (model.visual_backbone.stages, plain.trunk), (model.language_encoder, plain.language_encoder),
            (model.fusion_manner, plain.fusions), (model.multi_scale_manner, plain.multi_scale),
            (model.attention_manner, plain.attention), (model.head, plain.head),
        )
        for (name, parameter), twin in zip(part.named_parameters(), twin_part.parameters(), strict=True)
        if parameter.requires_grad
    ]  # fmt: skip
    largest = max(grad.abs().max() for _, grad, _ in pairs)
    for name, grad, wanted_grad in pairs:
        assert (grad - wanted_grad).abs().max() < 1e-6 * max(wanted_grad.abs().max(), 1e-3 * largest), name


def test_plain_prediction_gives_our_boxes() -> None:
    model = build(OPTIONS)
    plain = PlainSimREC(model).eval()
    batch = batch_of(6, OPTIONS, images=2)
    ready = plain_batch(batch)
    with torch.no_grad():
        got = model.eval()(model_input(batch, *RAW))
        want = plain(ready["image"], ready["tokens"])
    assert torch.allclose(got["box"], want["box"], atol=1e-2) and torch.allclose(got["score"], want["score"], atol=1e-5)


def test_the_plain_loss_is_ours_also_without_an_object() -> None:
    raw, box = raw_outputs(8, 7)
    box[3] = 0
    head = REChead(strides=[32])
    got, want = head.losses(raw, box), plain_losses(raw, box[:, None], 32)
    for name in want:
        assert got[name].item() == pytest.approx(want[name].item(), rel=1e-5)


def test_the_plain_average_is_ours() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    ours, plain = EMA(model), PlainEMA(model)
    for _ in range(3):
        for value in model.state_dict().values():
            value.add_(1)
        ours.update(model)
        plain.update(model)
    for name, value in plain.shadow.items():
        assert torch.allclose(ours.shadow[name].double(), value.double()), name


def test_both_training_steps_move_the_weights_alike() -> None:
    ours = OurTraining(OPTIONS)
    plain = PlainTraining(PlainSimREC(ours.model))
    batch = batch_of(4, OPTIONS)
    ours.step(batch)
    plain.step(plain_batch(batch))
    got, want = ours.model.head.box.weight, plain.model.head.box.weight
    assert torch.allclose(got, want, atol=2e-5)
    assert torch.allclose(ours.ema.shadow["head.box.weight"], plain.ema.shadow["head.box.weight"], atol=2e-5)
