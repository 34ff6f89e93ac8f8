"""MCN as published: DarkNet53, GRU + three self-attention blocks, fusion on the coarsest map, box and mask branches."""

from rec.config import LazyCall
from rec.models import MCN
from rec.models.backbones import DarkNet53
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import MCNhead

from .simrec import model as simrec

model = LazyCall(MCN)(
    visual_backbone=LazyCall(DarkNet53)(
        pretrained=False,
        pretrained_weight_path="./data/weights/darknet.weights",
        freeze_backbone=True,
        multi_scale_outputs=True,
    ),
    language_encoder=simrec.language_encoder,
    multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(256, 512, 1024), scaled=True),
    fusion_manner=LazyCall(SimpleFusion)(v_planes=1024, out_planes=1024, q_planes=512),
    det_attention=LazyCall(GaranAttention)(d_q=512, d_v=512),
    seg_attention=LazyCall(GaranAttention)(d_q=512, d_v=512),
    head=LazyCall(MCNhead)(in_channels=512, hidden_channels=256),
)
model.language_encoder.depth = 3
