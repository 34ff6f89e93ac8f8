"""The ``dataset`` namespace, with SimREC's keys."""

from rec.config import LazyCall
from rec.data.dataset import RefCOCODataSet

dataset = LazyCall(RefCOCODataSet)(
    # refcoco, refcoco+, refcocog, grefcoco, referit, flickr, vg, merge, scenes, scenes_hard, or a name of your own below
    dataset="refcoco",
    # Prepared table (scripts/prepare_data.py), REFER folder, SimREC JSON, JSONL, CSV, parquet or hub id
    ann_path={
        "refcoco": "./data/anns/refcoco.json",
        "refcoco+": "./data/anns/refcoco+.json",
        "refcocog": "./data/anns/refcocog.json",
        "grefcoco": "./data/anns/grefcoco.json",
        "referit": "./data/anns/refclef.json",
        "flickr": "./data/anns/flickr.json",
        "vg": "./data/anns/vg.json",
        "merge": "./data/anns/merge.json",
        "scenes": "scenes",
        "scenes_hard": "scenes_hard",
    },
    image_path={
        "refcoco": "./data/images/coco",
        "refcoco+": "./data/images/coco",
        "refcocog": "./data/images/coco",
        "grefcoco": "./data/images/coco",
        "referit": "./data/images/refclef",
        "flickr": "./data/images/flickr",
        "vg": "./data/images/VG",
        "merge": "./data/images/",
    },
    mask_path={
        "refcoco": "./data/masks/refcoco",
        "refcoco+": "./data/masks/refcoco+",
        "refcocog": "./data/masks/refcocog",
        "referit": "./data/masks/refclef",
    },
    input_shape=[416, 416],
    flip_lr=False,
    candidate_transforms={},
    max_token_length=15,
    sentence_sampling="per_object",  # a random sentence of each object per epoch, or per_sentence
    use_glove=False,
    split="train",
)
