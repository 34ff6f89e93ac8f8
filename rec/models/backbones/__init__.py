"""Image backbones: an image to feature maps of rising stride."""

from rec.models.backbones.base import Backbone
from rec.models.backbones.cspdarknet import CspDarkNet

__all__ = ["Backbone", "CspDarkNet"]
