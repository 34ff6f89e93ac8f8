"""Plain SimREC: the same mathematics as ``rec.models.SimREC``, written the way the original computes it.

Contiguous layout; 1x1 convolutions behind the bilinear upsampling; every scale's projection and the attention's map
logits computed though nobody reads them; attention by convolutions over the map; BatchNorm and activation as operations
of their own; the loss image by image (:mod:`benchmarks.plain_loss`). Layers that both implementations would write alike
(one convolution with BatchNorm and activation, the language encoder) are copies of ours, run step by step.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_loss import plain_losses
from rec.models import SimREC
from rec.models.backbones.cspdarknet import CSPStage, PyramidPooling
from rec.models.layers import ConvBlock, coordinate_channels


class PlainSimREC(nn.Module):
    """A plain twin of ``model`` with the same weights.

    Args:
        model: SimREC with a CspDarkNet or SmallResNet, a box head with SimREC's own losses, and no mask head.
        frozen_statistics: whether BatchNorm layers of frozen stages keep their statistics, as ours do; False is the
            original's arithmetic.
    """

    def __init__(self, model: SimREC, frozen_statistics: bool = True) -> None:
        super().__init__()
        own: Any = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        self.trunk, self.language_encoder = own.visual_backbone.stages, own.language_encoder
        self.outputs, self.frozen_stages = own.visual_backbone.output_stages, own.visual_backbone.frozen_stages
        self.fusions: Any = own.fusion_manner
        self.multi_scale: Any = own.multi_scale_manner
        self.attention, self.head, self.level = own.attention_manner, own.head, own.levels["head"]
        self.frozen_statistics = frozen_statistics
        # What the original computes for nobody.
        widths = self.multi_scale.v_planes
        hidden = self.multi_scale.up[0][1].conv.out_channels
        planes = [hidden + widths[0], *(2 * hidden + width for width in widths[1:-1]), hidden + widths[-1]]
        unread = set(range(len(widths))) - {self.level}
        for planes_of_level in planes[len(self.multi_scale.down) : -1]:
            layers = nn.AvgPool2d(2), ConvBlock(planes_of_level, hidden), ConvBlock(hidden, hidden, 3)
            self.multi_scale.down.append(nn.Sequential(*layers))
        self.unread = nn.ModuleDict({str(i): ConvBlock(planes[i], self.multi_scale.out_planes) for i in sorted(unread)})
        self.unread_map = nn.Conv2d(self.attention.d_v, 1, 3, padding=1)
        self.to(self.head.box.weight)

    def train(self, mode: bool = True) -> "PlainSimREC":
        super().train(mode)
        if self.frozen_statistics:
            self.trunk[: self.frozen_stages].eval()
        return self

    def forward(self, image: Tensor, tokens: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        """Losses where there is a label, else predictions.

        Args:
            image: float ``(B, 3, S, S)``, normalised.
            tokens: int64 ``(B, L)``.
            label: ``(B, 1, 4)`` cxcywh fractions.
        """
        raw = self.raw(image, tokens)
        if label is not None:
            return plain_losses(raw, label, self.head.stride, self.head.box_loss_weight, self.head.box_loss)
        return self.decode(raw)

    def raw(self, image: Tensor, tokens: Tensor) -> Tensor:
        """The head's raw outputs ``(B, 5, H, W)``."""
        maps = []
        for number, stage in enumerate(self.trunk):
            image = stage_of(stage, image)
            if number in self.outputs:
                maps.append(image)
        phrase = self.language_encoder(tokens)
        fused = [fusion(part, v, phrase) for part, v in zip(self.fusions, maps, strict=True)]
        x = block(self.head.stem, self.attend(phrase, self.across_scales(fused)))
        for layer in self.head.tower:
            x = block(layer, x)
        return torch.cat([self.head.box(x), self.head.objectness(x)], 1)

    def across_scales(self, maps: Sequence[Tensor]) -> Tensor:
        """The map of the head's level; all others are computed too."""
        paths = [maps[-1]]
        for up, v in zip(reversed(self.multi_scale.up), reversed(maps[:-1]), strict=True):
            doubled = F.interpolate(paths[0], scale_factor=2, mode="bilinear", align_corners=True)
            paths.insert(0, torch.cat([block(up[1], block(up[0], doubled)), v], 1))
        states = [paths[0]]
        for down, path in zip(self.multi_scale.down, paths[1:], strict=True):
            states.append(torch.cat([block(down[2], block(down[1], F.avg_pool2d(states[-1], 2))), path], 1))
        for level, layer in self.unread.items():
            block(layer, states[int(level)])
        return block(self.multi_scale.out[str(self.level)], states[self.level])

    def attend(self, phrase: Tensor, v: Tensor) -> Tensor:
        """GARAN with its linear maps as 1x1 convolutions over the map."""
        part, (height, width) = self.attention, v.shape[-2:]
        heads = part.num_heads

        def over_map(linear: nn.Linear, x: Tensor) -> Tensor:
            return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)

        query = part.query(phrase).unflatten(-1, (heads, -1))[:, :, None]
        collect_key, diffuse_key, value = (
            over_map(linear, v).flatten(2).unflatten(1, (heads, -1))
            for linear in (part.collect_key, part.diffuse_key, part.value)
        )
        scale = query.shape[-1] ** 0.5
        collect = part.dropout(F.softmax(query @ collect_key / scale, -1))
        diffuse = part.dropout(torch.sigmoid(query @ diffuse_key / scale))
        attended = (collect @ value.transpose(-2, -1)).transpose(-2, -1) * diffuse
        attended = attended.flatten(1, 2).unflatten(-1, (height, width))
        if part.transposed_output:
            attended = attended.transpose(-2, -1)
        attended = over_map(part.out, attended)
        self.unread_map(attended)
        return F.leaky_relu(part.norm(attended) + v, 0.1)

    def decode(self, raw: Tensor) -> dict[str, Tensor]:
        """``box`` xyxy in pixels and ``score`` of the best cell, and the all-zero mask SimREC returns."""
        batch, _, height, width = raw.shape
        stride, size = self.head.stride, height * self.head.stride
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack((columns, rows), 2).view(1, -1, 2).type(raw.dtype).to(raw.device)
        outputs = raw.flatten(2).permute(0, 2, 1)
        centre = (outputs[..., :2] + grid) * stride
        extent = torch.exp(outputs[..., 2:4]) * stride
        best = outputs[..., 4].sigmoid().argmax(1)
        every = torch.arange(batch, device=raw.device)
        low = centre[every, best] - extent[every, best] / 2
        box = torch.cat([low, low + extent[every, best]], 1)
        score = outputs[every, best, 4].sigmoid()
        return {"box": box, "score": score, "mask": torch.zeros(batch, size, size, device=raw.device)}


def block(part: Any, x: Tensor) -> Tensor:
    """Convolution, BatchNorm, activation, one after another."""
    return part.act(part.norm(part.conv(x)))


def stage_of(stage: nn.Module, x: Tensor) -> Tensor:
    """A stage of the trunk."""
    if isinstance(stage, CSPStage):
        y = block(stage.main, x)
        for bottleneck in stage.bottlenecks:
            y = y + block(bottleneck.expand, block(bottleneck.reduce, y))
        return block(stage.merge, torch.cat([y, block(stage.bypass, x)], 1))
    if isinstance(stage, PyramidPooling):
        maps = [block(stage.reduce, x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return block(stage.merge, torch.cat(maps, 1))
    if isinstance(stage, nn.Sequential):  # of SmallResNet
        x, residual = block(stage[0], x), stage[1]
        return x + block(residual.second, block(residual.first, x))
    return block(stage, x)


def fusion(part: Any, v: Tensor, phrase: Tensor) -> Tensor:
    """SimpleFusion of a map with one phrase per image."""
    v = torch.cat([v, coordinate_channels(v)], 1) if part.coordinates else v
    image = F.leaky_relu(part.image.norm(part.image.conv(v)), 0.1)
    text = F.leaky_relu(part.text.norm(part.text.conv(phrase[:, :, None, None])), 0.1)
    return F.leaky_relu(part.norm(image * text), 0.1)
