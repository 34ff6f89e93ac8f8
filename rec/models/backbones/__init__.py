"""Image backbones: an image to feature maps of rising stride."""

from rec.models.backbones.base import Backbone
from rec.models.backbones.cspdarknet import CspDarkNet
from rec.models.backbones.darknet53 import DarkNet53
from rec.models.backbones.small_resnet import SmallResNet
from rec.models.backbones.timm_backbone import VGG16, DResNet, ResNet, TimmBackbone
from rec.models.backbones.yolox import YOLOX

__all__ = ["VGG16", "YOLOX", "Backbone", "CspDarkNet", "DResNet", "DarkNet53", "ResNet", "SmallResNet", "TimmBackbone"]
