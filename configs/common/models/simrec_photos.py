"""SimREC of 2.5 million parameters for photographs of 192 to 320 pixels, on YOLOX-Nano's backbone and neck.

Where the detector's weights lie is told by the environment variable REC_YOLOX_NANO, or by
model.visual_backbone.pretrained_weight_path.
"""

import os

from torch import nn

from rec.config import LazyCall
from rec.models import SimREC
from rec.models.backbones import YOLOX
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA

WIDTH = 128

model = LazyCall(SimREC)(
    visual_backbone=LazyCall(YOLOX)(
        pretrained=True,
        pretrained_weight_path=os.environ.get("REC_YOLOX_NANO", "data/weights/yolox_nano.safetensors"),
        neck=True,
        fixed_statistics=True,
        out_strides=(16, 32),
    ),
    language_encoder=LazyCall(LSTM_SA)(
        depth=1,
        hidden_size=WIDTH,
        num_heads=4,
        ffn_size=2 * WIDTH,
        flat_glimpses=1,
        word_embed_size=50,
        dropout_rate=0.1,
        freeze_embedding=True,
        use_glove=True,
    ),
    multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(WIDTH, WIDTH), hidden_planes=WIDTH),
    fusion_manner=LazyCall(nn.ModuleList)(
        modules=[
            LazyCall(SimpleFusion)(v_planes=planes, out_planes=WIDTH, q_planes=WIDTH, coordinates=True)
            for planes in (128, 256)
        ]
    ),
    attention_manner=LazyCall(GaranAttention)(d_q=WIDTH, d_v=WIDTH, dropout_rate=0.0),
    head=LazyCall(REChead)(
        width=0.5,
        strides=[16],
        in_channels=[WIDTH],
        box_loss="giou",
        box_loss_weight=2.0,
        prior_probability=0.01,
        box_voting=0.5,
    ),
)
