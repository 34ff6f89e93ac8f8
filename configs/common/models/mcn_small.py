"""MCN with over a million parameters, for small images: boxes on a map of stride 8, masks on one of stride 4."""

from rec.config import LazyCall
from rec.models import MCN
from rec.models.backbones import SmallResNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import MCNhead

from .simrec_small import WIDTH
from .simrec_small import model as simrec

model = LazyCall(MCN)(
    visual_backbone=LazyCall(SmallResNet)(channels=(24, 48, 96, 192), out_strides=(4, 8, 16)),
    language_encoder=simrec.language_encoder,
    multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=None, hidden_planes=WIDTH),
    fusion_manner=LazyCall(SimpleFusion)(v_planes=None, out_planes=4 * WIDTH, q_planes=WIDTH, coordinates=True),
    det_attention=LazyCall(GaranAttention)(d_q=WIDTH, d_v=WIDTH, dropout_rate=0.0),
    seg_attention=LazyCall(GaranAttention)(d_q=WIDTH, d_v=WIDTH, dropout_rate=0.0),
    head=LazyCall(MCNhead)(
        in_channels=WIDTH,
        hidden_channels=16,
        anchors=((19, 19), (27, 27), (34, 34)),  # small and big shapes at 96 pixels, and what is partly hidden
        strides=(8, 4),
        dilations=(2, 4),
        sub_cells=4,
        mask_loss_weight=40.0,
        prior_probability=0.01,
    ),
)
