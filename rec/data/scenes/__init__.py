"""Shape scenes, the embedded data set: drawn images of overlapping shapes with phrases that single out one of them.

See ``docs/scenes.md``. Rows and tables have the schema of all other sources (:data:`rec.data.schema.FEATURES`).
"""

from rec.data.scenes.phrases import FORMS, KINDS, phrase_form, phrase_kind
from rec.data.scenes.rows import (
    DEFAULT_COUNTS,
    SPLITS,
    build_table,
    generate_rows,
    random_object_accuracy,
    split_seeds,
)
from rec.data.scenes.scene import Scene, make_scene

__all__ = [
    "DEFAULT_COUNTS",
    "FORMS",
    "KINDS",
    "SPLITS",
    "Scene",
    "build_table",
    "generate_rows",
    "make_scene",
    "phrase_form",
    "phrase_kind",
    "random_object_accuracy",
    "split_seeds",
]
