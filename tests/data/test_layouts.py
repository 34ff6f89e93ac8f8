"""Layouts that other tools write: COCO with phrases, Label Studio, conversations, tables whose rows list objects."""

import base64
import json
import os
import re

import numpy as np
import pytest
from data_toys import ASK, BOX, OTHER, PERCENT, SIZE, coco, rectangle, talk, task, write_image

from rec.data import masks
from rec.data.prepare import prepare, report_of
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "photos" / name, 120, 90, BOX)
    return tmp_path


def write(folder, content, name="x.json"):
    lines = name.endswith(".jsonl")
    text = "".join(json.dumps(line) + "\n" for line in content) if lines else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def table(folder, spec, split="train", **options):
    options = {"image_path": str(folder / "photos")} | options
    return list(open_table(spec, split, name="mine", **options).rows)


def faults(folder, spec):
    """What the reader itself says of bad records."""
    source = open_source(spec, name="mine", image_path=str(folder / "photos"))
    return "\n".join(str(row) for row in source.read("train") if isinstance(row, BadRecord))


def fault(folder, spec, **options):
    """What the only bad record of a source is told of."""
    source = open_source(spec, name="mine", image_path=str(folder / "photos"))
    with pytest.raises(BadRecord) as told:
        prepare(source, folder / "raised", progress=False, **options)
    info = prepare(source, folder / "skipped", progress=False, on_bad_record="skip", overwrite=True, **options)
    assert sum(sum(entry["skipped"].values()) for entry in info["splits"].values()) == 1
    return str(told.value)


# --- COCO ---------------------------------------------------------------------------------------------------------------


def test_coco_annotations_with_phrases_become_rows(folder):
    file = write(folder, coco())
    first, second = table(folder, file)
    assert (first["sentences"], first["bbox"], first["category"], first["ann_id"]) == (["red box"], BOX, "box", "7")
    assert table(folder, write(folder, coco(image_id=0.0, category_id=3.0), "of_pandas.json"))[0] == first
    assert (second["sentences"], second["bbox"], second["category"]) == (["gray", "the gray one"], OTHER, None)
    source = open_source(file, name="mine", image_path=str(folder / "photos"))
    report = report_of(prepare(source, folder / "out", with_masks=True, progress=False), "train")
    assert report.left_out == {"annotations without a phrase": 1}
    rows = list(open_table(folder / "out", "train", name="mine").rows)
    assert masks.decode(rows[0]["mask"]).sum() == 30 * 40 and rows[1]["mask"] is None


def test_splits_of_coco_files_are_named_inside_or_by_the_file(folder):
    content = coco(split="validation")
    assert open_source(write(folder, content), name="mine").splits == ("val", "train")
    assert [row["ann_id"] for row in table(folder, write(folder, content), "val")] == ["7"]
    named = {"instances_val2017": "val", "test": "test", "_annotations.coco": "train", "Validation": "val"}
    named |= {"finetune_refcoco_testA": "test", "instancesTest": "test", "labels_latest": "train", "festival": "train"}
    for name, split in named.items():
        assert open_source(write(folder, coco(), f"{name}.json"), name="mine").splits == (split,), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 5}, "image id without image: .*annotation number 0: image_id 5"),
        ({"bbox": [1, 2]}, "bad box"),
        ({"bbox": None}, "bad box"),
        ({"caption": ""}, "empty phrase"),
        ({"caption": [3]}, "bad phrase"),
        ({"split": "../x"}, "bad split: .*annotation number 0"),
        ({"category_id": [3]}, "bad id"),
        ({"bbox": [100, 20, 30, 40]}, "box outside image"),
    ],
)
def test_a_bad_annotation_is_named(folder, change, words):
    assert re.search(words, fault(folder, write(folder, coco(**change))))


def test_what_cvat_was_told_of_an_object_is_its_phrase_unless_the_box_is_turned(folder):
    content = coco(caption=None)
    for annotation, words in zip(content["annotations"][::2], ("red box", ""), strict=True):
        annotation["attributes"] = {"occluded": False, "rotation": 0.0, "phrase": words, "wort": words}
    [gray, red] = sorted(row["sentences"] for row in table(folder, write(folder, content)))
    assert (red, gray) == (["red box"], ["gray", "the gray one"])
    [row] = table(folder, {"path": write(folder, content), "columns": {"sentences": "wort"}})
    assert row["sentences"] == ["red box"]
    with pytest.raises(SourceError, match=r"they have .*occluded, phrase, "):
        open_source({"path": write(folder, content), "columns": {"sentences": "worte"}}, name="mine")
    content["annotations"][0]["attributes"]["rotation"] = 318.3
    assert "turned rectangle: " in (told := fault(folder, write(folder, content))) and "turned by 318.3" in told


def test_a_folder_of_coco_files_has_a_split_of_each_as_roboflow_exports_them(folder, caplog):
    for seed, split in enumerate(("train", "valid", "test")):
        for name in "ab":
            write_image(folder / "export" / split / f"{name}.jpg", 120, 90, BOX, seed=seed)
        write(folder / "export" / split, coco(), "_annotations.coco.json")
    (folder / "export" / "README.roboflow.txt").write_text("exported", encoding="utf-8")
    for images in (None, str(folder / "export")):
        source = open_source(str(folder / "export"), name="mine", image_path=images)
        info = prepare(source, folder / "out", progress=False, overwrite=True)
        assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 2, "val": 2, "test": 2}
    row = table(folder, str(folder / "out"), "val", image_path=None)[0]
    assert (row["ref_id"], row["image_id"], row["image"]["path"]) == ("val-7", "val-0", "valid/a.jpg")
    one = folder / "export" / "valid"  # and its folder tells the split of a file alone
    for path in (one, one / "_annotations.coco.json"):
        assert open_source(str(path), name="mine").splits == ("val",)
    write(folder / "export" / "test", {"images": [], "annotations": []}, "_annotations.coco.json")  # background alone
    assert open_source(str(folder / "export"), name="mine").splits == ("train", "val")
    bare = coco() | {"annotations": [{"id": 1, "image_id": 0, "bbox": BOX}]}  # nobody has written phrases for it
    write(folder / "export" / "test", bare, "_annotations.coco.json")
    assert open_source(str(folder / "export"), name="mine").splits == ("train", "val")
    assert re.search("left out: no annotation of .*test.* has a phrase", caplog.text)
    write(folder / "export", coco(), "valid.json")
    with pytest.raises(SourceError, match="are both of val: leave one file"):
        open_source(str(folder / "export"), name="mine")


@pytest.mark.parametrize("images", ["images", "images/{}", "{}", "{}2017", "images/{}_photos"])
def test_images_of_a_coco_folder_lie_beside_its_annotations_by_split_or_together(folder, images):
    (folder / "set" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        for name in "ab":
            write_image(folder / "set" / images.format(split) / f"{name}.jpg", 120, 90, BOX)
        write(folder / "set" / "annotations", coco(), f"instances_{split}2017.json")
    for path, root in (("set", None), ("set/annotations", "set"), ("set/annotations", "set/images")):
        if root != "set/images" or images.startswith("images"):
            source = open_source(str(folder / path), name="mine", image_path=root and str(folder / root))
            rows = [row for split in source.splits for row in source.read(split) if isinstance(row, dict)]
            assert source.splits == ("train", "val") and len(rows) == 4
            places = [os.path.relpath(os.path.dirname(row["image"]), folder / "set") for row in rows]
            assert places == [images.format("train")] * 2 + [images.format("val")] * 2


def test_coco_files_without_phrases_say_what_they_have(folder):
    content = coco()
    for annotation in content["annotations"]:
        annotation.pop("caption", None), annotation.pop("referring_expressions", None)
    with pytest.raises(
        SourceError, match=r"no annotation of .* has a phrase: looked for referring_expressions, .*they have bbox"
    ):
        open_source(write(folder, content), name="mine")
    with pytest.raises(SourceError, match="expected a list of objects with id"):
        open_source(write(folder, coco() | {"images": 3}), name="mine")


def test_spans_of_mdetr_are_the_words_of_their_captions(folder):
    """The phrase is what stands in the spans, without spans the whole caption; or the caption, where a column says so."""
    content = coco(caption=None, tokens_positive=[[0, 7], [27, 32]])
    content["images"][0]["caption"] = "red box beside a gray one, below"
    content["images"][1]["caption"] = "the gray one"
    content["annotations"][2]["tokens_positive"] = []
    file = write(folder, content)
    phrases = [["red box below"], ["gray", "the gray one"], ["the gray one"]]
    assert [row["sentences"] for row in table(folder, file)] == phrases
    whole = table(folder, {"path": file, "columns": {"sentences": "caption"}})
    assert [row["sentences"][0] for row in whole] == ["red box beside a gray one, below", *["the gray one"] * 2]
    with pytest.raises(SourceError, match="columns of a COCO file may name sentences, got bbox"):
        open_source({"path": file, "columns": {"bbox": "x"}}, name="mine")
    for spans in ([[0, 33]], [[-3, 4]], [[5, 5]], [[0, "7"]], [0, 7], "red"):
        content["annotations"][0]["tokens_positive"] = spans
        told = faults(folder, write(folder, content))
        assert "span outside the caption" in told and "annotation number 0" in told and "32 characters" in told


# --- Label Studio -------------------------------------------------------------------------------------------------------

NONE = "regions that are not rectangles"


def test_rectangles_of_label_studio_have_the_text_of_their_region(folder):
    addresses = ["/data/local-files/?d=b.jpg", "s3://bucket/some/b.jpg", "https://x.org/a%2Ejpg?token=3", "b.jpg"]
    tasks = [task(), *map(task, addresses)]
    tasks[1]["annotations"].append({"was_cancelled": True, "result": tasks[0]["annotations"][0]["result"]})
    tasks[2]["data"]["split"] = "val"
    file = write(folder, tasks)
    rows = table(folder, file)
    assert [row["image_id"] for row in rows] == ["a.jpg", "b.jpg", "a.jpg", "b.jpg"]
    assert rows[0]["sentences"] == ["red box", "the box"] and rows[0]["category"] == "box"
    assert np.allclose([row["bbox"] for row in rows], BOX, atol=1e-4)
    assert len(table(folder, file, "val")) == 1
    info = prepare(open_source(file, name="mine", image_path=str(folder / "photos")), folder / "out", progress=False)
    assert report_of(info, "val").left_out == {"rectangles without a text": 1, NONE: 1}


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=sub%5Ca%2Bb.jpg",
        "/data/local-files/?d=sub\\a+b.jpg",
        "http://localhost:8080/data/local-files/?d=photos/sub/a%2Bb.jpg",
        "/data/local-files?d=sub/a+b.jpg",
        "C:\\photos\\sub\\a+b.jpg",
    ],
)
def test_addresses_of_label_studio_may_be_of_windows_or_quoted(folder, address):
    write_image(folder / "photos" / "a+b.jpg", 120, 90, BOX)
    write_image(folder / "photos" / "sub" / "a+b.jpg", 120, 90, BOX)
    [row] = table(folder, write(folder, [task(address)]))
    assert row["image_id"].split("/")[-1] == "a+b.jpg" and np.allclose(row["bbox"], BOX, atol=1e-4)


def test_labels_of_label_studio_are_of_their_rectangle(folder):
    """As its template for OCR writes them: the rectangle, its label and its text are three results of one id."""
    each = {"rectangle": PERCENT, "labels": PERCENT | {"labels": ["mug"]}, "textarea": PERCENT | {"text": ["red box"]}}
    results = [{"id": "r1", "type": kind, "value": value} | SIZE for kind, value in each.items()]
    file = write(folder, [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": results}]}])
    [row] = table(folder, file)
    assert (row["sentences"], row["category"]) == (["red box"], "mug")
    info = prepare(open_source(file, name="mine", image_path=str(folder / "photos")), folder / "out", progress=False)
    assert report_of(info, "train").left_out == {}


def test_what_is_said_of_a_whole_picture_is_no_region(folder):
    said = {"choices": {"choices": ["outdoors"]}, "rating": {"rating": 4}, "number": {"number": 2}}
    tasks = [task()]
    tasks[0]["annotations"][0]["result"] += [{"id": kind, "type": kind, "value": value} for kind, value in said.items()]
    tasks[0]["annotations"][0]["result"].append({"type": "relation", "from_id": "a", "to_id": "b"})
    counts = [
        prepare(
            open_source(write(folder, one), name="mine", image_path=str(folder / "photos")),
            folder / out,
            progress=False,
        )["splits"]["train"]["left_out"]
        for one, out in (([task()], "without"), (tasks, "with"))
    ]
    assert counts[0] == counts[1]


def test_json_min_pairs_rectangles_and_texts_by_order(folder):
    record = {"id": 1, "img": "/data/upload/b.jpg", "annotation_id": 3, "annotator": 1, "lead_time": 2.5}
    boxes = [PERCENT | SIZE | {"rectanglelabels": ["box"]}, PERCENT | SIZE | {"x": 50}]
    records = [record | {"label": boxes, "caption": ["red box", {"text": ["one", "two"]}]}]
    records += [record | {"label": boxes[:1], "caption": "alone"}, record | {"label": boxes}]
    rows = table(folder, write(folder, records))
    assert [row["sentences"] for row in rows] == [["red box"], ["one", "two"], ["alone"]]
    assert np.allclose(rows[1]["bbox"], [60, 20, 30, 40], atol=1e-4)
    named = [{("saying" if key == "caption" else key): value for key, value in records[0].items()}]
    spec = {"path": write(folder, named), "columns": {"sentences": "saying"}}
    assert len(table(folder, spec)) == 2
    with pytest.raises(SourceError, match="columns may name image, sentences and bbox, got text"):
        open_source(spec | {"columns": {"text": "saying"}}, name="mine")
    records[0]["caption"] = ["one", "two", "three"]
    assert "2 rectangles and 3 texts in caption" in fault(folder, write(folder, records))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": PERCENT | {"rotation": 30}}, "turned rectangle: .*task number 0: it is turned by 30 degrees"),
        ({"image_rotation": 90}, "turned rectangle"),
        ({"value": {"x": 1}}, "incomplete record"),
        ({"value": PERCENT | {"width": "5"}}, "broken record"),
        ({"value": PERCENT | {"width": 95}}, "box outside image"),
        ({"original_width": 121}, "wrong image size"),
        ({"value": None}, "broken record"),
    ],
)
def test_a_bad_region_is_named(folder, change, words):
    tasks = [task(**change), task()]
    assert re.search(words, fault(folder, write(folder, tasks)))


def test_tasks_without_an_image_are_bad_records(folder):
    nowhere = task()
    nowhere["data"] = {"audio": "x.wav"}
    assert "expected the image's address in image, img" in fault(folder, write(folder, [nowhere, task()]))
    odd = task()
    odd["annotations"] = 5
    assert "annotations is 5" in fault(folder, write(folder, [task(), odd]))
    assert "missing image" in fault(folder, write(folder, [task("/data/upload/3/0a1b2c3d-c.jpg"), task()]))


# --- conversations ------------------------------------------------------------------------------------------------------


def test_questions_and_boxes_of_conversations_become_rows(folder):
    fractions = "[0.0833, 0.2222, 0.3333, 0.6667]"
    talks = [
        talk(
            ASK.format("red box"),
            fractions,
            "What is it?",
            "A box.",
            "Find <ref>the box</ref>.",
            f"It is at {fractions}",
        )
    ]
    spec = {"path": write(folder, talks), "coordinates": "0-1"}
    rows = table(folder, spec)
    assert [row["sentences"] for row in rows] == [["red box"], ["the box"]]
    assert np.allclose([row["bbox"] for row in rows], BOX, atol=0.02)
    report = report_of(
        prepare(open_source(spec, name="mine", image_path=str(folder / "photos")), folder / "o", progress=False),
        "train",
    )
    assert report.left_out == {"turns that ask for no box": 1}
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "file://b.jpg"},
                {"type": "text", "text": "Locate the box, please."},
            ],
        },
        {
            "role": "assistant",
            "content": '```json\n[{"bbox_2d": [83, 222, 333, 667]}, {"bbox_2d": [417, 56, 917, 556]}]\n```',
        },
        {"role": "user", "content": "Locate the dog, please."},
        {"role": "assistant", "content": "[]"},
    ]
    spec = {
        "path": write(folder, [{"messages": messages}], "y.jsonl"),
        "coordinates": "0-1000",
        "prompt": "Locate {}, please.",
    }
    several, none = table(folder, spec)
    assert several["sentences"] == ["the box"] and none["sentences"] == ["the dog"]
    assert np.allclose(several["boxes"], [BOX, OTHER], atol=0.1) and none["boxes"] == []


def test_pictures_of_messages_are_named_as_openai_and_transformers_do(folder):
    data = (folder / "photos" / "a.jpg").read_bytes()
    address = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    answer = {"role": "assistant", "content": "[83, 222, 333, 667]"}
    for part in (
        {"type": "image_url", "image_url": {"url": "a.jpg", "detail": "high"}},
        {"type": "image_url", "image_url": "file://a.jpg"},
        {"type": "image", "url": "a.jpg"},
        {"type": "image", "path": "a.jpg"},
        {"type": "image_url", "image_url": {"url": address}},
    ):
        apart = [{"role": "user", "content": "Find <ref>it</ref>."}, {"role": "user", "content": [part]}, answer]
        together = [{"role": "user", "content": [part, {"type": "text", "text": "Find <ref>it</ref>."}]}, answer]
        file = write(folder, [{"messages": apart}, {"messages": together}], "x.jsonl")
        rows = table(folder, {"path": file, "coordinates": "0-1000"})
        held = [row["image"]["bytes"] or (folder / "photos" / row["image"]["path"]).read_bytes() for row in rows]
        assert held == [data, data] and rows[0]["image_id"] == rows[1]["image_id"], part
        assert [row["sentences"] for row in rows] == [["it"], ["it"]]
    nothing = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}, answer]
    nothing[0]["content"].append({"type": "text", "text": "Find <ref>it</ref>."})
    file = write(folder, [{"messages": nothing}])
    assert "expected data:image" in faults(folder, {"path": file, "coordinates": "pixel"})
    record = talk(ASK.format("it"), "[10, 20, 40, 60]", image=None, images=[{"path": "a.jpg"}])
    [row] = table(folder, {"path": write(folder, [record]), "coordinates": "pixel"})
    assert row["image"]["path"] == "a.jpg"


def test_answers_that_mark_phrases_are_rows_of_their_own(folder):
    answer = "<ref>A red box</ref><box>(83,222),(333,667)</box> and <ref>a gray one</ref><box>(417,56),(917,556)</box>"
    answer += " in <ref>fog</ref>"
    rows = table(folder, {"path": write(folder, [talk("Describe it.", answer)]), "coordinates": "0-1000"})
    assert [row["sentences"] for row in rows] == [["A red box"], ["a gray one"]]
    assert np.allclose([row["bbox"] for row in rows], [BOX, OTHER], atol=0.1)


def test_of_a_question_with_several_phrases_the_answer_says_whose_its_boxes_are(folder):
    question = "Where are <ref>the red box</ref> and <ref>the gray one</ref>?"
    answer = "<ref>the red box</ref><box>(83,222),(333,667)</box> <ref>the gray one</ref><box>(417,56),(917,556)</box>"
    rows = table(folder, {"path": write(folder, [talk(question, answer)]), "coordinates": "0-1000"})
    assert [row["sentences"] for row in rows] == [["the red box"], ["the gray one"]]
    assert np.allclose([row["bbox"] for row in rows], [BOX, OTHER], atol=0.1)
    unmarked = write(folder, [talk(question, "[83, 222, 333, 667], [417, 56, 917, 556]")])
    assert "several phrases" in faults(folder, {"path": unmarked, "coordinates": "0-1000"})


def test_what_is_left_out_behind_the_last_row_is_counted_too(folder):
    spec = {"path": write(folder, [talk(ASK.format("it"), "[10, 20, 40, 60]", "Red?", "Yes."), talk("A?", "B.")])}
    bare = task()
    del bare["annotations"][0]["result"][1]
    for path, expected in (
        (spec | {"coordinates": "pixel"}, {"turns that ask for no box": 2}),
        ({"path": write(folder, [task(), bare], "ls.json")}, {"rectangles without a text": 3, NONE: 2}),
    ):
        source = open_source(path, name="mine", image_path=str(folder / "photos"))
        info = prepare(source, folder / "out", progress=False, overwrite=True)
        assert report_of(info, "train").left_out == expected
    source = open_source(write(folder, [bare]), name="mine", image_path=str(folder / "photos"))
    with pytest.raises(
        SourceError, match="nothing is left to write in split train: left out 2 rectangles without a text"
    ):
        prepare(source, folder / "none", progress=False)


def test_conversations_declare_what_their_numbers_mean(folder):
    file = write(folder, [talk(ASK.format("red box"), "[10, 20, 40, 60]")])
    with pytest.raises(
        SourceError, match=r"say what the numbers of its boxes mean, coordinates = pixel, 0-1, .*--coordinates"
    ):
        open_source(file, name="mine")
    with pytest.raises(SourceError, match="coordinates '0-10' are not known; expected one of"):
        open_source({"path": file, "coordinates": "0-10"}, name="mine")
    with pytest.raises(SourceError, match="in place of the phrase"):
        open_source({"path": file, "coordinates": "pixel", "prompt": "Where is it?"}, name="mine")
    for coordinates, box in (("pixel", BOX), ("240x180", [5, 10, 15, 20]), ("letterboxed:120", [10, 5, 30, 40])):
        row = table(folder, {"path": file, "coordinates": coordinates})[0]
        assert np.allclose(row["bbox"], box, atol=1e-4), coordinates
    assert table(folder, {"path": file, "coordinates": "pixel", "bbox_format": "xywh"})[0]["bbox"] == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (talk(ASK.format("red box"), "It is over there."), "no box: .*record number 0, turn 0: .*holds no box"),
        (talk("Where is the red box?", "[1, 2, 3, 4]"), "no phrase: .*Name it with --prompt"),
        (talk(ASK.format("red box"), "[1, 2, 300, 4]"), "box outside image"),
        (
            talk(ASK.format("red box"), "[1, 2, 30, 40]", image=["a.jpg", "b.jpg"]),
            "no image: .*expected the name of one file",
        ),
        (talk(ASK.format("red box"), "[1, 2, 30, 40]", image=None, messages=None), "no image: .*its image is None"),
        (talk(ASK.format("red box"), ["x"]), "broken record"),
        (talk(split="a/b"), "bad split"),
        ("nonsense", "broken line: mine, split train, record 1: t.jsonl, record number 0: 'nonsense' is"),
    ],
)
def test_a_bad_conversation_is_named(folder, record, words):
    good = talk(ASK.format("red box"), "[10, 20, 40, 60]")
    file = write(folder, [good, record], "t.jsonl")
    assert re.search(
        words.replace("record number 0", "record number 1"), fault(folder, {"path": file, "coordinates": "pixel"})
    )


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_boxes_of_ones_own_may_be_declared_fractions(folder, name):
    if name == "x.csv":
        (folder / name).write_text("image,phrase,bbox\na.jpg,red box,0.25 0.5 0.5 0.5\n")
    else:
        write(folder, [{"image": "a.jpg", "phrase": "red box", "boxes": [[0.25, 0.5, 0.5, 0.5]]}], name)
    spec = {"path": str(folder / name), "bbox_format": "xywh"}
    assert table(folder, spec | {"coordinates": "0-1"})[0]["bbox"] == [30, 45, 60, 45]
    with pytest.raises(BadRecord, match=r"box in fractions: .*say --coordinates 0-1"):
        table(folder, spec)


# --- tables -------------------------------------------------------------------------------------------------------------


def saved(folder, rows, features):
    from datasets import Dataset, Features

    Dataset.from_list(rows, Features(features)).to_parquet(folder / "x.parquet")
    return str(folder / "x.parquet")


def test_tables_that_list_objects_give_a_row_for_each(folder):
    from datasets import List, Value

    numbers, text, whole = List(Value("float32")), Value("string"), Value("int64")
    sample = {
        "id": whole,
        "sentences": List(text),
        "bbox": numbers,
        "mask": {"counts": text, "size": List(Value("int32"))},
    }
    rle = masks.from_coco(rectangle(BOX), 90, 120)
    both = [{"id": n, "sentences": ["it", "box"], "bbox": box, "mask": rle} for n, box in enumerate((BOX, OTHER))]
    rows = [{"image": "a.jpg", "image_id": 5, "samples": both}, {"image": "b.jpg", "image_id": 6, "samples": []}]
    file = saved(folder, rows, {"image": text, "image_id": whole, "samples": List(sample)})
    found = table(folder, file, with_masks=True)
    assert [(row["ref_id"], row["image_id"], row["bbox"]) for row in found] == [("0", "5", BOX), ("1", "5", OTHER)]
    assert found[0]["mask"] == rle

    said = List({"raw": text, "sent": text})
    entry = {
        "ann_info": {"bbox": numbers, "id": whole},
        "ref_info": {"ref_id": whole, "ann_id": whole, "sentences": said},
    }
    listed = [
        {
            "ann_info": {"bbox": BOX, "id": 3},
            "ref_info": {"ref_id": 9, "ann_id": 3, "sentences": [{"raw": "It", "sent": "it"}]},
        }
    ]
    listed.append(listed[0] | {"ann_info": {"bbox": [1.0], "id": 4}})
    file = saved(folder, [{"image": "a.jpg", "ref_list": listed}], {"image": text, "ref_list": List(entry)})
    assert "row 0 of split train, ref_list[1]" not in (told := fault(folder, file)) and "bad box" in told
    row = table(folder, {"path": file, "on_bad_record": "skip"})[0]
    assert (row["ref_id"], row["ann_id"], row["sentences"]) == ("9", "3", ["it"])


def test_a_table_in_one_file_may_tell_the_splits_of_its_rows(folder):
    from datasets import ClassLabel, List, Value

    plain = {"image": Value("string"), "bbox": List(Value("float32")), "phrase": Value("string")}
    for kind, said in (
        (Value("string"), ("train", "validation", None, "Train")),
        (Value("large_string"), ("train", "dev", None, "Train")),
        (ClassLabel(names=["train", "val"]), (0, 1, 0, -1)),
    ):
        rows = [{"image": "a.jpg", "bbox": BOX, "phrase": f"{n}", "split": split} for n, split in enumerate(said)]
        file = saved(folder, rows, plain | {"split": kind})
        assert [row["sentences"] for row in table(folder, file)] == [["0"], ["2"], ["3"]]
        assert [row["sentences"] for row in table(folder, file, "val")] == [["1"]]
    file = saved(folder, [row | {"split": "a/b"} for row in rows], plain | {"split": Value("string")})
    assert len(table(folder, file)) == 4


def test_a_picture_may_be_its_bytes_alone_or_the_only_one_of_a_list(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = (folder / "photos" / "a.jpg").read_bytes()
    struct = pa.array([[{"bytes": data}]])
    for column in (struct, struct.flatten(), pa.array([data]), pa.array([["a.jpg"]])):
        pq.write_table(pa.table({"image": column, "phrase": ["red box"], "bbox": [BOX]}), folder / "x.parquet")
        [row] = table(folder, str(folder / "x.parquet"))
        assert (row["width"], row["bbox"]) == (120, BOX)
    pq.write_table(
        pa.table({"image": [["a.jpg", "b.jpg"]], "phrase": ["red box"], "bbox": [BOX]}), folder / "x.parquet"
    )
    assert "no image: " in faults(folder, str(folder / "x.parquet"))


def test_classes_are_told_by_their_names(folder):
    from datasets import ClassLabel, List, Value

    text, kind, numbers = Value("string"), ClassLabel(names=["cup", "dog"]), List(Value("float32"))
    rows = [{"image": "a.jpg", "bbox": BOX, "phrase": "it", "category": number} for number in (1, 0, -1, None)]
    file = saved(folder, rows, {"image": text, "bbox": numbers, "phrase": text, "category": kind})
    assert [row["category"] for row in table(folder, file)] == ["dog", "cup", None, None]
    objects = {"bbox": [BOX, OTHER], "category": [1, 0]}  # as detection data sets have them
    listed = {"bbox": List(numbers), "category": List(kind)}
    file = saved(folder, [{"image": "a.jpg", "objects": objects}], {"image": text, "objects": listed})
    found = table(folder, {"path": file, "columns": {"sentences": "objects.category"}})
    assert [(row["category"], row["sentences"]) for row in found] == [("dog", ["dog"]), ("cup", ["cup"])]


@pytest.mark.parametrize("divided", [True, False])
def test_a_folder_of_images_with_metadata_is_a_table_of_its_folders(folder, divided):
    """What the ``datasets`` library calls an ``imagefolder``, whatever the folders are called."""
    place = folder / "pictures [1]"
    for part in ("train", "validation") if divided else ("",):
        for name in "ab":
            write_image(place / part / f"{name}.jpg", 120, 90, BOX)
        told = [{"file_name": f"{name}.jpg", "text": "red box", "bbox": BOX} for name in "ab"]
        write(place / part, told, "metadata.jsonl")
    for image_path in (None, str(place)):
        rows = table(folder, str(place), "val" if divided else "train", image_path=image_path)
        assert [row["sentences"] for row in rows] == [["red box"]] * 2 and rows[0]["bbox"] == BOX
        assert rows[0]["image"]["path"] == ("validation/a.jpg" if divided else "a.jpg")


def test_metadata_beside_the_folders_of_splits_are_divided_by_them(folder):
    for name in ("train/a.jpg", "valid/a.jpg"):
        write_image(folder / "set" / name, 120, 90, BOX)
    told = [{"file_name": name, "text": name, "bbox": BOX} for name in ("train/a.jpg", "valid/a.jpg")]
    write(folder / "set", told, "metadata.jsonl")
    assert [table(folder, str(folder / "set"), s, image_path=None)[0]["sentences"] for s in ("train", "val")] == [
        ["train/a.jpg"], ["valid/a.jpg"],
    ]  # fmt: skip


def test_metadata_of_images_may_list_objects_or_be_a_csv_file(folder):
    objects = [{"file_name": "a.jpg", "objects": {"bbox": [BOX, OTHER], "caption": ["red box", "nothing"]}}]
    write(folder / "photos", objects, "metadata.jsonl")
    assert [row["bbox"] for row in table(folder, str(folder / "photos"), image_path=None)] == [BOX, OTHER]
    told = 'file_name,text,bbox\na.jpg,red box,"[10, 20, 30, 40]"\n'
    (folder / "photos" / "metadata.csv").write_text(told, encoding="utf-8")
    with pytest.raises(SourceError, match="is not the only metadata of its folder"):
        open_source(str(folder / "photos"), name="mine")
    (folder / "photos" / "metadata.jsonl").unlink()
    assert [row["bbox"] for row in table(folder, str(folder / "photos"), image_path=None)] == [BOX]
    (folder / "photos" / "metadata.csv").write_bytes(b"file_name,text\na.jpg,\xff\n")
    with pytest.raises(SourceError, match="cannot be read as metadata of images"):
        open_source(str(folder / "photos"), name="mine")


def test_a_column_inside_a_struct_is_named_with_dots(folder):
    from datasets import List, Value

    objects = List({"place": List(Value("float32")), "words": Value("string"), "bbox": Value("string")})
    entries = [{"place": [0.25, 0.5, 0.5, 0.5], "words": "it", "bbox": "no box"}]
    file = saved(folder, [{"image": "a.jpg", "objects": entries}], {"image": Value("string"), "objects": objects})
    columns = {"bbox": "objects.place", "sentences": "objects.words"}
    row = table(folder, {"path": file, "columns": columns, "coordinates": "0-1", "bbox_format": "xywh"})[0]
    assert row["bbox"] == [30, 45, 60, 45] and row["sentences"] == ["it"]
    with pytest.raises(SourceError, match=r"bbox = objects\.no: .*objects\.place"):
        open_source({"path": file, "columns": {"bbox": "objects.no"}}, name="mine")


def test_parallel_lists_of_objects_give_a_row_for_each(folder):
    """In a struct, as the library keeps a Sequence of objects, and as columns of the table."""
    from datasets import List, Sequence, Value

    text, whole = Value("string"), Value("int64")
    boxes, texts = List(List(Value("float32"))), List(text)
    entry = {"bbox": List(Value("float32")), "caption": text, "id": whole}
    objects = {"bbox": [BOX, OTHER], "caption": ["red box", "gray one"], "id": [3, 4]}
    nothing = {"bbox": [], "caption": [], "id": None}
    rows = [{"image": "a.jpg", "id": 5, "objects": objects}, {"image": "b.jpg", "id": 6, "objects": nothing}]
    file = saved(folder, rows, {"image": text, "id": whole, "objects": Sequence(entry)})
    told = [(row["bbox"], row["sentences"], row["ref_id"]) for row in table(folder, file)]
    assert told == [(BOX, ["red box"], "3"), (OTHER, ["gray one"], "4")]

    # Columns: the picture's own id is not an object's. `phrases` go with the boxes one by one, `sentences` name all of them.
    row = {"image": "a.jpg", "id": 5, "boxes": [BOX, OTHER], "phrases": ["red box", "gray one"]}
    features = {"image": text, "id": whole, "boxes": boxes, "phrases": texts}
    file = saved(folder, [row], features)
    told = [(row["bbox"], row["sentences"], row["ref_id"]) for row in table(folder, file)]
    assert told == [(BOX, ["red box"], "train-0-0"), (OTHER, ["gray one"], "train-0-1")]
    assert table(folder, {"path": file, "columns": {"boxes": "boxes"}})[0]["boxes"] == [BOX, OTHER]
    for name in ("sentences", "captions"):
        file = saved(folder, [{"image": "a.jpg", "boxes": [BOX, OTHER], name: ["both", "all"]}],
                     {"image": text, "boxes": boxes, name: texts})  # fmt: skip
        if name == "sentences":
            assert [row["boxes"] for row in table(folder, file)] == [[BOX, OTHER]]
            continue
        with pytest.raises(SourceError, match=r"each box a text of its own \(--columns bbox=boxes.*or .*boxes=boxes"):
            open_source(file, name="mine")
        assert len(table(folder, {"path": file, "columns": {"bbox": "boxes"}})) == 2
        assert len(table(folder, {"path": file, "columns": {"boxes": "boxes"}})) == 1
    bad = saved(folder, [row, row | {"phrases": ["one"]}], features)
    assert "lists of different lengths: " in (told := faults(folder, bad)) and "boxes 2, phrases 1" in told


def test_own_records_list_the_objects_of_an_image(folder):
    lists = {"boxes": [BOX, OTHER], "phrases": ["red box", ["gray one", "it"]], "categories": ["box", None]}
    several = [{"bbox": BOX, "phrase": "red box"}, {"boxes": [BOX, OTHER], "phrase": "both"}]
    lines = [
        {"image": "a.jpg", "ref_id": 7, "objects": "not looked at"} | lists,
        {"image": "b.jpg", "objects": {"bbox": [BOX], "phrase": ["red box"]}, "split": "val"},
        {"image": "b.jpg", "objects": several},
        {"image": "b.jpg", "bbox": BOX, "phrase": "it", "objects": 3},
    ]
    spec = {"path": write(folder, lines, "x.jsonl"), "bbox_format": "xywh"}
    rows = table(folder, spec)
    assert [row["ref_id"] for row in rows] == ["7-0", "7-1", "x-3-0", "x-3-1", "x-4"]
    assert [row["boxes"] for row in rows] == [[BOX], [OTHER], [BOX], [BOX, OTHER], [BOX]]
    assert rows[1]["sentences"] == ["gray one", "it"] and rows[0]["category"] == "box"
    assert [row["sentences"] for row in table(folder, spec, "val")] == [["red box"]]
    for change, words in (
        ({"phrases": ["one"]}, "lists of different lengths: .*line 1: boxes 2, phrases 1, categories 2"),
        ({"phrases": "one"}, "no list of objects: .*phrases is 'one'"),
        ({"phrase": "one"}, "two different phrases"),
        ({"boxes": None}, "incomplete record: .*no boxes"),
        ({"phrases": None, "objects": [3]}, "no list of objects"),
    ):
        file = write(folder, [lines[0] | change, lines[2]], "x.jsonl")
        assert re.search(words, faults(folder, {"path": file, "bbox_format": "xywh"})), change


def test_of_a_table_with_one_box_and_all_of_them_none_is_lost(folder):
    from datasets import List, Value

    text, four = Value("string"), List(Value("float32"))
    features = {"image": text, "phrase": text, "bbox": four, "boxes": List(four)}
    both, other = {"image": "a.jpg", "phrase": "both", "bbox": BOX, "boxes": [BOX, OTHER]}, {"boxes": [OTHER, BOX]}
    none = {"image": "a.jpg", "phrase": "none", "bbox": None, "boxes": []}
    file = saved(folder, [both, none], features)
    assert [row["boxes"] for row in table(folder, file)] == [[BOX, OTHER], []]
    file = saved(folder, [both | other, none], features)
    assert "two different boxes" in (told := fault(folder, file)) and "--columns bbox=" in told
    file = saved(folder, [both | other], features)
    for name, want in (("bbox", [BOX]), ("boxes", [OTHER, BOX])):
        assert table(folder, {"path": file, "columns": {name: name}})[0]["boxes"] == want
    counted = saved(folder, [both | {"boxes": 3}], features | {"boxes": Value("int64")})
    assert table(folder, counted)[0]["boxes"] == [BOX], "another kind of column of that name is none"


def test_a_column_of_boxes_and_of_mask_pictures_is_of_several_objects(folder):
    from datasets import Image, List, Value
    from PIL import Image as Picture

    parts = np.zeros((2, 90, 120), np.uint8)
    parts[0, 20:60, 10:40], parts[1, 5:50, 50:110] = 255, 255
    files = [str(folder / f"{n}.png") for n in range(2)]
    for part, file in zip(parts, files, strict=True):
        Picture.fromarray(part).save(file)
    rows = [
        {"image": "a.jpg", "phrase": "both", "boxes": [BOX, OTHER], "masks": files},
        {"image": "a.jpg", "phrase": "none", "boxes": [], "masks": []},
        {"image": "b.jpg", "phrase": "one", "boxes": [BOX], "masks": files[:1]},
    ]
    numbers = List(List(Value("float32")))
    text = Value("string")
    file = saved(folder, rows, {"image": text, "phrase": text, "boxes": numbers, "masks": List(Image())})
    both, none, one = table(folder, file, with_masks=True)
    assert both["boxes"] == [BOX, OTHER] and none["boxes"] == [] and one["bbox"] == BOX
    assert (masks.decode(both["mask"]) == parts.any(0)).all() and not masks.decode(none["mask"]).any()


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_polygons_and_runs_may_be_written_as_texts(folder, name):
    import pandas as pd

    outline = rectangle(BOX)
    written = [json.dumps(mask) for mask in (outline, masks.from_coco(outline, 90, 120), [])] + ["[[1"]
    rows = {"image": "a.jpg", "phrase": "box", "bbox": [" ".join(map(str, BOX))] * 4, "mask": written}
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / name) if name.endswith("csv") else frame.to_parquet(folder / name)
    spec = {"path": str(folder / name), "bbox_format": "xywh", "on_bad_record": "skip"}
    found = [row["mask"] and int(masks.decode(row["mask"]).sum()) for row in table(folder, spec, with_masks=True)]
    assert found == [1200, 1200, None]


def test_of_a_hub_data_set_a_configuration_and_single_splits_are_taken(folder, monkeypatch):
    from datasets import Dataset, config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", folder / "cache")
    for number, name in enumerate(("first", "second")):
        for split in ("train", "validation"):
            place = folder / "someone" / "data" / name / f"{split}-00000-of-00001.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            row = {"image": "a.jpg", "phrase": f"{name} {split}", "bbox": [10.0 + number, 20.0, 30.0, 40.0]}
            Dataset.from_list([row]).to_parquet(place)
    card = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: data/{name}/{split}-*\n" for split in ("train", "validation"))
        for name in ("first", "second")
    )
    (folder / "someone" / "data" / "README.md").write_text("")
    (folder / "someone" / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    from rec.data import tables
    from rec.data.spec import SourceSpec

    def load(**options):
        return tables._load_from_hub(SourceSpec(str(folder / "someone"), **options))

    assert {split: rows["phrase"][0] for split, rows in load(configuration="second").items()} == {
        "train": "second train",
        "validation": "second validation",
    }
    (folder / "someone" / "data" / "first" / "train-00000-of-00001.parquet").write_bytes(b"never looked at")
    assert {split: rows["phrase"][0] for split, rows in load(configuration="first", splits=["val"]).items()} == {
        "validation": "first validation"
    }
    with pytest.raises(SourceError, match="has no split 'test'; it has train, validation"):
        load(configuration="first", splits=["test"])
    with pytest.raises(SourceError, match="as a Hub data set"):
        load(configuration="third")
