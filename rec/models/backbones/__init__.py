"""Image backbones: an image to feature maps of rising stride."""

from rec.models.backbones.base import Backbone
from rec.models.backbones.cspdarknet import CspDarkNet
from rec.models.backbones.darknet53 import DarkNet53

__all__ = ["Backbone", "CspDarkNet", "DarkNet53"]
