"""What every backbone shares: stages in a row, maps of chosen strides, and freezing that is real."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ZERO_TO_ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Its BatchNorm layers, SyncBatchNorm among them."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


class Backbone(nn.Module):
    """Runs ``stages`` one after another and returns the maps behind some of them, finest first.

    Args:
        stages: the modules to run, in order. Their place in this list is part of the state-dict names.
        outputs: stage number to ``(stride, channels)`` of the map behind it, for the maps to return.
        frozen_stages: how many leading stages are frozen: they get no gradients, run without autograd and keep their
            BatchNorm statistics, also after ``model.train()``.
        update_frozen_statistics: original arithmetic: the BatchNorm layers of frozen stages stay in training mode
            (batch statistics, running statistics keep moving) while their weights do not.
        fixed_statistics: BatchNorm layers use and keep their running statistics in training too, while scale and shift are
            trained: for fine-tuning with small batches, or where the statistics were estimated on other images.

    Attributes:
        strides: pixels of the image per cell, one per returned map.
        channels: channels of the returned maps.
        expects: mean and std (of pixels in 0 to 1, RGB) that its pretrained weights were trained with; None without any.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        outputs: Mapping[int, tuple[int, int]],
        frozen_stages: int = 0,
        update_frozen_statistics: bool = False,
        fixed_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.output_stages = tuple(sorted(outputs))
        self.strides = tuple(outputs[stage][0] for stage in self.output_stages)
        self.channels = tuple(outputs[stage][1] for stage in self.output_stages)
        self.update_frozen_statistics, self.fixed_statistics = update_frozen_statistics, fixed_statistics
        self.expects: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        self.checkpoint_stages = False
        self.freeze(frozen_stages)

    def freeze(self, stages: int) -> None:
        """Freezes the first ``stages`` stages and releases the others; may be called between epochs."""
        self.frozen_stages = stages
        for number, stage in enumerate(self.stages):
            stage.requires_grad_(number >= stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.update_frozen_statistics:
            for stage in self.stages[: self.frozen_stages]:
                stage.eval()
        if self.fixed_statistics:
            for layer in batch_norms(self):
                layer.eval()
        return self

    def from_original(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
        """A state dict as its authors write it, under names of ours as far as they are the backbone's own affair.

        Args:
            state: of a file.
            metadata: what the file says of itself: that of a safetensors file; of a PyTorch file nothing.
        """
        return dict(state)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` to maps ``(B, channels[i], H / strides[i], W / strides[i])``.

        Raises:
            ValueError: H or W is not a multiple of the largest stride.
        """
        check_image_size(image, self.strides[-1])
        # Without gradients ConvBlocks take their fast path (rec.models.folding); the original's arithmetic does without it.
        plain = 0 if self.update_frozen_statistics else self.frozen_stages
        grad = torch.is_grad_enabled()
        maps, x = [], image
        for number, stage in enumerate(self.stages):
            with torch.set_grad_enabled(grad and number >= plain):
                x = self.run_stage(stage, x)
            if number in self.output_stages:
                maps.append(x)
        return maps

    def run_stage(self, stage: nn.Module, x: Tensor | list[Tensor]) -> Any:
        """``stage(x)``; with ``checkpoint_stages`` its activations are not kept but computed again in the backward pass."""
        if not (self.checkpoint_stages and self.training and torch.is_grad_enabled()):
            return stage(x)
        if torch.compiler.is_compiling():  # a compiled graph updates running statistics once, in its forward half
            return checkpoint(stage, x, use_reentrant=False)
        return checkpoint(stage, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _still_statistics(stage)))


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm layers keep their running statistics: the second pass of a checkpoint must not count a batch twice."""
    norms = batch_norms(module)
    kept = [(layer.momentum, {name: buffer.clone() for name, buffer in layer.named_buffers()}) for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, buffers) in zip(norms, kept, strict=True):
            layer.momentum = momentum
            layer.load_state_dict(buffers, strict=False)


def check_image_size(image: Tensor, stride: int) -> None:
    """Raises a ValueError when the sides of ``image`` ``(B, 3, H, W)`` are not multiples of ``stride``."""
    height, width = image.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"an image of {height}x{width} pixels does not fit a backbone of stride {stride}: both sides must be"
            f" multiples of {stride} (dataset.input_shape and train.multi_scale_training.img_scales set them)"
        )
