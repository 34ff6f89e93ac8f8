"""The plain training step and evaluation: per-tensor EMA, meters read back in every step, a pass per sentence."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain_model import PlainSimREC


class PlainEMA:
    """Averages of every parameter and buffer, tensor by tensor, frozen ones too."""

    def __init__(self, model: torch.nn.Module, alpha: float = 0.9997) -> None:
        self.alpha, self.updates = alpha, 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        decay = min(self.alpha, (self.updates + 1) / (self.updates + 10))
        self.updates += 1
        for name, value in model.state_dict().items():
            average = (1.0 - decay) * value.detach() + decay * self.shadow[name]
            self.shadow[name] = average.to(value.dtype).clone()


class Meter:
    """Running mean of a number."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        self.total, self.count = self.total + value * count, self.count + count

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)


class PlainTraining:
    """Model, unfused Adam on the trainable parameters, clipping, EMA, meters: one :meth:`step` per batch."""

    def __init__(
        self,
        model: PlainSimREC,
        rate: float = 1e-4,
        clip: float = 0.15,
        alpha: float = 0.9997,
        schedule: Callable[[int], float] = lambda _: 1.0,
    ) -> None:
        self.model, self.ema, self.clip = model.train(), PlainEMA(model, alpha), clip
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, rate, (0.9, 0.98), 1e-9)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.meters = {"loss": Meter(), "loss_iou": Meter(), "loss_obj": Meter()}

    def step(self, batch: dict[str, Tensor]) -> None:
        """One update from a batch of :func:`benchmarks.inputs.plain_batch`."""
        losses = self.model(batch["image"], batch["tokens"], batch["label"])
        self.optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update(self.model)
        for name, meter in self.meters.items():
            meter.update(losses[name].item(), len(batch["image"]))


@torch.no_grad()
def plain_evaluate(model: PlainSimREC, loader: Iterable[Any], mask_folder: Path) -> dict[str, float]:
    """Box and mask accuracy, one pass of the whole network per sentence, boxes and masks judged one by one.

    Args:
        loader: batches of :class:`benchmarks.plain_data.PlainDataSet` in evaluation.
        mask_folder: of the ``.npy`` masks, which the original reads a second time here.
    """
    model.eval()
    device = next(model.parameters()).device
    boxes, masks = Meter(), Meter()
    for tokens, image, _, _, box, numbers, info in loader:
        predicted = model(image.to(device), tokens.to(device))
        corners = predicted["box"].cpu().numpy()
        pictures = predicted["mask"].cpu().numpy()
        for row in range(len(corners)):
            height, width, nh, nw, dx, dy = (int(value) for value in info[row][:6])
            corner = corners[row].copy()
            corner[[0, 2]] = (corner[[0, 2]] - dx) * (width / nw)
            corner[[1, 3]] = (corner[[1, 3]] - dy) * (height / nh)
            x, y, w, h = box[row].tolist()
            boxes.update(float(overlap(corner, (x, y, x + w, y + h)) > 0.5), 1)
            truth = np.load(mask_folder / f"{int(numbers[row])}.npy") > 0.5
            masks.update(mask_overlap(pictures[row][dy : dy + nh, dx : dx + nw], truth), 1)
    model.train()
    return {"Acc@0.5": boxes.mean, "mask_mIoU": masks.mean, "count": boxes.count}


def overlap(first: Any, second: Any) -> float:
    """IoU of two xyxy boxes."""
    w = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    h = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    area = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (second[3] - second[1])
    return w * h / (area - w * h) if w * h > 0 else 0.0


def mask_overlap(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of a letterboxed mask, resized to the image, with the true one."""
    import cv2

    grown = cv2.resize(predicted, truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0
    return float(((grown & truth).sum() + 1e-10) / ((grown | truth).sum() + 1e-10))
