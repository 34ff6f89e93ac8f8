"""Fits the parts of a model to each other, with errors that name both sides where they cannot fit."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

from torch import Tensor

from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion


@runtime_checkable
class HasMaps(Protocol):
    """A visual backbone of anybody's: it names the strides and channels of its maps, finest first."""

    @property
    def strides(self) -> Sequence[int]: ...
    @property
    def channels(self) -> Sequence[int]: ...


def connect(backbone: object, fusions: Sequence[SimpleFusion], multi_scale: MultiScaleFusion, every_map: bool) -> None:
    """Fits fusions and multi-scale fusion to the backbone where their v_planes are None, and checks the rest.

    Args:
        fusions: on every map of the backbone (``every_map``), or on the coarsest ones.

    Raises:
        ValueError: a backbone without strides and channels, or parts that do not fit it or each other.
    """
    name = type(backbone).__name__
    if not isinstance(backbone, HasMaps):
        raise ValueError(f"{name} has no strides and channels: a visual backbone names those of its maps, finest first")
    strides, channels = tuple(backbone.strides), tuple(backbone.channels)
    if len(fusions) > len(strides) or (every_map and len(fusions) != len(strides)):
        raise ValueError(
            f"fusion_manner has {len(fusions)} fusions, {name} gives {len(strides)} maps (strides {strides}): one fusion"
            " per map is needed"
        )
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"each map must be half as large as the one before; {name}'s strides are {strides}")
    fused = len(strides) - len(fusions)
    for fusion, planes in zip(fusions, channels[fused:], strict=True):
        if fusion.v_planes is None:
            fusion.set_image_planes(planes)
    wanted = tuple(fusion.v_planes for fusion in fusions)
    if channels[fused:] != wanted:
        raise ValueError(f"{name} gives maps of {channels[fused:]} channels, fusion_manner's v_planes are {wanted}")
    given = channels[:fused] + tuple(fusion.out_planes for fusion in fusions)
    if multi_scale.v_planes is None:
        multi_scale.set_image_planes(given)
    if given != multi_scale.v_planes:
        raise ValueError(f"multi_scale_manner gets maps of {given} channels, its v_planes are {multi_scale.v_planes}")


def head_level(
    name: str,
    stride: int,
    in_channels: int,
    attention: GaranAttention,
    backbone: HasMaps,
    multi_scale: MultiScaleFusion,
) -> int:
    """Number of the map of ``stride``; a ValueError where there is none or its channels differ."""
    if stride not in backbone.strides:
        raise ValueError(f"{name} sits on stride {stride}, {type(backbone).__name__} has {tuple(backbone.strides)}")
    for what, expected in ((f"in_channels of {name}", in_channels), (f"d_v of the attention of {name}", attention.d_v)):
        if expected != multi_scale.out_planes:
            raise ValueError(f"{what} is {expected}, multi_scale_manner's maps have {multi_scale.out_planes} channels")
    return tuple(backbone.strides).index(stride)


def mask_of(batch: Mapping[str, Tensor]) -> Tensor:
    """``batch["mask"]``; a ValueError that says what to do where the data have none."""
    if "mask" not in batch:
        raise ValueError(
            "this model has a mask head but the batch has no mask: set dataset.with_masks=true (the data must be prepared"
            " with --generate_mask), or use a model without mask_head"
        )
    return batch["mask"]
