"""Where image and phrase meet: SimpleFusion per scale, MultiScaleFusion across scales, GARAN attention.

From MCN (Luo et al., "Multi-task Collaborative Network for Joint Referring Expression Comprehension and
Segmentation", CVPR 2020) and SimREC (Luo et al., "What Goes beyond Multi-modal Fusion in One-stage Referring
Expression Comprehension", 2022).
"""

import functools
from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.folding import foldable, folded, scaled, trainable
from rec.models.layers import AveragePool, ConvBlock, UpsampledConvBlock, check_sizes, coordinate_channels, norm_act

_leaky = functools.partial(F.leaky_relu, negative_slope=0.1, inplace=True)


class Projection(nn.Module):
    """1x1 convolution with bias, BatchNorm, LeakyReLU: ``(B, in, H, W)`` to ``(B, out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if foldable(x, self.conv, self.norm):
            return folded(x, self.conv, self.norm, "lrelu")
        if trainable(x, self.norm):
            return _leaky(scaled(x, self.conv, self.norm))
        return norm_act(self.conv(x), self.norm, _leaky, "lrelu")


class SimpleFusion(nn.Module):
    """Project image and phrase to the same channels, multiply, normalise.

    The image half (:meth:`project_image`) does not see the phrase and can be shared by all phrases on an image.

    Args:
        v_planes: channels of the image map; None: the model sets them to the backbone's (:meth:`set_image_planes`).
        out_planes: channels of the result.
        q_planes: width of the phrase vector.
        coordinates: give every cell its column and row (-1 to 1) as two more channels. Convolutions cannot tell
            place beyond their reach from the border, which phrases like "leftmost" need.
    """

    def __init__(self, v_planes: int | None, out_planes: int, q_planes: int, coordinates: bool = False) -> None:
        super().__init__()
        check_sizes(out_planes=out_planes, q_planes=q_planes, v_planes=1 if v_planes is None else v_planes)
        self.v_planes, self.out_planes, self.q_planes = v_planes, out_planes, q_planes
        self.coordinates = coordinates
        self.text = Projection(q_planes, out_planes)
        self.norm = nn.BatchNorm2d(out_planes)
        if v_planes is not None:
            self.set_image_planes(v_planes)

    def set_image_planes(self, v_planes: int) -> None:
        """Builds the image half for maps of ``v_planes`` channels."""
        self.v_planes = v_planes
        self.image = Projection(v_planes + (2 if self.coordinates else 0), self.out_planes)

    def project_image(self, v: Tensor) -> Tensor:
        """``(images, v_planes, H, W)`` to ``(images, out_planes, H, W)``."""
        if self.coordinates:
            v = torch.cat([v, coordinate_channels(v)], 1)
        return self.image(v)

    def fuse(self, projected: Tensor, q: Tensor) -> Tensor:
        """:meth:`project_image`'s map, one row per phrase, and phrases ``(B, q_planes)`` to ``(B, out_planes, H, W)``.

        Raises:
            ValueError: one phrase in training: BatchNorm over the phrases needs two.
        """
        if self.training and self.text.norm.training and len(q) < 2:
            raise ValueError(
                "SimpleFusion normalises the phrases over the batch: training needs at least 2 per process"
                " (raise train.batch_size or use fewer processes; a data set of one sample cannot train it)"
            )
        text = self.text(q[:, :, None, None])
        return norm_act(projected * text, self.norm, _leaky, "lrelu")

    def forward(self, v: Tensor, q: Tensor) -> Tensor:
        """Image maps ``(B, v_planes, H, W)`` and phrases ``(B, q_planes)`` to ``(B, out_planes, H, W)``."""
        return self.fuse(self.project_image(v), q)


class MultiScaleFusion(nn.Module):
    """A path aggregation network (PANet, Liu et al., CVPR 2018): scales exchange top-down, then bottom-up.

    With h = ``hidden_planes`` / 2, maps v_0 (finest) ... v_n (coarsest): top-down ``p_i = [up(p_i+1), v_i]`` from
    ``p_n = v_n``; bottom-up ``r_i = [down(r_i-1), p_i]`` from ``r_0 = p_0``; the outputs are 1x1 blocks of ``r_i``.
    ``up`` doubles bilinearly, ``down`` averages 2x2; both then apply a 1x1 and a 3x3 block of h channels.

    Args:
        v_planes: channels of the maps, finest first; each is half as large as the one before. None: the model sets
            them to what its fusions and backbone give (:meth:`set_image_planes`).
        scaled: h is half of ``hidden_planes``; otherwise all of it.
        hidden_planes: channels of the outputs.
    """

    def __init__(
        self, v_planes: Sequence[int] | None = (256, 512, 1024), scaled: bool = True, hidden_planes: int = 512
    ) -> None:
        super().__init__()
        width = {"half of hidden_planes": hidden_planes // 2} if scaled else {"hidden_planes": hidden_planes}
        check_sizes(**width, v_planes=min(v_planes or (1,)))
        self.v_planes: tuple[int, ...] | None = None
        self.scaled, self.out_planes = scaled, hidden_planes
        if v_planes is not None:
            self.set_image_planes(v_planes)

    def set_image_planes(self, v_planes: Sequence[int]) -> None:
        """Builds the layers for maps of ``v_planes`` channels, finest first."""
        self.v_planes = tuple(v_planes)
        hidden_planes = self.out_planes
        width = hidden_planes // 2 if self.scaled else hidden_planes
        top_down = [width + planes for planes in v_planes[:-1]] + [v_planes[-1]]
        bottom_up = top_down[:1] + [width + planes for planes in top_down[1:]]
        self.up = nn.ModuleList(
            nn.Sequential(UpsampledConvBlock(planes, width), ConvBlock(width, width, 3)) for planes in top_down[1:]
        )
        self.down = nn.ModuleList(
            nn.Sequential(AveragePool(), ConvBlock(planes, width), ConvBlock(width, width, 3))
            for planes in bottom_up[:-1]
        )
        self.out = nn.ModuleDict({str(i): ConvBlock(planes, hidden_planes) for i, planes in enumerate(bottom_up)})

    def keep_outputs(self, levels: Collection[int]) -> None:
        """Drops what only other levels than ``levels`` need, so that no output is computed or trained that no one reads."""
        for level in set(self.out) - {str(level) for level in levels}:
            del self.out[level]
        self.down = self.down[: max(levels)]

    def forward(self, maps: Sequence[Tensor]) -> dict[int, Tensor]:
        """Maps ``(B, v_planes[i], H_i, W_i)``, finest first, to ``{level: (B, hidden_planes, H_i, W_i)}``.

        Raises:
            ValueError: another number of maps, or other channels, than ``v_planes`` names.
        """
        if tuple(v.shape[1] for v in maps) != self.v_planes:
            raise ValueError(
                f"MultiScaleFusion expects maps of v_planes={self.v_planes} channels, it got"
                f" {tuple(v.shape[1] for v in maps)}"
            )
        # Averaging goes channel by channel, so it is done before the parts of a map are joined: where no output reads
        # the finest map, it is never joined, and its gradient never taken apart.
        parts: list[Tensor] = [maps[-1]]
        paths: list[Tensor] = []
        for up, v in zip(reversed(self.up), reversed(maps[:-1]), strict=True):
            paths.insert(0, torch.cat(parts, 1))
            parts = [up(paths[0]), v]
        outputs = {}
        for level in range(len(self.down) + 1):
            if level:
                halve, *blocks = self.down[level - 1].children()
                x = torch.cat([halve(part) for part in parts], 1)
                for block in blocks:
                    x = block(x)
                parts = [x, paths[level - 1]]
            if str(level) in self.out:
                outputs[level] = self.out[str(level)](torch.cat(parts, 1))
        return outputs


class GaranAttention(nn.Module):
    """GARAN: the phrase collects one vector from the whole map and diffuses it back over the cells.

    Zhou et al., "A Real-Time Global Inference Network for One-Stage Referring Expression Comprehension", TNNLS 2021.
    With q = query(text) and 1x1 convolutions collect_key, diffuse_key, value of the map x, per head of width d:
    ``c = sum_i softmax_i(q . collect_key(x_i) / sqrt(d)) value(x_i)``,
    ``g_i = sigmoid(q . diffuse_key(x_i) / sqrt(d))``, ``a_i = out(g_i c)``, result ``LeakyReLU(norm(a) + x)``.

    No convolution is run over the map: ``q . (W x_i + b) = (W^T q) . x_i + q . b`` and
    ``out(g_i c) = g_i (out c)`` move all weight matrices to the phrase's side, with the same result.

    Args:
        d_q: width of the phrase vector.
        d_v: channels of the map.
        num_heads: heads.
        dropout_rate: of both attention maps.
        transposed_output: original arithmetic: the attention result is added transposed (row i, column j receives
            cell j, i). Released SimREC and MCN weights were trained so. Square maps only.
    """

    def __init__(
        self,
        d_q: int = 512,
        d_v: int = 512,
        num_heads: int = 2,
        dropout_rate: float = 0.1,
        transposed_output: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(d_q=d_q, d_v=d_v, num_heads=num_heads)
        if d_v % num_heads:
            raise ValueError(f"d_v {d_v} is not divisible by num_heads {num_heads}")
        self.d_q, self.d_v, self.num_heads = d_q, d_v, num_heads
        self.transposed_output = transposed_output
        self.query = nn.Linear(d_q, d_v)
        self.collect_key = nn.Linear(d_v, d_v)
        self.diffuse_key = nn.Linear(d_v, d_v)
        self.value = nn.Linear(d_v, d_v)
        self.out = nn.Linear(d_v, d_v)
        self.norm = nn.BatchNorm2d(d_v)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Phrases ``(B, d_q)`` and maps ``(B, d_v, H, W)`` to the attended map and ``a``, both ``(B, d_v, H, W)``.

        Raises:
            ValueError: ``transposed_output`` on a map that is not square.
        """
        height, width = v.shape[-2:]
        cells = v.flatten(2)
        query = self.query(q).unflatten(-1, (self.num_heads, -1)) / (self.d_v // self.num_heads) ** 0.5
        collect = self.dropout(self._scores(query, self.collect_key, cells).softmax(-1))
        diffuse = self.dropout(self._scores(query, self.diffuse_key, cells).sigmoid())
        if self.transposed_output:
            if height != width:
                raise ValueError(f"transposed_output needs a square map, this one is {height}x{width}")
            diffuse = diffuse.unflatten(-1, (height, width)).transpose(-2, -1).flatten(-2)

        pooled = collect @ cells.transpose(1, 2)
        value_weight = self.value.weight.unflatten(0, (self.num_heads, -1))
        value_bias = self.value.bias.unflatten(0, (self.num_heads, -1))
        value = torch.einsum("bhc,hdc->bhd", pooled, value_weight) + collect.sum(-1, keepdim=True) * value_bias
        out_weight = self.out.weight.unflatten(1, (self.num_heads, -1))
        value = torch.einsum("bhd,chd->bch", value, out_weight)
        # Cells before channels, the order in memory of a channels-last map: the layers behind read it as it is.
        attended = (diffuse.mT @ value.mT + self.out.bias).mT.unflatten(-1, (height, width))
        return _leaky(self.norm(attended) + v), attended

    def _scores(self, query: Tensor, key: nn.Linear, cells: Tensor) -> Tensor:
        """``query . key(cell)``: ``(B, heads, d)`` and ``(B, C, cells)`` to ``(B, heads, cells)``."""
        weight = key.weight.unflatten(0, (self.num_heads, -1))
        bias = key.bias.unflatten(0, (self.num_heads, -1))
        folded = torch.einsum("bhd,hdc->bhc", query, weight)
        return folded @ cells + (query * bias).sum(-1, keepdim=True)
