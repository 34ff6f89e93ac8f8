"""DarkNet53, the backbone of YOLOv3 (Redmon and Farhadi, 2018), with the first layers of its neck, as MCN uses it."""

from torch import Tensor, nn

from rec.models.backbones.base import Backbone
from rec.models.layers import ConvBlock
from rec.models.original_weights import load_backbone


class ResidualUnit(nn.Module):
    """1x1 block to half the channels, 3x3 block back, plus identity; ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int, identity: bool = True) -> None:
        super().__init__()
        self.reduce = ConvBlock(channels, channels // 2)
        self.expand = ConvBlock(channels // 2, channels, 3)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.reduce(x))
        return x + y if self.identity else y


class DarkNet53(Backbone):
    """DarkNet53 and five convolutions of YOLOv3's neck: 256, 512 and 1024 channels at strides 8, 16 and 32.

    Args:
        pretrained: load ``pretrained_weight_path``.
        pretrained_weight_path: Darknet's ``yolov3.weights`` or ``darknet53.conv.74``, or a state dict (``.pth``,
            ``.safetensors``) under the original's names or ours.
        freeze_backbone: freeze everything but the last two convolutions, as in MCN.
        multi_scale_outputs: return all three maps; otherwise only the last.
        update_frozen_statistics, fixed_statistics: see :class:`~rec.models.backbones.base.Backbone`.

    Raises:
        ValueError: a weight file that is cut short or of another architecture.
        FileNotFoundError: ``pretrained_weight_path`` does not exist.
    """

    def __init__(
        self,
        pretrained: bool = False,
        pretrained_weight_path: str | None = None,
        freeze_backbone: bool = False,
        multi_scale_outputs: bool = True,
        update_frozen_statistics: bool = False,
        fixed_statistics: bool = False,
    ) -> None:
        stages: list[nn.Module] = [ConvBlock(3, 32, 3)]
        for channels, units in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
            stages.append(ConvBlock(channels // 2, channels, 3, 2))
            stages.append(nn.Sequential(*[ResidualUnit(channels) for _ in range(units)]))
        stages.append(nn.Sequential(*[ResidualUnit(1024, identity=False) for _ in range(2)]))
        stages += [ConvBlock(1024, 512), ConvBlock(512, 1024, 3)]
        outputs = {6: (8, 256), 8: (16, 512), 13: (32, 1024)}
        super().__init__(
            stages,
            outputs if multi_scale_outputs else {13: outputs[13]},
            frozen_stages=12 if freeze_backbone else 0,
            update_frozen_statistics=update_frozen_statistics,
            fixed_statistics=fixed_statistics,
        )
        if pretrained:
            load_backbone(self, pretrained_weight_path)
