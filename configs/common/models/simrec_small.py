"""SimREC with 1.7 million parameters, for small images: three scales of 64 channels, the head on the finest."""

from torch import nn

from rec.config import LazyCall
from rec.models import SimREC
from rec.models.backbones import SmallResNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA

WIDTH = 64

model = LazyCall(SimREC)(
    visual_backbone=LazyCall(SmallResNet)(channels=(24, 48, 96, 128, 192), out_strides=(8, 16, 32)),
    language_encoder=LazyCall(LSTM_SA)(
        depth=1,
        hidden_size=WIDTH,
        num_heads=4,
        ffn_size=2 * WIDTH,
        flat_glimpses=1,
        word_embed_size=WIDTH,
        dropout_rate=0.0,
        freeze_embedding=False,
        use_glove=False,
    ),
    multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(WIDTH, WIDTH, WIDTH), hidden_planes=WIDTH),
    fusion_manner=LazyCall(nn.ModuleList)(
        modules=[
            LazyCall(SimpleFusion)(v_planes=planes, out_planes=WIDTH, q_planes=WIDTH, coordinates=True)
            for planes in (96, 128, 192)
        ]
    ),
    attention_manner=LazyCall(GaranAttention)(d_q=WIDTH, d_v=WIDTH, dropout_rate=0.0),
    head=LazyCall(REChead)(
        width=0.125, strides=[8], in_channels=[WIDTH], box_loss="giou", box_loss_weight=2.0, prior_probability=0.01
    ),
)
