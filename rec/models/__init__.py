"""Backbones, language encoders, fusion, heads, whole models and their losses: tensors in, tensors out."""

from rec.models.mcn import MCN
from rec.models.simrec import SimREC

__all__ = ["MCN", "SimREC"]
