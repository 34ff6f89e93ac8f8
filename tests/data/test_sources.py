"""Every layout that is out there becomes the same rows."""

import json
import pickle

import numpy as np
import pytest
from data_toys import (
    make_flickr,
    make_jsonl,
    make_refer,
    make_visual_genome,
    rectangle,
    row,
    save_refer,
    simrec_item,
    write_image,
)

from rec.data import masks
from rec.data.prepare import prepare, report_of
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


def test_a_refs_file_that_is_none_or_holds_arrays_or_is_one_of_several_says_so(tmp_path):
    make_refer(tmp_path)
    folder = tmp_path / "refcoco"
    (folder / "refs(google).p").write_bytes((folder / "refs(unc).p").read_bytes())
    with pytest.raises(
        SourceError, match=r"has refs\(…\)\.p of several; it has \['google', 'unc'\]: choose split_by .*--split"
    ):
        open_source(folder, name="mine")
    (folder / "refs(unc).p").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(SourceError, match=r"is not a pickle, it begins with b'version .*get it again"):
        open_source(folder, name="refcoco")
    refs = [{"split": "train", "ref_id": np.int64(1), "ids": np.arange(2)}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    with pytest.raises(SourceError, match="was not run") as told:
        open_source(folder, name="refcoco")
    plain = eval(str(told.value).rpartition("in its place ")[2], {"json": json, "refs": refs})
    assert plain == [{"split": "train", "ref_id": 1, "ids": [0, 1]}]


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
        (lambda refs, instances: refs[0].update(ann_id=[100]), "bad id"),
        (lambda refs, instances: refs[0].update(ref_id=None), "no id"),
        (lambda refs, instances: refs[0].update(image_id=None), "image id without image"),
        (lambda refs, instances: refs.append(5), "broken record"),
        (lambda refs, instances: refs[0].update(split=None), "no split"),
        (lambda refs, instances: refs[0].update(sentences=7), "broken record"),
        (lambda refs, instances: refs[0].update(sentences=[{"sent": 5}]), "bad phrase"),
        (lambda refs, instances: refs[0].update(sentences=[{"sent": "half \ud83d"}]), "broken text"),
        (lambda refs, instances: instances["images"][0].update(file_name=None), "broken record"),
        (lambda refs, instances: instances["images"][0].update(width=0), "wrong image size"),
        (lambda refs, instances: instances["annotations"][0].update(bbox="10 20"), "bad box"),
        (lambda refs, instances: instances["annotations"][0].update(bbox=[10**400, 1, 2, 3]), "bad box"),
        (
            lambda refs, instances: instances["annotations"].append({"id": 100, "bbox": [1, 2, 3, 4]}),
            "two entries of one id",
        ),
        (
            lambda refs, instances: instances["images"].insert(0, {"id": 0, "file_name": "x.jpg"}),
            "two entries of one id",
        ),
        (
            lambda refs, instances: (
                refs[0].update(category_id=2),
                instances["categories"].extend([{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]),
            ),
            "two entries of one id",
        ),
    ],
)
def test_damaged_refer_records_are_refused_or_counted(tmp_path, damage, reason):
    refs, instances = make_refer(tmp_path)
    damage(refs, instances)
    save_refer(tmp_path / "refcoco", refs, instances)
    source = open_source(tmp_path / "refcoco", name="refcoco")
    with pytest.raises(BadRecord, match=reason):
        prepare(source, tmp_path / "out", progress=False)
    info = prepare(source, tmp_path / "skipped", on_bad_record="skip", progress=False)
    skipped = {key: n for split in info["splits"].values() for key, n in split["skipped"].items()}
    assert set(skipped) == {reason}
    if reason == "two entries of one id":
        with pytest.raises(
            BadRecord, match=r"instances\.json has 2 entries of id \d+: number \d+, \{.* and number \d+, \{"
        ):
            prepare(source, tmp_path / "again", progress=False)


def test_entries_that_nothing_refers_to_or_that_are_equal_do_no_harm(tmp_path):
    refs, instances = make_refer(tmp_path)
    instances["annotations"] += [
        5,
        {"bbox": []},
        {"id": [1]},
        dict(instances["annotations"][0]),
        {"id": 9},
        {"id": 9, "a": 1},
    ]
    save_refer(tmp_path / "refcoco", refs, instances)
    assert len(read(tmp_path / "refcoco", name="refcoco")) == 4


def test_a_deep_or_long_value_in_a_whole_file_is_its_records_alone(tmp_path):
    _, instances = make_refer(tmp_path)
    instances["annotations"][0]["bbox"] = "DEEP"
    instances["annotations"][1]["bbox"] = ["LONG", 2, 30, 40]
    text = json.dumps(instances).replace('"DEEP"', "[" * 100_000 + "]" * 100_000).replace('"LONG"', "-" + "9" * 5000)
    (tmp_path / "refcoco" / "instances.json").write_text(text, encoding="utf-8")
    source = open_source(tmp_path / "refcoco", name="refcoco")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["skipped"] == {"bad box": 2}
    assert info["splits"]["train"]["rows"] == 2


# --- SimREC's JSON ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iid": None}, "no id"),
        ({"iid": [7]}, "broken record"),
        ({"iid": "seven"}, "broken record"),
        ({"refs": 5}, "bad phrase"),
        ({"refs": [None]}, "bad phrase"),
        ({"refs": []}, "empty phrase"),
        ({"bbox": {"x": 1}}, "bad box"),
        ({"mask_id": [3]}, "bad id"),
        ({"cat_id": [3]}, "bad id"),
        ({"iid": 8}, "missing image"),
    ],
)
def test_one_odd_simrec_item_is_a_bad_record(tmp_path, change, reason):
    write_image(tmp_path / "COCO_train2014_000000000007.jpg", 120, 90)
    items = [simrec_item(), simrec_item(mask_id=4) | change, simrec_item(mask_id=None, refs="one text")]
    (tmp_path / "x.json").write_text(json.dumps({"val": items, "train": []}), encoding="utf-8")
    source = open_source(tmp_path / "x.json", name="refcoco", image_path=str(tmp_path))
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["val"]["skipped"] == {reason: 1}
    kept = read(tmp_path / "out", "val")
    assert [(row["ref_id"], row["sentences"]) for row in kept] == [("3", ["red box", "box"]), ("val-2", ["one text"])]


# --- your own data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bbox_format", "bbox"),
    [("xywh", [10, 20, 30, 40]), ("xyxy", [10, 20, 40, 60]), ("cxcywh", [25, 40, 30, 40]), ("yxyx", [20, 10, 60, 40])],
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


def damaged_png(root):
    """A picture whose header is whole and whose EXIF reading, which loads it, fails."""
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(root / "damaged.png")
    data = bytearray((root / "damaged.png").read_bytes())
    place = data.index(b"IDAT")
    data[place : place + 4] = b"\x00\xff\x00\xff"
    (root / "damaged.png").write_bytes(data)


GOOD = '{"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40]}'
ODD = {
    "cut short": (GOOD[:-1], "broken line"),
    "a list": ("[1, 2]", "broken line"),
    "no box": ('{"image": "a.jpg", "phrase": "box"}', "incomplete record"),
    "no phrase": (GOOD.replace('"box"', '""'), "incomplete record"),
    "a blank phrase": (GOOD.replace('"box"', '"  "'), "empty phrase"),
    "three numbers": (GOOD.replace(", 40]", "]"), "bad box"),
    "NaN": (GOOD.replace("30", "NaN"), "bad box"),
    "a text for a number": (GOOD.replace("[10, 20, 30, 40]", '"1 2 x 4"'), "bad box"),
    "image not there": (GOOD.replace("a.jpg", "none.jpg"), "missing image"),
    "image cut": (GOOD.replace("a.jpg", "cut.jpg"), "unreadable image"),
    "mask not there": (GOOD[:-1] + ', "mask": "none.png"}', "bad mask"),
    "image a number": (GOOD.replace('"a.jpg"', "5"), "no image"),
    "image a list": (GOOD.replace('"a.jpg"', '["a.jpg"]'), "no image"),
    "image with a null character": (GOOD.replace("a.jpg", "a\\u0000.jpg"), "missing image"),
    "image of half a pair": (GOOD.replace("a.jpg", "\\ud83d.jpg"), "broken text"),
    "phrase NaN": (GOOD.replace('"box"', "NaN"), "incomplete record"),
    "phrase a number": (GOOD.replace('"box"', "5"), "bad phrase"),
    "phrases with a number": (GOOD.replace('"box"', '["box", 5]'), "bad phrase"),
    "phrase an object": (GOOD.replace('"box"', '{"a": 1}'), "bad phrase"),
    "half an emoji": (GOOD.replace('"box"', '"box \\ud83d"'), "broken text"),
    "no UTF-8": (GOOD.replace('"box"', '"caff\udce8"'), "broken text"),
    "400 digits": (GOOD.replace("30", "9" * 400), "bad box"),
    "5,000 digits": (GOOD.replace("30", "9" * 5000), "bad box"),
    "infinite": (GOOD.replace("30", "-Infinity"), "bad box"),
    "box of objects": (GOOD.replace("[10, 20, 30, 40]", '{"x": 1, "y": 2, "w": 3, "h": 4}'), "bad box"),
    "box a number": (GOOD.replace("[10, 20, 30, 40]", "7"), "bad box"),
    "negative run": (GOOD[:-1] + ', "mask": {"size": [90, 120], "counts": [-5, 10805]}}', "bad mask"),
    "mask a number": (GOOD[:-1] + ', "mask": 5}', "bad mask"),
    "mask of texts": (GOOD[:-1] + ', "mask": [["a", "b"]]}', "bad mask"),
    "mask without counts": (GOOD[:-1] + ', "mask": {"size": [90, 120]}}', "bad mask"),
    "ann_id a list": (GOOD[:-1] + ', "ann_id": [1]}', "bad id"),
    "ref_id an object": (GOOD[:-1] + ', "ref_id": {"a": 1}}', "bad id"),
    "image_id true": (GOOD[:-1] + ', "image_id": true}', "bad id"),
    "category a list": (GOOD[:-1] + ', "category": [[]]}', "bad id"),
    "100,000 brackets": (GOOD.replace("40]", "40, " + "[" * 100_000 + "]" * 100_000 + "]"), "bad box"),
    "only brackets": ("[" * 100_000, "broken line"),
    "a damaged picture": (GOOD.replace("a.jpg", "damaged.png"), "unreadable image"),
    "a split elsewhere": (GOOD[:-1] + ', "split": "../../evil"}', "bad split"),
    "fractions": (GOOD.replace("[10, 20, 30, 40]", "[0.1, 0.2, 0.3, 0.4]"), "box in fractions"),
    "touching": (GOOD.replace("[10, 20, 30, 40]", "[120, 20, 1, 40]"), "box outside image"),
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_record_is_a_bad_record_and_no_more(tmp_path, name):
    line, reason = ODD[name]
    make_jsonl(tmp_path, [json.loads(GOOD)])
    damaged_png(tmp_path)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    file = tmp_path / "train.jsonl"
    file.write_text(f"{GOOD}\n{line}\n{GOOD}\n", encoding="utf-8", errors="surrogateescape")
    spec = {"path": file, "bbox_format": "xywh"}
    with pytest.raises(BadRecord) as caught:
        read(spec, with_masks=True)
    assert caught.value.reason == reason and ("record 1" in str(caught.value) or "line 2" in str(caught.value))
    assert len(str(caught.value)) < 2000 and str(caught.value).isprintable()
    assert "--on-bad-record skip" in str(caught.value)
    source = open_source(spec, name="mine")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["skipped"] == {reason: 1}
    assert [row["ref_id"] for row in read(tmp_path / "out")] == ["train-1", "train-3"]
    report_of(info, "train").warnings()[0].encode()


@pytest.mark.parametrize("change", [('"box"', '"🦊 左"'), ('"box"', '"red\\tbox"'), ("}", ', "mask": []}')])
def test_what_is_unusual_and_right_is_taken(tmp_path, change):
    file = make_jsonl(tmp_path, [json.loads(GOOD.replace(*change))])
    assert len(read({"path": file, "bbox_format": "xywh"}, with_masks=True)) == 1


def test_odd_lines_of_csv_are_bad_records(tmp_path):
    write_image(tmp_path / "a.jpg", 120, 90)
    lines = ["image,phrase,bbox,ref_id", "a.jpg,box,10 20 30 40,0", f"a.jpg,{'x' * 200_000},10 20 30 40,1"]
    lines += [
        "a.jpg",
        "a.jpg,caff\udce8,10 20 30 40,2",
        "a.jpg,box,10 20 30 40 50,3",
        'a.jpg,"the ""box""",10;20;30;40,',
    ]
    file = tmp_path / "x.csv"
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    info = prepare(
        open_source({"path": file, "bbox_format": "xywh"}, name="mine"),
        tmp_path / "out",
        on_bad_record="skip",
        progress=False,
    )
    skipped = {"broken line": 1, "incomplete record": 1, "broken text": 1, "bad box": 1}
    assert info["splits"]["train"]["skipped"] == skipped
    assert [(row["ref_id"], row["sentences"]) for row in read(tmp_path / "out")] == [
        ("0", ["box"]),
        ("x-7", ['the "box"']),
    ]


def test_a_csv_file_loses_no_part_of_a_line_and_no_line_to_a_stray_quotation_mark(tmp_path):
    write_image(tmp_path / "a.jpg", 120, 90)
    lines = ["image,bbox,phrase,", "a.jpg,10 20 30 40,the red mug, the big one", 'a.jpg,10 20 30 40,a 12" screen,,,']
    lines += ['a.jpg,10 20 30 40,"the lid', "a.jpg,10 20 30 40,a spoon", 'a.jpg,9 9 9 9,"green" cup,']
    lines += ["a.jpg,10 20 30 40,a fork", 'a.jpg,10 20 30 40,"never closed', "a.jpg,10 20 30 40,a knife"]
    (tmp_path / "X.CSV").write_text("\r\n".join(lines), encoding="utf-8-sig")
    source = open_source({"path": tmp_path / "X.CSV", "bbox_format": "xywh"}, name="mine")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    entry = info["splits"]["train"]
    assert entry["skipped"] == {"more fields than columns": 1, "broken line": 5}
    assert "line 2: 'the big one' is under no column's name" in entry["examples"]["more fields than columns"]
    assert "lines 4 to 6: ',' expected after '\"'" in entry["examples"]["broken line"]
    assert [row["sentences"] for row in read(tmp_path / "out")] == [['a 12" screen'], ["a fork"]]


def test_row_numbers_and_numbers_of_numpy_as_pandas_writes_them_are_no_fault(tmp_path):
    write_image(tmp_path / "a.jpg", 120, 90)
    text = ",image,phrase,bbox\n0,a.jpg,box,10 20 30 40\n1,a.jpg,the lid,10 20 30 40\n"
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    spec = {"path": tmp_path / "x.csv", "bbox_format": "xywh"}
    assert [row["sentences"] for row in read(spec)] == [["box"], ["the lid"]]
    numbers = "[np.float64(10.0), np.float64(20.0), np.int64(30), 40.0]"  # a list of NumPy's, since its version 2
    (tmp_path / "x.csv").write_text(f'image,phrase,bbox\na.jpg,box,"{numbers}"\n', encoding="utf-8")
    assert read(spec)[0]["bbox"] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("twice.csv", "image,phrase,bbox,phrase\na.jpg,a,1 2 30 40,b\n", r"twice\.csv has several columns phrase"),
        ("empty.csv", "", r"empty\.csv holds no record"),
        ("header.csv", "image,phrase,bbox\n", r"header\.csv holds no record"),
        (
            "bare.csv",
            "a.jpg,box,1 2 30 40\nb.jpg,box,1 2 30 40\n",
            r"first line of .*bare\.csv .*'a\.jpg'.*image, phrase, bbox",
        ),
        ("empty.jsonl", "\n \n", r"empty\.jsonl holds no record"),
        ("odd.jsonl", '{"picture": "a.jpg"}\n[]\n', "nothing is left to write in split train: skipped 1 records"),
    ],
)
def test_a_table_of_nothing_is_an_error(tmp_path, name, text, words):
    (tmp_path / name).write_text(text, encoding="utf-8")
    spec = {"path": tmp_path / name, "bbox_format": "xywh", "on_bad_record": "skip"}
    with pytest.raises(SourceError, match=words):
        read(spec)


def test_zero_is_an_id_and_null_is_none(tmp_path):
    rows = [json.loads(GOOD) | {"ref_id": 0, "image_id": 0, "ann_id": 0, "category": 0}]
    rows.append(json.loads(GOOD) | dict.fromkeys(("ref_id", "image_id", "ann_id", "category", "source", "split")))
    zero, null = read({"path": make_jsonl(tmp_path, rows), "bbox_format": "xywh"})
    assert [zero[key] for key in ("ref_id", "image_id", "ann_id", "category")] == ["0", "0", "0", "0"]
    assert [null[key] for key in ("ref_id", "image_id", "ann_id", "category", "source")] == [
        *("train-2", "a.jpg", None, None, "mine")
    ]


def test_own_records_may_be_one_json_array_and_lines_under_that_name_are_told(tmp_path):
    row = json.loads(GOOD)
    make_jsonl(tmp_path, [row])
    (tmp_path / "x.json").write_text(json.dumps([row, row], indent=1), encoding="utf-8")
    assert len(read({"path": tmp_path / "x.json", "bbox_format": "xywh"})) == 2
    (tmp_path / "train.jsonl").rename(tmp_path / "y.json")
    (tmp_path / "y.json").write_text(f"{GOOD}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"y\.json is not valid JSON .*one object per line\? Then call it \.jsonl"):
        read({"path": tmp_path / "y.json", "bbox_format": "xywh"})


def test_a_folder_may_hold_an_array_of_own_records_for_each_split(tmp_path):
    row = json.loads(GOOD)
    make_jsonl(tmp_path, [row]).unlink()
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text(json.dumps([row, row]), encoding="utf-8")
    spec = {"path": tmp_path, "bbox_format": "xywh"}
    assert open_source(spec, name="mine").splits == ("train", "val") and len(read(spec, "val")) == 2
    (tmp_path / "other.json").write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    with pytest.raises(SourceError, match="of no known layout"):
        open_source(spec, name="mine")


def test_a_folder_has_one_file_for_each_split(tmp_path):
    folder = make_jsonl(tmp_path, [json.loads(GOOD)]).parent
    (folder / "._train.jsonl").write_bytes(b"\0\5\x16\7")  # what a Mac leaves on other file systems
    spec = {"path": folder, "bbox_format": "xywh"}
    assert open_source(spec, name="mine").splits == ("train",)
    (folder / "train.csv").write_text("image,phrase,bbox\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"has both train\.csv and train\.jsonl"):
        open_source(spec, name="mine")


def test_a_broken_line_is_in_the_first_split_there_is(tmp_path):
    lines = ["{", GOOD[:-1] + ', "split": "val"}', GOOD[:-1] + ', "split": "test"}']
    make_jsonl(tmp_path, [json.loads(GOOD)])
    (tmp_path / "all.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = open_source({"path": tmp_path / "all.jsonl", "bbox_format": "xywh"}, name="mine")
    assert source.splits == ("val", "test")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert [info["splits"][split]["skipped"] for split in source.splits] == [{"broken line": 1}, {}]


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


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_files_of_other_kinds_beside_the_data_change_nothing(tmp_path, kind):
    (tmp_path / "mine").mkdir()
    table = foreign_table(tmp_path, phrase=["red box", "thing"])
    if kind == "parquet":
        table.to_parquet(tmp_path / "mine" / "train-00000-of-00001.parquet")
    else:
        line = {"image": str(tmp_path / "a.jpg"), "phrase": "red box", "bbox": [1, 2, 30, 40]}
        (tmp_path / "mine" / "train.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    spec = {"path": tmp_path / "mine", "bbox_format": "xywh"}
    expected = [row["sentences"] for row in read(spec)]
    (tmp_path / "mine" / "train.json").write_text('{"step": 1}\n{"step": 2}\n', encoding="utf-8")
    (tmp_path / "mine" / "counts.tsv").write_text("word\tcount\nred\t2\n", encoding="utf-8")
    coco = {"images": [], "annotations": [{"id": 1}], "categories": []}
    (tmp_path / "mine" / "instances_val.json").write_text(json.dumps(coco), encoding="utf-8")
    assert [row["sentences"] for row in read(spec)] == expected != []


def test_a_column_map_names_what_is_not_recognised(tmp_path):
    table = foreign_table(tmp_path, utterance=["red box", "thing"])
    table.save_to_disk(tmp_path / "saved")
    with pytest.raises(SourceError, match=r"which columns hold sentences.*utterance"):
        read(tmp_path / "saved")
    rows = read({"path": tmp_path / "saved", "columns": {"sentences": "utterance"}})
    assert [row["sentences"] for row in rows] == [["red box"], ["thing"]]
    with pytest.raises(SourceError, match="sentences = no_such"):
        read({"path": tmp_path / "saved", "columns": {"sentences": "no_such"}})


def mask_pictures(root):
    """A mask as the pictures that tables hold: gray, in one colour on black, and with a palette."""
    import cv2
    from PIL import Image

    shape = np.zeros((90, 120), np.uint8)
    shape[20:60, 10:40] = 1
    coloured = np.zeros((90, 120, 3), np.uint8)
    coloured[..., 0] = 200 * shape  # blue, as OpenCV orders them
    palette = Image.fromarray(2 * shape, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    cv2.imwrite(str(root / "gray.png"), 255 * shape)
    cv2.imwrite(str(root / "coloured.png"), coloured)
    palette.save(root / "palette.png")
    return shape, [root / f"{name}.png" for name in ("gray", "coloured", "palette")]


@pytest.mark.parametrize("kind", ["Image", "bytes", "path", "pixels"])
def test_mask_columns_of_pictures_are_read(tmp_path, kind):
    from datasets import Dataset, Features, Image, List, Value

    write_image(tmp_path / "a.jpg", 120, 90)
    shape, files = mask_pictures(tmp_path)
    feature, values = {
        "Image": (Image(), [str(file) for file in files]),
        "bytes": (Value("binary"), [file.read_bytes() for file in files]),
        "path": (Value("string"), [file.name for file in files]),
        "pixels": (List(List(Value("uint8"))), [shape.tolist()] * 3),
    }[kind]
    columns = {"image": ["a.jpg"] * 3, "box": [[10.0, 20, 30, 40]] * 3, "phrase": ["box"] * 3, "mask": values}
    features = {"image": Value("string"), "box": List(Value("float32")), "phrase": Value("string"), "mask": feature}
    Dataset.from_dict(columns, Features(features)).to_parquet(tmp_path / "x.parquet")
    rows = read(tmp_path / "x.parquet", with_masks=True, image_path=str(tmp_path))
    assert all((masks.decode(row["mask"]) == shape).all() for row in rows) and len(rows) == 3


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("mask", "none.png", "bad mask"),
        ("mask", "small.png", "bad mask"),
        ("mask", "no mask at all", "bad mask"),
        ("image", None, "no image"),
        ("image", "none.jpg", "missing image"),
        ("phrase", None, "empty phrase"),
        ("phrase", "caff\udce8", "broken record"),
        ("box", None, "bad box"),
        ("box", [1.0, 2.0], "bad box"),
        ("ref_id", "r0", "duplicate id"),
    ],
)
def test_one_odd_row_of_a_foreign_table_is_a_bad_record(tmp_path, column, value, reason):
    import pyarrow as pa
    from pyarrow import parquet

    write_image(tmp_path / "a.jpg", 120, 90)
    write_image(tmp_path / "small.png", 20, 20)
    _, files = mask_pictures(tmp_path)
    columns = {
        "image": ["a.jpg"] * 3,
        "phrase": ["box"] * 3,
        "mask": [files[0].name] * 3,
        "box": [[10.0, 20, 30, 40]] * 3,
    }
    columns |= {"ref_id": ["r0", "r1", None], "image_id": ["i", "i", None], "category": ["c", None, None]}
    columns[column][1] = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    types = dict.fromkeys(columns, pa.string()) | {"box": pa.list_(pa.float32())}
    arrays = {  # through bytes, so that a text can be none
        key: pa.array([v.encode() if isinstance(v, str) else v for v in values], pa.binary()).view(pa.string())
        if types[key] == pa.string()
        else pa.array(values, types[key])
        for key, values in columns.items()
    }
    parquet.write_table(pa.table(arrays), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", name="mine", image_path=str(tmp_path))
    with pytest.raises(BadRecord, match=reason):
        prepare(source, tmp_path / "raised", progress=False)
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["skipped"] == {reason: 1}
    first, last = read(tmp_path / "out")
    assert [first[key] for key in ("ref_id", "image_id", "category")] == ["r0", "i", "c"]
    assert (last["ref_id"], last["category"]) == ("train-2", None) and len(last["image_id"]) == 16


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


def test_visual_genome_regions_become_rows(tmp_path):
    make_visual_genome(tmp_path)
    rows = read({"path": tmp_path, "on_bad_record": "skip"}, name="vg")
    assert [(row["ref_id"], row["image_id"], row["image"]["path"]) for row in rows] == [
        ("1", "coco/716", "VG_100K_2/5.jpg"),
        ("3", "6", "VG_100K/6.jpg"),
    ]
    with pytest.raises(BadRecord, match="box outside image"):
        read(tmp_path / "region_descriptions.json", name="vg")


def test_odd_regions_and_images_of_visual_genome_are_bad_records(tmp_path):
    make_visual_genome(tmp_path)
    entries = json.loads((tmp_path / "region_descriptions.json").read_text(encoding="utf-8"))
    region = entries[0]["regions"][0]
    odd = [5, {"id": 5}, {"id": 5, "regions": 7}, {"id": 5, "regions": [3, region | {"region_id": None}]}]
    odd += [{"id": 5, "regions": [region | change]} for change in ({"phrase": 5}, {"image_id": [5]}, {"x": "DEEP"})]
    odd += [{"id": 5, "regions": [region | {"region_id": 0, "image_id": None}]}]
    text = json.dumps([*odd, entries[0] | {"regions": [region]}]).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    (tmp_path / "region_descriptions.json").write_text(text, encoding="utf-8")
    images = json.loads((tmp_path / "image_data.json").read_text(encoding="utf-8"))
    images += [7, {"url": "x"}, {"image_id": 6}]
    (tmp_path / "image_data.json").write_text(json.dumps(images), encoding="utf-8")
    source = open_source(tmp_path, name="vg")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    skipped = info["splits"]["train"]["skipped"]
    assert skipped == {"broken record": 4, "no id": 1, "bad phrase": 1, "bad id": 1, "bad box": 1}
    assert [row["ref_id"] for row in read(tmp_path / "out")] == ["0", "1"]


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


def test_odd_images_of_flickr_are_bad_records(tmp_path):
    make_flickr(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"37\ncaff\xe8\n36\n38\n")
    (tmp_path / "Sentences" / "38.txt").write_bytes(b"[/EN#1/people caff\xe8]")
    (tmp_path / "Annotations" / "38.xml").write_text("<annotation/>", encoding="utf-8")
    source = open_source(tmp_path, name="flickr", image_path=str(tmp_path / "images"))
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["skipped"] == {"broken annotation": 3}
    assert info["splits"]["train"]["rows"] == 2


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
