"""Backbones, language encoders, fusion, heads, whole models and their losses: tensors in, tensors out."""

from rec.models.simrec import SimREC

__all__ = ["SimREC"]
