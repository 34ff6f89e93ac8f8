"""Original arithmetic: what the published numbers were computed with, where the default here is the right arithmetic.

``simrec(model, dataset)`` and ``mcn(model, dataset)`` turn all of it on; docs/original_arithmetic.md has the list.
"""

from typing import Any


def _common(model: Any, dataset: Any) -> None:
    model.visual_backbone.update_frozen_statistics = True
    dataset.label_clip = 0.99
    dataset.vocabulary_from = "all"


def simrec(model: Any, dataset: Any) -> None:
    """SimREC's: transposed attention output, frozen BatchNorm that keeps updating, clipped labels, every split's words."""
    _common(model, dataset)
    model.attention_manner.transposed_output = True


def mcn(model: Any, dataset: Any) -> None:
    """MCN's: the same, summed losses, and masks that grow when they are resized."""
    _common(model, dataset)
    model.det_attention.transposed_output = model.seg_attention.transposed_output = True
    model.head.summed_losses = model.mask_any_overlap = True
