"""Generated data sets: REFER files over photographs, the tables prepared from them, and SimREC's files for plain."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import boxes, ellipse, photographs, phrases

SENTENCES = (2, 3, 2, 3, 2)  # of successive objects
PER_IMAGE = 3  # objects, which makes 7.2 sentences


def refer_files(folder: Path, images: int, refs: int) -> Path:
    """REFER files ``<folder>/refcoco``: ``refs`` objects of ``val`` with COCO-like polygons, over ``images`` photographs.

    With more refs than ``images * PER_IMAGE`` several image ids share a file.
    """
    rng = np.random.default_rng(0)
    files = photographs(folder / "images" / "train2014", images)
    target = folder / "refcoco"
    if (target / "instances.json").exists():
        return target
    pictures: list[Any] = []
    annotations: list[Any] = []
    entries: list[Any] = []
    for number in range(-(-refs // PER_IMAGE)):
        pictures.append({"id": number, "file_name": files[number % len(files)].name, "width": 640, "height": 480})
        for box in boxes(rng, min(PER_IMAGE, refs - number * PER_IMAGE)):
            identity = len(annotations)
            outline = [ellipse(box, int(rng.integers(20, 60)))]
            known = {"image_id": number, "category_id": 1}
            annotations.append(known | {"id": identity, "bbox": box, "iscrowd": 0, "segmentation": outline})
            said = phrases(rng, SENTENCES[identity % len(SENTENCES)])
            sentences = [{"sent": text, "raw": text, "tokens": text.split(), "sent_id": 0} for text in said]
            ids = {"ref_id": identity, "ann_id": identity, "sent_ids": [0] * len(said)}
            entries.append(known | ids | {"split": "val", "sentences": sentences, "file_name": ""})
    target.mkdir(parents=True, exist_ok=True)
    (target / "refs(unc).p").write_bytes(pickle.dumps(entries, protocol=2))
    content = {"images": pictures, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (target / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def prepared(source: Path, folder: Path, **how: Any) -> Path:
    """A prepared table of REFER files, made where it is not there."""
    from rec.data.prepare import prepare
    from rec.data.tables import open_source

    prepare(open_source(source, name="refcoco"), folder, progress=False, **how)
    return folder


def our_dataset(folder: Path, size: int, *, training: bool, with_masks: bool = False) -> Any:
    """``RefCOCODataSet`` of a prepared table."""
    from rec.data.dataset import RefCOCODataSet

    sources, shape = {"refcoco": str(folder)}, [size, size]
    return RefCOCODataSet("refcoco", sources, input_shape=shape, split="val", training=training, with_masks=with_masks)


def plain_dataset(table: Path, source: Path, size: int, *, training: bool, split: str = "val") -> Any:
    """The plain data set of the same objects, from SimREC's JSON and dense masks that are written beside ``source``.

    So are images that the table holds itself.
    """
    from datasets import load_from_disk

    from benchmarks.plain_data import PlainDataSet
    from rec.data import masks

    annotations, folder = source.parent / "simrec.json", source.parent / "masks"
    images = source.parent / "images" / "train2014"
    if not annotations.exists():
        folder.mkdir(exist_ok=True)
        images.mkdir(parents=True, exist_ok=True)
        items = []
        for number, row in enumerate(load_from_disk(str(table / split))):
            np.save(folder / f"{number}.npy", np.ascontiguousarray(masks.decode(row["mask"])))
            file = int(Path(row["image"]["path"]).stem.rpartition("_")[2])
            if row["image"]["bytes"]:
                (images / f"{file:06d}.jpg").write_bytes(row["image"]["bytes"])
            items.append({"iid": file, "bbox": row["bbox"], "cat_id": 1, "refs": row["sentences"], "mask_id": number})
        annotations.write_text(json.dumps({split: items}), encoding="utf-8")
    return PlainDataSet(annotations, images, folder, split, training, size)
