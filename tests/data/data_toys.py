"""Small generated data sets in the layouts that are out there."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "refcoco_sample"


def write_image(path, width, height, box=None, seed=0):
    """A dim JPEG with a bright red rectangle at ``box`` (xywh)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(30, 90, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if box is not None:
        x, y, w, h = (round(v) for v in box)
        pixels[y : y + h, x : x + w] = (20, 20, 250)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def rectangle(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def make_refer(root, name="refcoco", splits=("train", "train", "val", "testA"), split_by="unc", sentences=None):
    """A REFER folder with one image per entry of ``splits`` and two refs per image; returns (refs, instances)."""
    images, annotations, refs = [], [], []
    for number, split in enumerate(splits):
        width, height = (120, 90) if number % 2 else (80, 100)
        file = f"COCO_train2014_{number:012d}.jpg"
        for k, box in enumerate(([10.5, 20.0, 30.0, 25.5], [40.0, 50.0, 35.0, 30.0])):
            ref_id = 2 * number + k
            said = (sentences or {}).get(
                ref_id, ["the left one", "Red thing, on the left!"] if k == 0 else ["right box"]
            )
            annotation = {"id": 100 + ref_id, "image_id": number, "bbox": box, "category_id": 1, "iscrowd": 0}
            annotations.append(annotation | {"segmentation": rectangle(box)})
            ref = {"ref_id": ref_id, "ann_id": 100 + ref_id, "image_id": number, "category_id": 1, "split": split}
            texts = [
                {"sent": s.lower(), "raw": s, "tokens": s.split(), "sent_id": 10 * ref_id + n}
                for n, s in enumerate(said)
            ]
            refs.append(
                ref | {"sentences": texts, "sent_ids": [s["sent_id"] for s in texts], "file_name": "not_an_image.jpg"}
            )
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        write_image(root / "images" / "train2014" / file, width, height, box, seed=number)
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    save_refer(root / name, refs, instances, split_by)
    return refs, instances


def save_refer(folder, refs, instances, split_by="unc"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")


def make_jsonl(root, rows, name="train.jsonl"):
    """A JSONL file; every image that is named and missing is drawn, 120 x 90 with the box in it."""
    for row in rows:
        file = root / str(row.get("image"))
        if row.get("image") and not file.exists():
            write_image(file, 120, 90, row.get("bbox") if row.get("bbox") else None)
    (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root / name


def row(**changes):
    """A valid row of the schema, with changes."""
    valid = {
        "image": {"path": "a.jpg", "bytes": None},
        "image_id": "1",
        "ref_id": "7",
        "ann_id": None,
        "width": 120,
        "height": 90,
        "bbox": [10.0, 20.0, 30.0, 40.0],
        "mask": None,
        "sentences": ["red box"],
        "category": None,
        "source": "mine",
        "boxes": None,
        "weight": None,
    }
    return valid | changes
