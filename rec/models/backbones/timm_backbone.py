"""Backbones from timm: any of its models that gives feature maps, and the classic ones by name."""

import functools
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rec.models.backbones.base import Backbone, check_image_size
from rec.models.original_weights import read_state_dict
from rec.models.soundness import unsound
from rec.names import hands_on

logger = logging.getLogger(__name__)

# Lets models with position tables or windows take any image size; models without them refuse the argument.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(Backbone):
    """A timm model with ``features_only``; strides and channels are read from its ``feature_info``.

    Models with one stride throughout (vision transformers) get a simple feature pyramid (Li et al., "Exploring Plain
    Vision Transformer Backbones for Object Detection", ECCV 2022): maps at half, once and twice the patch size.

    timm's weights expect images normalised with their own mean and std, those of ``timm.get_pretrained_cfg(model_name)``.

    Args:
        model_name: see ``timm.list_models()``.
        pretrained: load timm's weights: from its download cache, the network, or ``pretrained_weight_path``.
        pretrained_weight_path: a local weight file of this timm model (``.safetensors`` or ``.pth``).
        freeze_backbone: freeze the timm model (not the pyramid on top of a vision transformer).
        multi_scale_outputs: return all ``out_strides``; otherwise only the last.
        out_strides: strides of the returned maps. Nothing is built beyond the last.
        update_frozen_statistics, fixed_statistics: see :class:`~rec.models.backbones.base.Backbone`.
        blocks: of a vision transformer: how many of its blocks are built, from the first, or ``"all"``. None builds three, as
            version 0.1 did, whose model folders say no number.

    Raises:
        ValueError: timm has no such model, it gives no feature maps, or not of these strides, or has not so many blocks.
        RuntimeError: the weights cannot be reached.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        pretrained_weight_path: str | None = None,
        freeze_backbone: bool = False,
        multi_scale_outputs: bool = True,
        out_strides: Sequence[int] = (8, 16, 32),
        update_frozen_statistics: bool = False,
        fixed_statistics: bool = False,
        blocks: int | str | None = None,
    ) -> None:
        options, numbers, reductions, channels = _describe(model_name)
        strides = sorted(out_strides) if multi_scale_outputs else [max(out_strides)]
        if len(set(reductions)) == 1:
            patch, width = reductions[0], channels[0]
            available = {patch // 2: width, patch: width, 2 * patch: width}
            levels = [_last_block(model_name, blocks, numbers[-1] + 1)]
        else:
            available = dict(zip(reductions, channels, strict=True))
            number_of = dict(zip(reductions, numbers, strict=True))
            levels = [number_of[stride] for stride in strides if stride in number_of]
        if not set(strides) <= set(available):
            raise ValueError(f"{model_name} has maps of stride {sorted(available)}; out_strides asks for {strides}")
        body = _create(model_name, pretrained, pretrained_weight_path, out_indices=levels, **options)
        stages: list[nn.Module] = [body]
        if len(set(reductions)) == 1:
            stages.append(FeaturePyramid(channels[0], [stride / reductions[0] for stride in strides]))
        super().__init__(
            stages,
            # Numbers of maps rather than of stages: timm's model is one stage that gives them all.
            {number: (stride, available[stride]) for number, stride in enumerate(strides)},
            frozen_stages=1 if freeze_backbone else 0,
            update_frozen_statistics=update_frozen_statistics,
            fixed_statistics=fixed_statistics,
        )
        self.model_name = model_name
        if pretrained:
            import timm

            published: Any = timm.get_pretrained_cfg(model_name)
            self.expects = tuple(published.mean), tuple(published.std)
        self.channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, image: Tensor) -> list[Tensor]:
        check_image_size(image, self.strides[-1])
        body, *pyramid = self.stages
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen_stages == 0):
            maps = self.run_stage(body, image) if torch.compiler.is_compiling() else self._maps(body, image)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2).contiguous() for x in maps]
        return pyramid[0](maps[-1]) if pyramid else maps

    @property
    def made_for(self) -> tuple[int, int]:
        """Height and width of the images of the model's published weights, pixels; some models take no others."""
        import timm

        published: Any = timm.get_pretrained_cfg(self.model_name)
        return published.input_size[1:]

    def _maps(self, body: nn.Module, image: Tensor) -> list[Tensor]:
        """The body's maps; a ValueError where it was made for other sizes, which timm's models notice in many ways or not."""
        height, width = image.shape[-2:]
        try:
            maps: list[Tensor] = self.run_stage(body, image)
        except (AssertionError, IndexError, RuntimeError) as error:
            reason = str(error)
            if isinstance(error, RuntimeError) and not re.search("size of tensor|invalid for input of size", reason):
                raise
        else:
            found = maps[-1].shape[1:3] if self.channels_last else maps[-1].shape[-2:]
            if len(self.stages) > 1 or found == (height // self.strides[-1], width // self.strides[-1]):
                return maps
            reason = f"its map of stride {self.strides[-1]} has {found[0]} x {found[1]} cells"
        raise ValueError(
            f"timm's {self.model_name} does not take images of {height} x {width} pixels ({reason or 'it says no more'}); it was "
            f"made for {' x '.join(map(str, self.made_for))}: set dataset.input_shape to that, and "
            "train.multi_scale_training.enabled=false, or take another model"
        )


class FeaturePyramid(nn.Module):
    """One map ``(B, C, H, W)`` to maps of ``scales`` times its stride: 0.5 (transposed convolution), 1, 2 (pooling)."""

    def __init__(self, channels: int, scales: Sequence[float]) -> None:
        super().__init__()
        resize: dict[float, Any] = {
            0.5: lambda: nn.ConvTranspose2d(channels, channels, 2, 2),
            1: nn.Identity,
            2: lambda: nn.MaxPool2d(2),
        }
        self.levels = nn.ModuleList(
            nn.Sequential(resize[scale](), nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for scale in scales
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [level(x) for level in self.levels]


@hands_on
class VGG16(TimmBackbone):
    """VGG16 with BatchNorm (Simonyan and Zisserman, 2014), from timm: 512 channels at strides 8, 16 and 32.

    The arguments are those of :class:`TimmBackbone`.
    """

    def __init__(self, pretrained: bool = False, *given: Any, **named: Any) -> None:
        super().__init__("vgg16_bn", pretrained, *given, **named)


@hands_on
class ResNet(TimmBackbone):
    """ResNet (He et al., 2015), from timm.

    Channels at strides 8, 16, 32: 128, 256, 512 (depth 18 and 34) or 512, 1024, 2048 (50, 101, 152).

    Args:
        depth: 18, 34, 50, 101 or 152.

    The other arguments are those of :class:`TimmBackbone`.
    """

    variant = ""

    def __init__(self, depth: int = 50, pretrained: bool = False, *given: Any, **named: Any) -> None:
        if depth not in (18, 34, 50, 101, 152):
            raise ValueError(f"{type(self).__name__} has depth 18, 34, 50, 101 or 152, not {depth}")
        super().__init__(f"resnet{depth}{self.variant}", pretrained, *given, **named)


class DResNet(ResNet):
    """ResNet-D (He et al., "Bag of Tricks", CVPR 2019), from timm; arguments and channels as for :class:`ResNet`."""

    variant = "d"


def _last_block(name: str, blocks: int | str | None, depth: int) -> int:
    """Number of the last block that is built; the log says where nobody asked for so few."""
    count = depth if blocks == "all" else min(3, depth) if blocks is None else blocks
    if type(count) is not int or not 1 <= count <= depth:
        raise ValueError(f"{name} has {depth} blocks; blocks is {blocks!r}, expected a number up to that or all")
    if blocks is None and count < depth and torch.empty(0).device.type != "meta":  # where no model folder is read
        logger.warning(
            "%s: the first %d of its %d blocks are built; for the whole of it: model.visual_backbone.blocks=all",
            name,
            count,
            depth,
        )
    return count - 1


def _describe(name: str) -> tuple[dict[str, Any], list[int], list[int], list[int]]:
    """Arguments that free the image size, and timm's number, stride and channels of every map, without allocating weights."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:6]}*")[:8])
        raise ValueError(f"timm has no model {name!r}; near it: {near or 'none (see timm.list_models())'}")
    for options in _ANY_SIZE:
        model: Any
        try:
            with torch.device("meta"):
                model = timm.create_model(name, features_only=True, **options)
        except TypeError:
            continue
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise ValueError(f"timm's {name} gives no feature maps (features_only): {error}") from None
        info = model.feature_info
        return options, list(info.out_indices), list(info.reduction()), list(info.channels())
    raise ValueError(f"timm's {name} gives no feature maps (features_only)")


def _create(name: str, pretrained: bool, path: str | None, **options: Any) -> nn.Module:
    import timm

    try:
        if pretrained and path:
            return _from_file(name, path, options)
        return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"pretrained weights of timm's {name} cannot be loaded from {path or 'the network'}: {error}\nSet"
            " model.visual_backbone.pretrained_weight_path to a local copy of the weight file, or"
            " model.visual_backbone.pretrained=false to start from random weights"
        ) from error


def _from_file(name: str, path: str, options: dict[str, Any]) -> nn.Module:
    """The model with all of its weights from a file, which is read here: timm's own reader might unpickle.

    Raises:
        ValueError: the file does not fill the model, or its weights are not numbers. timm takes what fits and leaves the rest as it
            was drawn, so the model is also made of the file's names with NaN under each: where none arrives, nothing would.
    """
    import timm

    state = {key.removeprefix("module."): value for key, value in read_state_dict(path).items()}
    dye = {key: torch.full_like(v, math.nan) if v.is_floating_point() else v for key, v in state.items()}
    create = functools.partial(timm.create_model, name, pretrained=True, features_only=True, **options)
    with torch.random.fork_rng(devices=[]):
        dyed = create(pretrained_cfg_overlay={"state_dict": dye}).state_dict()
    wanted = [key for key, value in dyed.items() if value.is_floating_point()]
    if missing := [key for key in wanted if not dyed[key].isnan().all()]:
        raise ValueError(
            f"it holds {len(state)} tensors, which leave {len(missing)} of the model's {len(wanted)} as they were drawn"
            f" ({', '.join(missing[:4])}, …)"
        )
    body: nn.Module = create(pretrained_cfg_overlay={"state_dict": state})
    if trouble := unsound(body):
        raise ValueError(trouble)
    return body
