"""The small SimREC with a mask branch on a map of stride 4: small shapes have five cells there."""

from rec.config import LazyCall
from rec.models.fusion import GaranAttention, SimpleFusion
from rec.models.heads import MaskHead

from .simrec_small import WIDTH, model

model.visual_backbone.out_strides = [4, *model.visual_backbone.out_strides]
model.fusion_manner.modules = [
    LazyCall(SimpleFusion)(v_planes=None, out_planes=WIDTH, q_planes=WIDTH, coordinates=True),
    *model.fusion_manner.modules,
]
model.multi_scale_manner.v_planes = None  # what the fusions give
model = {
    **model,
    "mask_attention": LazyCall(GaranAttention)(d_q=WIDTH, d_v=WIDTH, dropout_rate=0.0),
    "mask_head": LazyCall(MaskHead)(in_channels=WIDTH, hidden_channels=16, stride=4, dilations=(2, 4), sub_cells=4),
}
