"""Backbones, language encoders, fusion, heads, whole models and their losses: tensors in, tensors out."""

import rec.other_names  # noqa: F401 - tells rec.config which names are refused
from rec.models.mcn import MCN
from rec.models.simrec import SimREC

__all__ = ["MCN", "SimREC"]
