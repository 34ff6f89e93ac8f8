"""SimREC with a mask branch on the finest map."""

from rec.config import LazyCall
from rec.models.fusion import GaranAttention
from rec.models.heads import MaskHead

from .simrec import model

model = {
    **model,
    "mask_attention": LazyCall(GaranAttention)(d_q=512, d_v=512),
    "mask_head": LazyCall(MaskHead)(in_channels=512, hidden_channels=256, stride=8),
}
