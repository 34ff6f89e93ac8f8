"""Every layout that is out there becomes the same rows."""

import json

import numpy as np
import pytest
from data_toys import make_jsonl, make_refer, rectangle, row, save_refer, write_image

from rec.data import masks
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table


def read(spec, split="train", name="mine", **options):
    return list(open_table(spec, split, name=name, **options).rows)


# --- REFER ------------------------------------------------------------------------------------------------------------


def test_refer_files_become_rows(tmp_path):
    make_refer(tmp_path)
    rows = read(tmp_path / "refcoco", name="refcoco", with_masks=True)
    assert [row["ref_id"] for row in rows] == ["0", "1", "2", "3"]
    first = rows[0]
    assert first["image"] == {"bytes": None, "path": "COCO_train2014_000000000000.jpg"}
    assert (first["image_id"], first["ann_id"], first["width"], first["height"]) == ("0", "100", 80, 100)
    assert first["bbox"] == [10.5, 20, 30, 25.5]
    assert first["sentences"] == ["the left one", "red thing, on the left!"]
    assert (first["category"], first["source"]) == ("thing", "refcoco")
    assert abs(masks.decode(first["mask"]).sum() - 30 * 25.5) < 40


def test_the_usual_refs_file_is_taken_or_the_one_that_is_named(tmp_path):
    refs, instances = make_refer(tmp_path)
    save_refer(tmp_path / "refcoco", refs[:1], instances, "google")
    assert len(read(tmp_path / "refcoco", name="refcoco")) == 4
    assert len(read({"path": tmp_path / "refcoco", "split_by": "google"}, name="refcoco")) == 1
    with pytest.raises(SourceError, match=r"no refs\(umd\)\.p; it has \['google', 'unc'\]"):
        read({"path": tmp_path / "refcoco", "split_by": "umd"}, name="refcoco")


def test_a_ref_of_several_test_splits_is_in_each(tmp_path):
    make_refer(tmp_path, "refclef", ("train", "val", "testAC", "testB"))
    source = open_source(tmp_path / "refclef", name="refclef", image_path=str(tmp_path / "images" / "train2014"))
    assert source.splits == ("train", "val", "testA", "testB", "testC")
    assert [row["ref_id"] for row in source.read("testC")] == [4, 5]


def test_the_broken_refclef_images_are_left_out(tmp_path):
    refs, instances = make_refer(tmp_path, "refclef")
    instances["images"][0]["file_name"] = "17975.jpg"
    save_refer(tmp_path / "refclef", refs, instances)
    source = open_source(tmp_path / "refclef", name="refclef", image_path=str(tmp_path / "images" / "train2014"))
    assert [row["ref_id"] for row in source.read("train")] == [2, 3]


def test_python_2_texts_are_read(tmp_path):
    refs, _ = make_refer(tmp_path)
    text = "caff\xe8 on the left"
    # Protocol 0 as Python 2 wrote it: byte strings, here UTF-8 and Latin-1.
    for encoding in ("utf-8", "latin-1"):
        data = (
            b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'word'\np4\nS"
            + repr(text.encode(encoding))[1:].encode()
            + b"\np5\nsa."
        )
        (tmp_path / "refs(x).p").write_bytes(data)
        from rec.data.sources.refer import load_pickle

        assert load_pickle(tmp_path / "refs(x).p") == [{"split": "train", "word": text}]
    assert refs


@pytest.mark.parametrize(
    "hostile",
    [
        b"cos\nsystem\n(S'touch HACKED'\ntR.",
        b"\x80\x02cbuiltins\neval\nq\x00X\x06\x00\x00\x00open()q\x01\x85q\x02Rq\x03.",
        b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        b"(lp0\n",
        b"",
        b"\x80\x02}q\x00.",
        b"not a pickle at all",
    ],
)
def test_a_hostile_or_broken_pickle_runs_nothing_and_is_named(tmp_path, hostile, monkeypatch):
    make_refer(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(hostile)
    with pytest.raises(SourceError, match=r"refs\(unc\)\.p"):
        read(tmp_path / "refcoco", name="refcoco")
    assert not (tmp_path / "HACKED").exists()


def test_instances_cut_short_are_named(tmp_path):
    make_refer(tmp_path)
    file = tmp_path / "refcoco" / "instances.json"
    file.write_text(file.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    with pytest.raises(SourceError, match=r"instances\.json is not valid JSON .* cut short"):
        read(tmp_path / "refcoco", name="refcoco")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda refs, instances: instances["images"].pop(0), "image id without image"),
        (lambda refs, instances: instances["annotations"].pop(0), "no annotation"),
        (lambda refs, instances: instances["annotations"][0].pop("bbox"), "incomplete record"),
        (lambda refs, instances: refs[0].pop("sentences"), "incomplete record"),
        (lambda refs, instances: instances["images"][0].update(width=81), "wrong image size"),
        (lambda refs, instances: instances["images"][0].update(file_name="none.jpg"), "missing image"),
        (lambda refs, instances: refs.append(refs[0]), "duplicate id"),
        (lambda refs, instances: refs.append(refs[0] | {"split": "val"}), "ref in two splits"),
        (lambda refs, instances: instances["annotations"][0].update(segmentation=[[1, 2]]), "bad mask"),
    ],
)
def test_damaged_refer_records_are_refused_or_counted(tmp_path, damage, reason):
    from rec.data.prepare import prepare

    refs, instances = make_refer(tmp_path)
    damage(refs, instances)
    save_refer(tmp_path / "refcoco", refs, instances)
    source = open_source(tmp_path / "refcoco", name="refcoco")
    with pytest.raises(BadRecord, match=reason):
        prepare(source, tmp_path / "out", progress=False)
    info = prepare(source, tmp_path / "skipped", on_bad_record="skip", progress=False)
    skipped = {key: n for split in info["splits"].values() for key, n in split["skipped"].items()}
    assert set(skipped) == {reason}


# --- SimREC's JSON ----------------------------------------------------------------------------------------------------


def simrec_item(**changes):
    return {"iid": 7, "bbox": [10, 20, 30, 40], "cat_id": 0, "refs": ["red box", "box"], "mask_id": 3} | changes


def test_simrec_json_becomes_rows_with_masks(tmp_path):
    write_image(tmp_path / "coco" / "COCO_train2014_000000000007.jpg", 120, 90)
    dense = np.zeros((90, 120), np.uint8)
    dense[20:60, 10:40] = 2  # the original counts overlapping parts
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "3.npy", dense)
    evaluation = [simrec_item(refs=["red box"]), simrec_item(refs=["box"]), simrec_item(mask_id=4, refs=["other"])]
    content = {"train": [simrec_item()], "val": evaluation}
    (tmp_path / "refcoco.json").write_text(json.dumps(content), encoding="utf-8")
    folders = {"image_path": str(tmp_path / "coco"), "mask_path": str(tmp_path / "masks"), "name": "refcoco"}
    source = open_source(tmp_path / "refcoco.json", **folders)
    assert source.splits == ("train", "val")
    first = next(iter(source.read("train")))
    assert (first["ref_id"], first["sentences"]) == (3, ["red box", "box"])
    rows = list(source.read("val"))
    assert [(row["ref_id"], row["sentences"]) for row in rows] == [(3, ["red box", "box"]), (4, ["other"])]
    content = {"train": [simrec_item()]}
    (tmp_path / "refcoco.json").write_text(json.dumps(content), encoding="utf-8")
    table = read(tmp_path / "refcoco.json", with_masks=True, **folders)
    assert (masks.decode(table[0]["mask"]) == (dense > 0)).all()


@pytest.mark.parametrize(
    ("name", "item", "file"),
    [
        ("refcoco+", {}, "COCO_train2014_000000000007.jpg"),
        ("referit", {}, "7.jpg"),
        ("flickr", {"iid": "123"}, "123.jpg"),
        ("vg", {"url": "VG_100K/7.jpg"}, "VG_100K/7.jpg"),
        ("vg", {"url": "https://x.org/rak248/VG_100K_2/7.jpg"}, "VG_100K_2/7.jpg"),
        ("merge", {"iid": "7.jpg", "data_source": "coco"}, "coco/COCO_train2014_000000000007.jpg"),
        ("merge", {"iid": "99.jpg", "data_source": "flickr"}, "flickr/99.jpg"),
    ],
)
def test_simrec_image_names_follow_the_data_sets_rule(tmp_path, name, item, file):
    (tmp_path / "x.json").write_text(json.dumps({"train": [simrec_item(**item)]}), encoding="utf-8")
    source = open_source(tmp_path / "x.json", name=name, image_path=str(tmp_path))
    assert next(iter(source.read("train")))["image"] == str(tmp_path / file)


def test_simrec_json_of_other_content_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"train": [', encoding="utf-8")
    with pytest.raises(SourceError, match=r"x\.json is not valid JSON"):
        open_source(tmp_path / "x.json", name="refcoco", image_path=str(tmp_path))
    (tmp_path / "x.json").write_text('{"train": [3, {"iid": 1}]}', encoding="utf-8")
    source = open_source(tmp_path / "x.json", name="refcoco", image_path=str(tmp_path))
    assert [type(row) for row in source.read("train")] == [BadRecord, BadRecord]


# --- your own data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bbox_format", "bbox"), [("xywh", [10, 20, 30, 40]), ("xyxy", [10, 20, 40, 60]), ("cxcywh", [25, 40, 30, 40])]
)
def test_every_named_box_format_gives_the_same_box(tmp_path, bbox_format, bbox):
    write_image(tmp_path / "a.jpg", 120, 90)
    file = make_jsonl(tmp_path, [{"image": "a.jpg", "phrase": "box", "bbox": bbox}])
    assert read({"path": file, "bbox_format": bbox_format})[0]["bbox"] == [10, 20, 30, 40]
    (tmp_path / "a.csv").write_text(f"image,phrase,bbox\na.jpg,box,{' '.join(map(str, bbox))}\n", encoding="utf-8")
    assert read({"path": tmp_path / "a.csv", "bbox_format": bbox_format})[0]["bbox"] == [10, 20, 30, 40]


def test_the_box_format_must_be_named(tmp_path):
    file = make_jsonl(tmp_path, [{"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40]}])
    with pytest.raises(SourceError, match="bbox_format = xywh, xyxy or cxcywh"):
        read(file)


def test_splits_come_from_a_column_or_from_the_files(tmp_path):
    rows = [
        {"image": "a.jpg", "phrase": ["box", "thing"], "bbox": [1, 2, 30, 40], "split": s} for s in ("train", "val")
    ]
    file = make_jsonl(tmp_path / "", rows, "all.jsonl")
    assert open_source({"path": file, "bbox_format": "xywh"}, name="mine").splits == ("train", "val")
    assert read({"path": file, "bbox_format": "xywh"}, "val")[0]["sentences"] == ["box", "thing"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for split in ("train", "val"):
        make_jsonl(folder, [{"image": "a.jpg", "phrase": split, "bbox": [1, 2, 30, 40]}], f"{split}.jsonl")
    spec = {"path": folder, "bbox_format": "xywh"}
    assert read(spec, "val")[0]["sentences"] == ["val"]


def test_masks_of_your_own_are_files_or_polygons(tmp_path):
    import cv2

    picture = np.zeros((90, 120), np.uint8)
    picture[20:60, 10:40] = 255
    cv2.imwrite(str(tmp_path / "m.png"), picture)
    rows = [
        {"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40], "mask": mask}
        for mask in ("m.png", rectangle([10, 20, 30, 40]))
    ]
    spec = {"path": make_jsonl(tmp_path, rows), "bbox_format": "xywh"}
    for read_row in read(spec, with_masks=True):
        assert (masks.decode(read_row["mask"]) == (picture > 0)).mean() > 0.99


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "a.jpg", "phrase": "box"', "broken line"),
        ("[1, 2]", "broken line"),
        ('{"image": "a.jpg", "phrase": "box"}', "incomplete record"),
        ('{"image": "a.jpg", "phrase": "", "bbox": [1, 2, 3, 4]}', "incomplete record"),
        ('{"image": "a.jpg", "phrase": "  ", "bbox": [1, 2, 3, 4]}', "empty phrase"),
        ('{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, 3]}', "bad box"),
        ('{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, NaN, 4]}', "bad box"),
        ('{"image": "a.jpg", "phrase": "box", "bbox": "1 2 x 4"}', "bad box"),
        ('{"image": "none.jpg", "phrase": "box", "bbox": [1, 2, 3, 4]}', "missing image"),
        ('{"image": "cut.jpg", "phrase": "box", "bbox": [1, 2, 3, 4]}', "unreadable image"),
        ('{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, 3, 4], "mask": "none.png"}', "bad mask"),
        ('{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, 3, 4], "mask": []}', None),
        ('{"image": "a.jpg", "phrase": "🦊 左", "bbox": [1, 2, 3, 4]}', None),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path, line, reason):
    good = {"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40]}
    file = make_jsonl(tmp_path, [good])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    spec = {"path": file, "bbox_format": "xywh"}
    if reason is None:
        assert len(read(spec, with_masks=True)) == 2
        return
    with pytest.raises(BadRecord, match=reason) as caught:
        read(spec, with_masks=True)
    assert "record 1" in str(caught.value) or "line 2" in str(caught.value)
    assert len(read(spec | {"on_bad_record": "skip"}, with_masks=True)) == 1


def test_rotated_photographs_are_measured_as_they_are_shown(tmp_path):
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (120, 90)).save(tmp_path / "phone.jpg", exif=tags)
    file = make_jsonl(tmp_path, [{"image": "phone.jpg", "phrase": "box", "bbox": [5, 95, 20, 20]}])
    phone = read({"path": file, "bbox_format": "xywh"})[0]
    assert (phone["width"], phone["height"]) == (90, 120)


# --- tables of other people -------------------------------------------------------------------------------------------


def foreign_table(tmp_path, **columns):
    from datasets import Dataset, Features, Image, List, Value

    write_image(tmp_path / "a.jpg", 120, 90)
    data = {
        "image": [{"bytes": (tmp_path / "a.jpg").read_bytes(), "path": "a.jpg"}] * 2,
        "bbox": [[10.0, 20, 30, 40]] * 2,
    }
    features = {"image": Image(), "bbox": List(Value("float32"))}
    return Dataset.from_dict(
        data | columns, Features(features | {key: _feature(value) for key, value in columns.items()})
    )


def _feature(values):
    from datasets import List, Value

    return List(Value("string")) if isinstance(values[0], list) else Value("string")


def test_parquet_of_a_published_layout_is_recognised(tmp_path):
    table = foreign_table(
        tmp_path, answer=[["red box", "box"], ["thing"]], question=["Describe it."] * 2, question_id=["q0", "q1"]
    )
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "hub" / "data" / "val-00000-of-00001.parquet")
    table.to_parquet(tmp_path / "hub" / "data" / "testA-00000-of-00001.parquet")
    rows = read(tmp_path / "hub", "testA")
    assert [row["sentences"] for row in rows] == [["red box", "box"], ["thing"]]
    assert [row["ref_id"] for row in rows] == ["q0", "q1"]
    assert rows[0]["image"]["bytes"] == (tmp_path / "a.jpg").read_bytes()
    assert rows[0]["image_id"] == rows[1]["image_id"]
    assert (rows[0]["width"], rows[0]["height"]) == (120, 90)


def test_a_column_map_names_what_is_not_recognised(tmp_path):
    table = foreign_table(tmp_path, utterance=["red box", "thing"])
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(SourceError, match=r"which columns hold sentences.*utterance"):
        read(tmp_path / "saved")
    rows = read({"path": tmp_path / "saved", "columns": {"sentences": "utterance"}})
    assert [row["sentences"] for row in rows] == [["red box"], ["thing"]]
    with pytest.raises(SourceError, match="sentences = no_such"):
        read({"path": tmp_path / "saved", "columns": {"sentences": "no_such"}})


def test_a_saved_table_of_the_schema_is_used_as_it_is(tmp_path):
    from datasets import Dataset

    from rec.data.schema import FEATURES

    write_image(tmp_path / "a.jpg", 120, 90)
    rows = [row(image={"path": str(tmp_path / "a.jpg"), "bytes": None})]
    Dataset.from_list(rows, FEATURES).save_to_disk(tmp_path / "saved")
    read_back = read(tmp_path / "saved")
    assert read_back[0].pop("image")["bytes"] == (tmp_path / "a.jpg").read_bytes()  # the library puts images in
    assert rows[0].pop("image")
    assert read_back == rows


def test_a_shuffled_table_keeps_its_shuffled_order(tmp_path):
    from datasets import Dataset

    from rec.data.dataset import RefCOCODataSet
    from rec.data.schema import FEATURES

    write_image(tmp_path / "a.jpg", 120, 90)
    rows = [row(image={"path": str(tmp_path / "a.jpg"), "bytes": None}, ref_id=str(n)) for n in range(9)]
    table = Dataset.from_list(rows, FEATURES).select([5, 3, 8])
    table.save_to_disk(tmp_path / "saved")
    dataset = RefCOCODataSet("mine", str(tmp_path / "saved"), input_shape=[64, 64])
    assert [dataset.describe(i)["ref_id"] for i in range(len(dataset))] == ["5", "3", "8"]


# --- Visual Genome and Flickr30k Entities -----------------------------------------------------------------------------


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


def test_visual_genome_regions_become_rows(tmp_path):
    make_visual_genome(tmp_path)
    rows = read({"path": tmp_path, "on_bad_record": "skip"}, name="vg")
    assert [(row["ref_id"], row["image_id"], row["image"]["path"]) for row in rows] == [
        ("1", "coco/716", "VG_100K_2/5.jpg"),
        ("3", "6", "VG_100K/6.jpg"),
    ]
    with pytest.raises(BadRecord, match="box outside image"):
        read(tmp_path / "region_descriptions.json", name="vg")


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_a_json_array_is_read_in_blocks_of_any_size(tmp_path, block):
    from rec.data.sources.visual_genome import iterate_json_array

    content = [{"a": [1, {"b": 'x"]},{'}]}, 12345, "te\\xt]", None, -1.5e3, [], {"é": "🦊"}, True]
    for indent in (None, 2):
        (tmp_path / "x.json").write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(iterate_json_array(tmp_path / "x.json", block)) == content


@pytest.mark.parametrize("text", ["[", '[{"a": 1}', '[{"a": 1}, {"a', '{"a": 1}', "", "[1, 2"])
def test_a_broken_json_array_is_named(tmp_path, text):
    from rec.data.sources.visual_genome import iterate_json_array

    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"x\.json"):
        list(iterate_json_array(tmp_path / "x.json"))


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


def test_flickr_entities_become_rows_with_their_phrases(tmp_path):
    make_flickr(tmp_path)
    folders = {"name": "flickr", "image_path": str(tmp_path / "images")}
    rows = read({"path": tmp_path, "on_bad_record": "skip"}, **folders)
    assert [(row["ref_id"], row["sentences"], row["bbox"], row["category"]) for row in rows] == [
        ("36-1", ["A man", "The man"], [10, 20, 60, 60], "people"),
        ("36-2", ["a red hat"], [14, 4, 15, 15], "clothing"),
    ]
    with pytest.raises(BadRecord, match=r"broken annotation: .*image 37"):
        read(tmp_path, **folders)


# --- shape scenes -----------------------------------------------------------------------------------------------------


def test_scenes_come_through_the_same_door():
    rows = read({"path": "scenes", "count": {"train": 3}, "size": 64}, name="scenes")
    assert {row["source"] for row in rows} == {"scenes"}
    assert rows[0]["width"] == 64 and rows[0]["image"]["bytes"]
    hard = read({"path": "scenes_hard", "count": 2, "size": 96}, "val", name="scenes_hard")
    assert len({row["image_id"] for row in hard}) == 2


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(SourceError, match="needs the key path and may have split_by"):
        read({"path": "scenes", "cuont": 3})
