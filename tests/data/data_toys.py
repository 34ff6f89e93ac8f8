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


BOX, OTHER = [10.0, 20.0, 30.0, 40.0], [50.0, 5.0, 60.0, 45.0]


def simrec_item(**changes):
    return {"iid": 7, "bbox": [10, 20, 30, 40], "cat_id": 0, "refs": ["red box", "box"], "mask_id": 3} | changes


def make_visual_genome(root):
    region = {"region_id": 1, "image_id": 5, "x": 10, "y": 20, "width": 30, "height": 40, "phrase": "a red box"}
    entries = [
        {"id": 5, "regions": [region, region | {"region_id": 2, "phrase": 'tricky "] text, [{', "x": -30}]},
        {"id": 6, "regions": [region | {"region_id": 3, "image_id": 6}]},
        {"id": 7, "regions": [region | {"region_id": 4, "image_id": 7}]},
    ]
    (root / "region_descriptions.json").write_text(json.dumps(entries), encoding="utf-8")
    images = [
        {"image_id": 5, "url": "https://x.org/rak248/VG_100K_2/5.jpg", "coco_id": 716, "width": 120, "height": 90}
    ]
    images.append(
        {"image_id": 6, "url": "https://x.org/rak248/VG_100K/6.jpg", "coco_id": None, "width": 120, "height": 90}
    )
    (root / "image_data.json").write_text(json.dumps(images), encoding="utf-8")
    write_image(root / "VG_100K_2" / "5.jpg", 120, 90)
    write_image(root / "VG_100K" / "6.jpg", 120, 90)


def make_flickr(root):
    (root / "Sentences").mkdir()
    (root / "Annotations").mkdir()
    captions = [
        "[/EN#1/people A man] in [/EN#2/clothing a red hat] .",
        "[/EN#1/people The man] on [/EN#3/scene a street] .",
    ]
    (root / "Sentences" / "36.txt").write_text("\n".join(captions), encoding="utf-8")
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    objects = "".join(
        f"<object><name>{name}</name>{box.format(*corners)}</object>"
        for name, corners in (("1", (11, 21, 41, 61)), ("1", (51, 31, 71, 81)), ("2", (15, 5, 30, 20)))
    )
    xml = (
        f"<annotation><filename>36.jpg</filename>{objects}<object><name>3</name><scene>1</scene></object></annotation>"
    )
    (root / "Annotations" / "36.xml").write_text(xml, encoding="utf-8")
    (root / "Annotations" / "37.xml").write_text(xml[:-30], encoding="utf-8")
    (root / "train.txt").write_text("36\n37\n", encoding="utf-8")
    write_image(root / "images" / "36.jpg", 120, 90)


def coco(**change):
    images = [{"id": n, "file_name": f"{name}.jpg", "width": 120, "height": 90} for n, name in enumerate("ab")]
    annotations = [
        {"id": 7, "image_id": 0, "bbox": BOX, "category_id": 3, "segmentation": rectangle(BOX), "caption": "red box"},
        {"id": 8, "image_id": 1, "bbox": OTHER, "segmentation": [], "referring_expressions": ["gray", "the gray one"]},
        {"id": 9, "image_id": 1, "bbox": OTHER, "category_id": 3},
    ]
    annotations[0] |= change
    return {
        "info": {},
        "licenses": [],
        "categories": [{"id": 3, "name": "box"}],
        "images": images,
        "annotations": annotations,
    }


SIZE = {"original_width": 120, "original_height": 90, "image_rotation": 0}
PERCENT = {"x": 100 * 10 / 120, "y": 100 * 20 / 90, "width": 25, "height": 100 * 40 / 90, "rotation": 0}


def task(image="/data/upload/3/0a1b2c3d-a.jpg", results=(), **change):
    region = {"id": "r1", "type": "rectanglelabels", "value": PERCENT | {"rectanglelabels": ["box"]}, **SIZE}
    text = {"id": "r1", "type": "textarea", "value": PERCENT | {"text": ["red box", "the box"]}, **SIZE}
    bare = {"id": "r2", "type": "rectanglelabels", "value": PERCENT | {"rectanglelabels": ["box"]}, **SIZE}
    annotation = {
        "id": 1,
        "was_cancelled": False,
        "result": [region | change, text, bare, {"id": "r3", "type": "polygonlabels"}],
    }
    return {"id": 4, "data": {"image": image}, "annotations": [annotation], "predictions": [{"result": [bare]}]}


ASK = "<image>\nPlease provide the bounding box coordinate of the region this sentence describes: {}"


def talk(*turns, image="a.jpg", **more):
    said = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(turns)]
    return {"id": "1", "image": image, "conversations": said, **more}
