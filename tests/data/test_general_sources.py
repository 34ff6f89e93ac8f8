"""Annotation files whose phrases name none, one or several objects: gRefCOCO, own JSONL, Flickr30k Entities kept apart."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from data_toys import make_jsonl, make_refer, rectangle, write_image

from rec.data import masks
from rec.data.dataset import RefCOCODataSet
from rec.data.leakage import image_key
from rec.data.prepare import prepare, report_of
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
LEFT, RIGHT = [10.5, 20.0, 30.0, 25.5], [40.0, 50.0, 35.0, 30.0]


def make_grefcoco(root, changes=(), crowd=True):
    """gRefCOCO's folder: of each image one ref of two objects, one of one (an id without a list) and one of none."""
    splits = ("train", "val", "testA", "testB")
    _, instances = make_refer(root, "plain", splits)
    for annotation in instances["annotations"]:
        annotation |= dict(changes)
    refs, ids = [], [annotation["id"] for annotation in instances["annotations"]]
    if crowd:
        instances["annotations"].append(
            {"id": 900, "image_id": 0, "bbox": [0, 0, 70, 70], "category_id": 1, "iscrowd": 1, "segmentation": []}
        )
    for number, split in enumerate(splits):
        here = ids[2 * number : 2 * number + 2]
        for kind, named in enumerate([[*here, *([900] if crowd and number == 0 else [])], here[0], [-1]]):
            said = [{"sent": f"phrase {kind}", "raw": f"Phrase {kind}", "tokens": [], "sent_id": 9 * number + kind}]
            categories = named if named == [-1] else 1 if isinstance(named, int) else [1] * len(named)
            ref = {"ref_id": 3 * number + kind, "image_id": number, "split": split, "sentences": said}
            refs.append(ref | {"ann_id": named, "category_id": categories, "file_name": "not_an_image.jpg"})
    folder = root / "grefcoco"
    folder.mkdir()
    (folder / "grefs(unc).json").write_text(json.dumps(refs), encoding="utf-8")
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    return folder, refs, instances


def test_grefcoco_gives_every_object_the_union_of_their_masks_and_counts_crowds(tmp_path):
    folder, _, _ = make_grefcoco(tmp_path)
    source = open_source(folder, name="grefcoco")
    assert source.splits == ("train", "val", "testA", "testB")
    info = prepare(source, tmp_path / "out", with_masks=True, progress=False)
    report = report_of(info, "train")
    assert (report.rows, report.sentences, report.none, report.several) == (3, 3, 1, 1)
    assert report.left_out == {"annotations of crowds (iscrowd)": 1}
    assert report.warnings() == ["left out 1 annotations of crowds (iscrowd)"]
    several, one, none = open_table(tmp_path / "out", "train", name="grefcoco").rows
    assert several["boxes"] == [LEFT, RIGHT] and several["ann_id"] == "100,101" and several["category"] == "thing"
    assert one["boxes"] == [LEFT] == [one["bbox"]] and one["ann_id"] == "100"
    assert none["boxes"] == [] and none["bbox"] is none["ann_id"] is none["category"] is None
    parts = [masks.decode(masks.from_coco(rectangle(box), 100, 80)) for box in (LEFT, RIGHT)]
    assert np.array_equal(masks.decode(several["mask"]), parts[0] | parts[1])
    assert np.array_equal(masks.decode(one["mask"]), parts[0]) and not masks.decode(none["mask"]).any()
    dataset = RefCOCODataSet("grefcoco", {"grefcoco": str(tmp_path / "out")}, targets="any", with_masks=True)
    assert dataset.collate([dataset[i] for i in range(3)])["box_count"].tolist() == [2, 1, 0]


def test_a_group_of_annotations_of_polygons_and_runs_is_joined(tmp_path):
    folder, _, instances = make_grefcoco(tmp_path, crowd=False)
    area = np.zeros((100, 80), np.uint8)
    area[50:80, 40:75] = 1
    instances["annotations"][1]["segmentation"] = masks.encode(area)
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    row = next(iter(prepared(folder, tmp_path, with_masks=True)))
    assert np.array_equal(masks.decode(row["mask"]), area | masks.decode(masks.from_coco(rectangle(LEFT), 100, 80)))


def prepared(source, tmp_path, **options):
    prepare(open_source(source, name="grefcoco"), tmp_path / "out", progress=False, **options)
    return open_table(tmp_path / "out", "train", name="grefcoco").rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ann_id": [900]}, r"crowds alone: .*all are crowds"),
        ({"ann_id": [100, -1]}, r"bad id: .*expected ids, or \[-1\] where nothing is named"),
        ({"ann_id": []}, "bad id"),
        ({"ann_id": [True]}, "bad id: .*True"),
        ({"ann_id": [100, 4711]}, "no annotation: .*4711"),
        ({"ann_id": [102]}, "annotation of another image: .*102 is of image 1, the ref of 0"),
        ({"ann_id": {"a": 1}}, "bad id"),
        ({"ann_id": None}, "no annotation"),
        ({"category_id": {"a": 1}}, "bad id"),
    ],
)
def test_a_bad_ref_of_grefcoco_is_named(tmp_path, change, words):
    folder, refs, _ = make_grefcoco(tmp_path)
    refs[0] |= change
    (folder / "grefs(unc).json").write_text(json.dumps(refs), encoding="utf-8")
    with pytest.raises(BadRecord, match=words):
        prepared(folder, tmp_path)
    info = prepare(open_source(folder, name="grefcoco"), tmp_path / "skip", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["rows"] == 2 and sum(info["splits"]["train"]["skipped"].values()) == 1


def test_a_folder_of_both_kinds_is_read_by_the_name_of_the_data_set(tmp_path):
    folder, _, _ = make_grefcoco(tmp_path)
    (folder / "refs(unc).p").write_bytes((tmp_path / "plain" / "refs(unc).p").read_bytes())
    assert open_source(folder, name="grefcoco").options["kind"] == "grefs"
    assert open_source(folder, name="refcoco").options["kind"] == "refer"
    with pytest.raises(SourceError, match=r"has no grefs\(google\)\.json; it has \['unc'\]"):
        open_source({"path": folder, "split_by": "google"}, name="grefcoco")
    assert image_key("grefcoco", "9") == image_key("refcoco", "9") == "coco/9"


def test_grefcoco_files_that_are_none_are_refused(tmp_path):
    folder, _, _ = make_grefcoco(tmp_path)
    for content, words in (('{"a": 1}', r"not a list of refs .*grefs\(…\)\.json"), ("[1, 2", "not valid JSON")):
        (folder / "grefs(unc).json").write_text(content, encoding="utf-8")
        with pytest.raises(SourceError, match=words):
            open_source(folder, name="grefcoco")


def test_own_lines_name_none_one_or_several(tmp_path):
    lines = [
        {"image": "a.jpg", "phrase": "both", "boxes": [[1, 2, 31, 42], "50 10 80 60"]},
        {"image": "a.jpg", "phrase": "the unicorn", "boxes": []},
        {"image": "a.jpg", "phrase": "one", "bbox": [1, 2, 31, 42]},
    ]
    write_image(tmp_path / "a.jpg", 120, 90)
    spec = {"path": str(make_jsonl(tmp_path, lines)), "bbox_format": "xyxy"}
    info = prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    assert info["splits"]["train"]["none"] == info["splits"]["train"]["several"] == 1
    rows = open_table(tmp_path / "out", "train", name="mine").rows
    assert rows["boxes"] == [[[1, 2, 30, 40], [50, 10, 30, 50]], [], [[1, 2, 30, 40]]]
    assert masks.decode(rows[1]["mask"]).shape == (90, 120) and rows[0]["mask"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bbox": [1, 2, 3, 4], "boxes": [[1, 2, 3, 4]]}, "two different boxes: .*it has bbox and boxes; give one"),
        ({"boxes": {"a": 1}}, "bad box: .*expected a list of boxes, empty where nothing is named"),
        ({"boxes": [1, 2, 3, 4]}, r"bad box: .*boxes\[0\] is 1"),
        ({"boxes": [[1, 2, 3, 4], None]}, r"bad box: .*boxes\[1\] is None"),
        (
            {"boxes": None},
            r"incomplete record: .*it has no bbox; boxes says nothing either: it is \[\] where nothing is named",
        ),
    ],
)
def test_own_lines_with_boxes_that_are_none_are_named(tmp_path, given, words):
    write_image(tmp_path / "a.jpg", 120, 90)
    file = make_jsonl(tmp_path, [{"image": "a.jpg", "phrase": "box"} | given])
    with pytest.raises(BadRecord, match=words):
        prepare(open_source({"path": file, "bbox_format": "xywh"}, name="mine"), tmp_path / "out", progress=False)


def test_boxes_of_several_objects_count_for_the_suspicion_of_another_format(tmp_path):
    lines = [
        {"image": "a.jpg", "phrase": "b", "boxes": [[60 + n, 40, 110, 80], [10, 30 + n, 100, 80]]} for n in range(9)
    ]
    lines.append({"image": "a.jpg", "phrase": "b", "boxes": []})
    write_image(tmp_path / "a.jpg", 120, 90)
    source = open_source({"path": make_jsonl(tmp_path, lines), "bbox_format": "xywh"}, name="mine")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert any(
        "18 of 18 boxes do not fit their image when read as xywh" in line
        for line in report_of(info, "train").warnings()
    )


def make_flickr(root):
    (root / "Sentences").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "Sentences" / "7.txt").write_text(
        "[/EN#1/people Two men] near [/EN#2/scene a street] .\n", encoding="utf-8"
    )
    boxes = [(2, 3, 41, 52), (61, 11, 91, 61)]
    found = "".join(
        f"<object><name>1</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    (root / "Annotations" / "7.xml").write_text(
        f"<annotation><size><width>120</width><height>90</height></size>{found}<object><name>2</name><nobndbox>1</nobndbox></object></annotation>",
        encoding="utf-8",
    )
    (root / "train.txt").write_text("7\n", encoding="utf-8")
    write_image(root / "images" / "7.jpg", 120, 90)
    return root


def test_flickr_boxes_are_merged_as_published_or_kept_apart(tmp_path):
    folder = make_flickr(tmp_path / "flickr")
    expected = {"merged": [[1, 2, 89, 58]], "separate": [[1, 2, 39, 49], [60, 10, 30, 50]]}
    for boxes, wanted in expected.items():
        spec = {"path": folder, "boxes": boxes}
        source = open_source(spec, name="flickr", image_path=str(folder / "images"))
        prepare(source, tmp_path / boxes, progress=False)
        rows = open_table(tmp_path / boxes, "train", name="flickr").rows
        assert rows["boxes"] == [wanted] and rows["sentences"] == [["Two men"]]
    with pytest.raises(SourceError, match="boxes is 'both'; expected 'merged' or 'separate'"):
        open_source({"path": folder, "boxes": "both"}, name="flickr", image_path=str(folder / "images"))


def test_flickr_boxes_of_a_picture_of_another_size_are_refused(tmp_path):
    folder = make_flickr(tmp_path / "flickr")
    write_image(folder / "images" / "7.jpg", 240, 180)  # the boxes would lie in it, elsewhere
    source = open_source(folder, name="flickr", image_path=str(folder / "images"))
    with pytest.raises(BadRecord, match=r"wrong image size: .*the record says 120x90, .* is 240x180"):
        prepare(source, tmp_path / "out", progress=False)


def test_the_script_prepares_grefcoco_by_its_name_and_says_what_training_needs(tmp_path, monkeypatch, capsys):
    import prepare_data

    make_grefcoco(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", "--dataset", "grefcoco", "--data_root", str(tmp_path)])
    assert prepare_data.main() == 0
    said = capsys.readouterr().out
    assert "data set [grefcoco_unc] contains:\n12 expressions for 12 refs in 4 images." in said
    assert "Of the expressions in split [testB] 1 name nothing, 1 several objects." in said
    assert "WARNING, split train: left out 1 annotations of crowds (iscrowd)" in said
    assert said.rstrip().endswith("+dataset.targets=any train.evaluation.eval_metric=Pr@F1")
