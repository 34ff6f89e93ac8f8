"""Do the parts of a model fit each other? Checks with errors that name both sides."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor


def check_pyramid(backbone: Any, fusions: Sequence[Any], multi_scale: Any) -> None:
    """Raises a ValueError unless backbone, fusions on its coarsest maps, and multi-scale fusion fit each other."""
    strides, channels = tuple(backbone.strides), tuple(backbone.channels)
    name = type(backbone).__name__
    if len(multi_scale.v_planes) != len(strides) or len(fusions) > len(strides):
        raise ValueError(
            f"{name} gives {len(strides)} maps (strides {strides}); multi_scale_manner.v_planes expects"
            f" {len(multi_scale.v_planes)} and fusion_manner has {len(fusions)}: they must agree"
        )
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"each map must be half as large as the one before; {name}'s strides are {strides}")
    fused = len(strides) - len(fusions)
    wanted = tuple(fusion.v_planes for fusion in fusions)
    if channels[fused:] != wanted:
        raise ValueError(f"{name} gives maps of {channels[fused:]} channels, fusion_manner's v_planes are {wanted}")
    given = channels[:fused] + tuple(fusion.out_planes for fusion in fusions)
    if given != tuple(multi_scale.v_planes):
        raise ValueError(f"multi_scale_manner gets maps of {given} channels, its v_planes are {multi_scale.v_planes}")


def head_level(name: str, stride: int, in_channels: int, attention: Any, backbone: Any, multi_scale: Any) -> int:
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
            "this model has a mask head but the batch has no mask: use a dataset with masks (dataset.mask_path), or a"
            " model without mask_head"
        )
    return batch["mask"]
