"""Small models and batches for tests that need any model, not the published one."""

import torch
from torch import Tensor, nn

from rec.models import MCN, SimREC
from rec.models.backbones import Backbone, CspDarkNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import MaskHead, MCNhead, REChead
from rec.models.language_encoders import LSTM_SA

WIDTH = 32


def encoder() -> LSTM_SA:
    return LSTM_SA(
        hidden_size=WIDTH, num_heads=4, ffn_size=64, word_embed_size=16, dropout_rate=0.0, freeze_embedding=False,
        token_size=20,
    )  # fmt: skip


def backbone(**options) -> CspDarkNet:
    return CspDarkNet(**({"width": 0.125, "depth": 0.33} | options))


def attention() -> GaranAttention:
    return GaranAttention(WIDTH, WIDTH, dropout_rate=0.0)


def mask_head(stride: int = 8) -> MaskHead:
    return MaskHead(WIDTH, 16, stride, dilations=(2, 4))


def simrec(
    trunk: Backbone | None = None, stride: int = 16, boxes: bool = True, masks: bool = False, **head_options
) -> SimREC:
    trunk = trunk or backbone()
    return SimREC(
        visual_backbone=trunk,
        language_encoder=encoder(),
        multi_scale_manner=MultiScaleFusion(None, hidden_planes=WIDTH),
        fusion_manner=nn.ModuleList(SimpleFusion(None, WIDTH, WIDTH, coordinates=True) for _ in trunk.strides),
        attention_manner=attention() if boxes else None,
        head=REChead(width=0.125, strides=[stride], in_channels=[WIDTH], **head_options) if boxes else None,
        mask_attention=attention() if masks else None,
        mask_head=mask_head() if masks else None,
    )


def mcn(**options) -> MCN:
    return MCN(
        visual_backbone=backbone(),
        language_encoder=encoder(),
        multi_scale_manner=MultiScaleFusion(None, hidden_planes=WIDTH),
        fusion_manner=SimpleFusion(None, WIDTH, WIDTH),
        det_attention=attention(),
        seg_attention=attention(),
        head=MCNhead(WIDTH, 16, anchors=[[20, 20], [40, 40], [60, 30]], strides=(32, 8), dilations=(2, 4)),
        **options,
    )


def batch(count: int = 4, size: int = 64, masks: bool = False) -> dict[str, Tensor]:
    """One bright rectangle per image, and where it is."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(count, 3, size, size, generator=generator) * 0.2
    sides = torch.rand(count, 2, generator=generator) * 0.3 + 0.2
    centres = torch.rand(count, 2, generator=generator) * 0.5 + 0.25
    mask = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    for k in range(count):
        (left, top), (right, bottom) = ((centres[k] + sign * sides[k] / 2) * size for sign in (-1, 1))
        image[k, :, int(top) : int(bottom), int(left) : int(right)] += 0.7
        mask[k, :, int(top) : int(bottom), int(left) : int(right)] = 255
    made = {
        "image": image,
        "tokens": torch.tensor([[3 + k % 5, 4, 0, 0] for k in range(count)]),
        "box": torch.cat([centres, sides], 1),
    }
    return made | ({"mask": mask} if masks else {})
