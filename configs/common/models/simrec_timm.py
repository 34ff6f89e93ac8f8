"""SimREC on a timm backbone: strides and channels come from timm's feature_info, word vectors are learnt."""

from rec.config import LazyCall
from rec.models.backbones import TimmBackbone

from .simrec import model

model.visual_backbone = LazyCall(TimmBackbone)(model_name="resnet50", pretrained=True, freeze_backbone=True)
for fusion in model.fusion_manner.modules:
    fusion.v_planes = None  # the backbone's
model.language_encoder.freeze_embedding = False
model.language_encoder.use_glove = False
