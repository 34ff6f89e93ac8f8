"""Preparation: complete or resumable, counted, and never half-written."""

import json
import os
import resource
import shlex
from pathlib import Path

import numpy as np
import pytest
from data_toys import SAMPLE, make_jsonl, make_refer, write_image

from rec.config import LazyConfig, apply_overrides
from rec.data import prepare as preparation
from rec.data.dataset import RefCOCODataSet
from rec.data.leakage import ImageIndex, image_key, shared_images
from rec.data.prepare import prepare, read_info, report_of
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def run(call_script):
    """Prepares by the script; gives exit status, stdout, and stderr as one line."""

    def prepare_data(*words):
        status, out, err = call_script("prepare_data", *words)
        return status, out, " ".join(err.split())

    return prepare_data


def boxes_jsonl(root, count=25, **last):
    rows = [{"image": f"{n % 7}.jpg", "phrase": f"box {n}", "bbox": [10, 20, 30, 20 + n]} for n in range(count)]
    rows[-1] |= last
    return {"path": str(make_jsonl(root, rows)), "bbox_format": "xywh"}


def test_a_prepared_folder_is_what_the_library_saves(tmp_path):
    from datasets import load_from_disk

    from rec.data.schema import FEATURES

    make_refer(tmp_path)
    prepare(open_source(tmp_path / "refcoco", name="refcoco"), tmp_path / "out", progress=False)
    loaded = load_from_disk(str(tmp_path / "out"))
    assert list(loaded) == ["train", "val", "testA"]
    assert loaded["train"].features == FEATURES
    assert loaded["train"][1]["sentences"] == ["right box"]


def test_an_interrupted_preparation_continues_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 4)
    spec = boxes_jsonl(tmp_path)
    whole = prepare(open_source(spec, name="mine"), tmp_path / "whole", progress=False)
    looked_at = []
    complete = preparation.complete_rows

    def stopping(rows, *rest):
        for row in complete(rows, *rest):
            if len(looked_at) == 11:
                raise KeyboardInterrupt
            looked_at.append(row["ref_id"])
            yield row

    monkeypatch.setattr(preparation, "complete_rows", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "prepared.json").exists()
    again = []
    monkeypatch.setattr(
        preparation,
        "complete_rows",
        lambda rows, *rest: (again.append(r["ref_id"]) or r for r in complete(rows, *rest)),
    )
    info = prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    assert again == [f"train-{n}" for n in range(9, 26)]
    assert info == whole
    assert not (tmp_path / "out" / ".partial").exists()
    assert [r["ref_id"] for r in open_table(tmp_path / "out", "train", name="mine").rows] == [
        f"train-{n}" for n in range(1, 26)
    ]


@pytest.mark.parametrize("store", ["letterboxed", "raw"])
def test_an_interrupted_store_continues_where_it_stopped(tmp_path, monkeypatch, store):
    from rec.data import store as storing

    source = open_source(boxes_jsonl(tmp_path), name="mine")
    prepare(source, tmp_path / "whole", store=store, size=48, progress=False)
    monkeypatch.setattr(storing, "_GROUP", 2)
    decoded, read = [], storing.read_image

    def stopping(image, root):
        if len(decoded) >= 4 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        decoded.append(image)
        return read(image, root)

    monkeypatch.setattr(storing, "read_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", store=store, size=48, progress=False)
    (tmp_path / "again").touch()
    prepare(source, tmp_path / "out", store=store, size=48, progress=False)
    assert len(decoded) <= 7 + 2
    for file in [*(tmp_path / "whole").rglob("*.jpg"), *(tmp_path / "whole").rglob("*.u8")]:
        assert (tmp_path / "out" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def test_parquet_of_other_labels_that_an_interruption_left_is_not_read(tmp_path):
    (tmp_path / "out" / ".partial").mkdir(parents=True)
    for name in ("train-00001-of-00002.parquet", "train-dev-00000-of-00001.parquet"):
        (tmp_path / "out" / name).write_bytes(b"of other labels")
    prepare(open_source(boxes_jsonl(tmp_path), name="mine"), tmp_path / "out", parquet=True, progress=False)
    assert not (tmp_path / "out" / "train-00001-of-00002.parquet").exists()
    assert len(open_table(tmp_path / "out", "train", name="mine").rows) == 25


def test_ids_met_before_an_interruption_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 4)
    spec = boxes_jsonl(tmp_path, ref_id="train-2")
    source = open_source(spec, name="mine")
    with pytest.raises(ValueError, match="same ref_id"):
        prepare(source, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="same ref_id"):
        prepare(source, tmp_path / "out", progress=False)


def test_changed_annotations_are_prepared_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 4)
    spec = boxes_jsonl(tmp_path, bbox=[0, 0, 0, 0])
    with pytest.raises(ValueError, match="empty box"):
        prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    spec = boxes_jsonl(tmp_path, count=26)
    info = prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    assert info["splits"]["train"]["rows"] == 26


def test_a_finished_folder_is_kept_and_a_foreign_one_refused(tmp_path):
    source = open_source(boxes_jsonl(tmp_path), name="mine")
    info = prepare(source, tmp_path / "out", progress=False)
    assert prepare(source, tmp_path / "out", progress=False) == info
    with pytest.raises(SourceError, match="prepared from other input"):
        prepare(source, tmp_path / "out", with_masks=False, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(SourceError, match="not empty"):
        prepare(source, tmp_path / "full", progress=False)
    with pytest.raises(SourceError, match="no split 'val'; it has train"):
        prepare(source, tmp_path / "other", splits=["val"], progress=False)


def test_images_may_move_after_preparation(tmp_path):
    make_refer(tmp_path)
    prepare(open_source(tmp_path / "refcoco", name="refcoco"), tmp_path / "out", progress=False)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=r"point dataset\.image_path to their folder"):
        RefCOCODataSet("refcoco", {"refcoco": str(tmp_path / "out")})
    moved = str(tmp_path / "elsewhere" / "train2014")
    dataset = RefCOCODataSet("refcoco", {"refcoco": str(tmp_path / "out")}, {"refcoco": moved}, input_shape=[64, 64])
    assert dataset[0]["image"].shape == (3, 64, 64)


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("store", ["embedded", "letterboxed", "raw"])
def test_every_store_gives_the_samples_of_the_plain_one(tmp_path, store, parquet):
    make_refer(tmp_path)
    source = open_source(tmp_path / "refcoco", name="refcoco")
    prepare(source, tmp_path / "plain", progress=False)
    prepare(source, tmp_path / "out", store=store, size=96, parquet=parquet, progress=False)
    if store != "embedded":
        (tmp_path / "images").rename(tmp_path / "gone")
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "moved").rename(tmp_path / "out")
    image_path = {"refcoco": str(tmp_path / "gone" / "train2014")}
    for size in (96, 64):
        for split in ("train", "val"):
            options = {"split": split, "input_shape": [size, size], "with_masks": True, "image_path": image_path}
            plain = RefCOCODataSet("refcoco", {"refcoco": str(tmp_path / "plain")}, **options)
            stored = RefCOCODataSet("refcoco", {"refcoco": str(tmp_path / "out")}, **options)
            assert stored.fingerprint == plain.fingerprint
            for i in range(len(plain)):
                one, other = plain[i], stored[i]
                for key in ("box", "box_pixels", "geometry", "tokens", "mask"):
                    assert (one[key] == other[key]).all()
                difference = (one["image"].int() - other["image"].int()).abs().float()
                exact = store == "embedded" or (store == "raw" and size == 96)
                assert difference.mean() <= (0 if exact else 3.5)
    flipping = RefCOCODataSet("refcoco", {"refcoco": str(tmp_path / "out")}, flip_lr=True, input_shape=[96, 96])
    assert flipping[0]["image"].shape == (3, 96, 96)


def test_names_that_start_elsewhere_than_the_image_folder_are_found_again(tmp_path, monkeypatch):
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/b.jpg", "other/c.jpg"):
        write_image(tmp_path / name, 120, 90)
    names = [str(tmp_path / "other/c.jpg"), "a.jpg", str(tmp_path / "photos/b.jpg")]
    rows = [{"image": name, "phrase": "box", "bbox": [10, 20, 30, 20]} for name in names]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = open_source({"path": "x.jsonl", "bbox_format": "xywh"}, name="mine", image_path="photos")
    Dataset.from_list([row | {"image": "photos/a.jpg"} for row in rows[:1]]).to_parquet("x.parquet")  # no image folder
    for number, source in enumerate((own, open_source("x.parquet", name="mine"))):
        prepare(source, f"out{number}", progress=False)
        dataset = RefCOCODataSet("mine", {"mine": str(tmp_path / f"out{number}")}, input_shape=[64, 64])
        assert [dataset[index]["index"] for index in range(len(dataset))] == [*range(3 if source is own else 1)]
    assert open_table("out0", "train", name="mine").rows[2]["image"]["path"] == "b.jpg"


def test_an_image_is_stored_once_however_many_phrases_it_has(tmp_path):
    source = open_source(boxes_jsonl(tmp_path), name="mine")
    prepare(source, tmp_path / "jpeg", store="letterboxed", size=64, progress=False)
    assert len(list((tmp_path / "jpeg").rglob("*.jpg"))) == 7
    prepare(source, tmp_path / "raw", store="raw", size=64, progress=False)
    assert (tmp_path / "raw" / "images.u8").stat().st_size == 7 * 3 * 64 * 64


def damage_inside(file):
    data = bytearray(file.read_bytes())
    place = data.index(b"\xff\xc4")  # the tables of its code: the header is whole, and so is the end
    data[place + 5 : place + 20] = b"\xff" * 15
    file.write_bytes(data)


@pytest.mark.parametrize("store", ["plain", "embedded"])
def test_what_is_ready_can_be_decoded(tmp_path, store):
    source = open_source(boxes_jsonl(tmp_path), name="mine")
    damage_inside(tmp_path / "3.jpg")
    with pytest.raises(
        BadRecord, match=r"unreadable image: mine, split train, record 3: .*3\.jpg is truncated or broken"
    ):
        prepare(source, tmp_path / "raised", store=store, progress=False)
    prepare(source, tmp_path / "out", store=store, on_bad_record="skip", progress=False)
    dataset = RefCOCODataSet("mine", str(tmp_path / "out"), input_shape=[48, 48])
    assert [dataset[number]["index"].item() for number in range(len(dataset))] == list(range(21))


@pytest.mark.parametrize("split", ["test-dev", "val seen", "[1]", "eins.zwei"])
@pytest.mark.parametrize("parquet", [False, True])
def test_a_split_of_any_name_is_opened_again(tmp_path, split, parquet):
    make_jsonl(tmp_path, [{"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 20], "split": split}])
    source = open_source({"path": tmp_path / "train.jsonl", "bbox_format": "xywh"}, name="mine")
    prepare(source, tmp_path / "out", parquet=parquet, progress=False)
    assert len(RefCOCODataSet("mine", str(tmp_path / "out"), input_shape=[48, 48], split=split)) == 1


def test_a_tilde_is_the_home_folder_in_python_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    boxes_jsonl(tmp_path)
    source = open_source({"path": "~/train.jsonl", "bbox_format": "xywh"}, name="mine", image_path="~")
    prepare(source, "~/out", progress=False)
    dataset = RefCOCODataSet("mine", {"mine": "~/out"}, {"mine": "~"}, input_shape=[48, 48])
    assert len(dataset) == 25 and dataset.reads(tmp_path / "out" / "train")
    dataset.vocabulary.save("~/vocab.json")
    assert RefCOCODataSet("mine", "~/out", vocabulary="~/vocab.json").vocabulary == dataset.vocabulary
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("store", ["letterboxed", "raw"])
def test_an_image_that_cannot_be_decoded_costs_its_records_alone(tmp_path, monkeypatch, store):
    from rec.data import store as storing

    spec = boxes_jsonl(tmp_path)
    damage_inside(tmp_path / "3.jpg")
    source = open_source(spec, name="mine")
    with pytest.raises(BadRecord, match=r"unreadable image: ref_id train-4, .*3\.jpg.*--on-bad-record skip"):
        prepare(source, tmp_path / "raised", store=store, size=48, progress=False)
    monkeypatch.setattr(storing, "_GROUP", 2)
    read, seen = storing.read_image, []

    def stopping(image, root):
        seen.append(image["path"])
        if len(seen) == 6:
            raise KeyboardInterrupt
        return read(image, root)

    monkeypatch.setattr(storing, "read_image", stopping)
    options = {"on_bad_record": "skip", "store": store, "size": 48, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", **options)
    info = prepare(source, tmp_path / "out", **options)["splits"]["train"]
    assert (info["rows"], info["sentences"], info["images"]) == (21, 21, 6)
    assert info["skipped"] == {"unreadable image": 4}
    assert "3.jpg" in report_of({"splits": {"train": info}}, "train").warnings()[0]
    dataset = RefCOCODataSet("mine", str(tmp_path / "out"), input_shape=[48, 48])
    assert [dataset.describe(i)["image_id"] for i in range(5)] == ["0.jpg", "1.jpg", "2.jpg", "4.jpg", "5.jpg"]
    assert dataset[20]["image"].shape == (3, 48, 48)


def test_leaks_are_found_by_id_and_by_content_and_can_be_left_out(tmp_path):
    make_refer(tmp_path, splits=("train", "val"))
    (tmp_path / "vg").mkdir()
    images = tmp_path / "images" / "train2014"
    copy = (images / "COCO_train2014_000000000001.jpg").read_bytes()
    rows = [{"image": f"{n}.jpg", "phrase": "box", "bbox": [10, 20, 30, 20]} for n in range(3)]
    rows[0]["image_id"] = "coco/1"
    spec = {"path": str(make_jsonl(tmp_path / "vg", rows)), "bbox_format": "xywh"}
    (tmp_path / "vg" / "2.jpg").write_bytes(copy)
    evaluation = open_table(tmp_path / "refcoco", "val", name="refcoco")
    leaks = shared_images([("vg", open_table(spec, "train", name="vg"))], [("refcoco val", evaluation)])
    assert [(leak["image_id"], leak["evaluation"]) for leak in leaks] == [
        ("coco/1", "refcoco val, by image id"),
        ("2.jpg", "refcoco val, by content"),
    ]
    index = ImageIndex()
    index.add(evaluation, "refcoco val")
    info = prepare(open_source(spec, name="vg"), tmp_path / "clean", exclude=index, progress=False)
    assert info["splits"]["train"]["rows"] == 1
    assert info["splits"]["train"]["skipped"] == {"image of an evaluation split": 2}


def test_the_coco_family_shares_its_image_ids():
    same = [("refcoco", "716"), ("refcocog", "716"), ("vg", "coco/716"), ("x", "COCO_train2014_000000000716_3.jpg")]
    assert {image_key(*pair) for pair in same} == {"coco/716"}
    assert image_key("flickr", "123.jpg") == image_key("flickr", "0123") != image_key("referit", "123")


def test_names_of_other_images_are_not_taken_for_one():
    names = ["12.05.2024 10.30", "12.05.2024 10.45", "0a.jpg", "a.jpg", "day.1", "day.2", "day.jpg"]
    assert len({image_key("mine", name) for name in names}) == len(names)


# --- scripts/prepare_data.py ------------------------------------------------------------------------------------------


def test_the_script_takes_simrecs_words_and_prints_refers_counts(tmp_path, run):
    make_refer(tmp_path)
    words = ["--data_root", tmp_path, "--output_dir", tmp_path, "--dataset", "refcoco", "--split", "unc"]
    words.append("--generate_mask")
    status, out, err = run(*words)
    assert status == 0, err
    assert "data set [refcoco_unc] contains:\n12 expressions for 8 refs in 4 images." in out
    assert "4 refs are in split [train] (6 expressions, 2 images)." in out
    assert f"dataset.dataset=refcoco dataset.ann_path='{{refcoco: {tmp_path}/anns/refcoco}}'" in out
    rows = open_table(str(tmp_path / "anns" / "refcoco.json"), "train", name="refcoco").rows
    assert rows[0]["mask"] is not None
    assert run(*words)[0] == 0


def test_the_scripts_errors_are_one_paragraph(tmp_path, run):
    for arguments, words in (
        (["--dataset", "nope", "--data_root", tmp_path], "there is no"),
        (["--dataset", "x", "--source", tmp_path / "x.jsonl"], "name the format of its boxes"),
        (["--dataset", "x", "--source", tmp_path / "x.jsonl", "--bbox-format", "xywh"], "cannot read"),
    ):
        status, out, err = run(*arguments)
        assert status == 2
        assert words in err
        assert "Traceback" not in err
        assert not out


def test_the_script_refuses_folders_that_would_change_nothing(tmp_path, run):
    make_refer(tmp_path)
    words = ("--data_root", str(tmp_path), "--output_dir", str(tmp_path / "out"))
    status, _, err = run(*words, "--generate_mask", "--masks", str(tmp_path / "maks"))
    assert status == 2 and f"--masks: there is no folder {tmp_path / 'maks'}" in err
    prepare(open_source(boxes_jsonl(tmp_path), name="mine"), tmp_path / "mine", progress=False)
    status, _, err = run(*words, "--exclude-images-of", str(tmp_path / "mine"))
    assert status == 2 and "has no split but train, so it has no evaluation images" in err


def test_the_script_warns_of_xyxy_and_of_skipped_records(tmp_path, run):
    rows = [{"image": "a.jpg", "phrase": "b", "bbox": [10, 20, 100 + n, 80]} for n in range(9)]
    rows.append({"image": "a.jpg", "phrase": "b", "bbox": [10, 10, 20, 30]})
    rows.append({"image": "a.jpg", "phrase": "b", "bbox": [10, 10, 20, 0], "split": "val"})
    file = make_jsonl(tmp_path, rows)
    options = ["--source", file, "--dataset", "mine", "--output_dir", tmp_path]
    status, _, err = run(*options, "--bbox-format", "xywh")
    assert status == 2
    assert "would fit as xyxy" in err
    status, out, _ = run(*options, "--bbox-format", "xywh", "--on-bad-record", "skip")
    assert status == 0
    assert "skipped 9 records: box outside image" in out
    assert "WARNING, split val: nothing is left of it" in out


def test_full_data_sets_of_other_counts_are_warned_of():
    from rec.data.sources.refer import SPLIT_COUNTS, count_warnings

    published = SPLIT_COUNTS["refcoco_unc"]
    assert count_warnings("refcoco_unc", published) == []
    assert count_warnings("refcoco_unc", {"train": 95, "val": 20}) == []
    assert count_warnings("mine", {"train": 95}) == []
    assert "42403 refs in split train" in count_warnings("refcoco_unc", published | {"train": 42403})[0]


def test_the_script_lists_leaks(tmp_path, run):
    make_refer(tmp_path, splits=("train", "val"))
    make_refer(tmp_path, name="refcoco+", splits=("val", "train"))
    for name in ("refcoco", "refcoco+"):
        assert run("--data_root", tmp_path, "--dataset", name)[0] == 0
    tables = [tmp_path / "anns" / "refcoco", tmp_path / "anns" / "refcoco+"]
    status, out, _ = run("--check-leaks", *tables)
    assert status == 1
    assert "2 images of training splits are in evaluation splits" in out
    status, out, _ = run("--check-leaks", tables[0])
    assert (status, out) == (0, "0 images of training splits are in evaluation splits\n")


def test_tables_below_folders_of_any_name_are_opened_and_streamed(tmp_path):
    from rec.data.stream import RefCOCOStream
    from rec.data.text import Vocabulary

    spec = boxes_jsonl(tmp_path)
    (tmp_path / "p1").mkdir()
    make_jsonl(tmp_path / "p1", [{"image": "0.jpg", "phrase": "another table", "bbox": [1, 1, 9, 9]}])
    for name in ("p[1]", "a:b", "p*", "50%", "größer 大", "p**q"):
        for parquet in (True, False):
            folder = tmp_path / name / str(parquet)
            prepare(open_source(spec, name="mine"), folder, store="embedded", parquet=parquet, progress=False)
            rows = open_table(folder, "train", name="mine").rows
            assert len(rows) == 25 and rows[0]["sentences"] == ["box 0"]
        folder = tmp_path / name / "True"
        stream = RefCOCOStream(folder, "train", vocabulary=Vocabulary.build(["box"]), buffer_size=0)
        assert len(list(stream)) == 25
        (folder / "prepared.json").unlink()
        assert len(open_table(folder, "train", name="mine").rows) == 25
    with pytest.raises(SourceError, match="'::'"):
        prepare(open_source(spec, name="mine"), tmp_path / "a::b", progress=False)


def test_the_beginning_of_an_interrupted_preparation_is_no_table(tmp_path, monkeypatch):
    from rec.data.stream import RefCOCOStream

    monkeypatch.setattr(preparation, "SHARD_ROWS", 10)
    spec, folder = boxes_jsonl(tmp_path), tmp_path / "out"
    replace, done = os.replace, []

    def killed(source, target):
        replace(source, target)
        done.extend([target] if str(target).endswith(".parquet") else [])
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(open_source(spec, name="mine"), folder, parquet=True, progress=False)
    monkeypatch.setattr(os, "replace", replace)
    assert [path.name for path in folder.glob("*.parquet")] == ["train-00000-of-00003.parquet"]
    for opened in (lambda: open_table(folder, "train", name="mine"), lambda: RefCOCOStream(folder, vocabulary="v")):
        with pytest.raises(SourceError, match="interrupted: give the same command"):
            opened()
    prepare(open_source(spec, name="mine"), folder, parquet=True, progress=False)
    assert len(open_table(folder, "train", name="mine").rows) == 25


def test_a_store_that_does_not_fit_on_the_disk_is_an_error_at_its_start(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"images\.u8"):
            prepare(
                open_source(boxes_jsonl(tmp_path), name="mine"), tmp_path / "out", store="raw", size=416, progress=False
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out" / "images.u8").exists()
    prepare(open_source(boxes_jsonl(tmp_path), name="mine"), tmp_path / "out", store="raw", size=32, progress=False)


@pytest.mark.parametrize("name", ["mine", "my data's", "my.data", "a=b", "refcoco"])
def test_the_printed_words_survive_the_shell(tmp_path, monkeypatch, run, name):
    monkeypatch.setenv("HOME", str(tmp_path / "it's [1] home"))
    (tmp_path / "it's [1] home").mkdir()
    spec = boxes_jsonl(tmp_path / "it's [1] home")
    words = ["--dataset", name, "--source", f"~/{Path(spec['path']).name}"]
    words += ["--bbox-format", "xywh", "--output_dir", "~/a {b}: c"]
    status, out, err = run(*words)
    assert status == 0, err
    overrides = shlex.split(out.splitlines()[-1].partition(" is ready: ")[2])
    cfg = LazyConfig.load(SCRIPT.parents[1] / "configs" / "simrec_refcoco_scratch.py")
    apply_overrides(cfg, overrides)
    assert cfg.dataset.dataset == name
    assert len(open_table(cfg.dataset.ann_path[name], "train", name=name).rows) == 25


# --- scripts/browse_data.py -------------------------------------------------------------------------------------------


def test_what_the_loader_feeds_can_be_looked_at(tmp_path, call_script):
    import cv2

    make_refer(tmp_path)
    config = Path(__file__).parents[2] / "configs" / "simrec_small_scenes_quickstart.py"
    words = ["dataset.dataset=refcoco", f"dataset.ann_path={{refcoco: {tmp_path}/refcoco}}", "dataset.with_masks=true"]
    words += ["dataset.sentence_sampling=per_object"]
    _, out, err = call_script("browse_data", config, *words, "--count", "3", "--out", tmp_path / "out.png")
    assert "3 of 4 samples of split train, epoch 0" in out, err
    sheet = cv2.imread(str(tmp_path / "out.png"))
    assert sheet.shape[1] > 3 * 96
    green = (sheet[..., 1] > 140) & (sheet[..., 0] < 90) & (sheet[..., 2] < 70)
    assert green.sum() > 300


# --- the sample of real data ------------------------------------------------------------------------------------------

needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real data, ../shared/data, is not there")


@needs_sample
@pytest.mark.parametrize(
    ("name", "images", "sentences", "refs"),
    [
        ("refcoco", 102, 719, {"train": 95, "val": 20, "testA": 66, "testB": 72}),
        ("refcoco+", 102, 718, {"train": 95, "val": 20, "testA": 66, "testB": 72}),
        ("refcocog", 52, 190, {"train": 56, "val": 25, "test": 20}),
    ],
)
def test_the_real_sample_has_the_counts_of_its_readme_and_its_boxes_survive(tmp_path, name, images, sentences, refs):
    source = open_source(SAMPLE / name, name=name)
    info = prepare(source, tmp_path / "out", progress=False)
    assert info["images"] == images
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == refs
    assert sum(entry["sentences"] for entry in info["splits"].values()) == sentences
    annotations = {
        a["id"]: a for a in json.loads((SAMPLE / name / "instances.json").read_text(encoding="utf-8"))["annotations"]
    }
    for split in refs:
        dataset = RefCOCODataSet(name, {name: str(tmp_path / "out")}, split=split, with_masks=True, training=False)
        rows = open_table(tmp_path / "out", split, name=name).rows
        for i in range(0, len(dataset), 7):
            sample, row = dataset[i], next(r for r in rows if r["ref_id"] == dataset.describe(i)["ref_id"])
            x, y, w, h = annotations[int(row["ann_id"])]["bbox"]
            assert sample["box_pixels"].tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-3)
            masked = np.nonzero(sample["mask"][0].numpy() > 127)
            center = (sample["box"][:2] * 416).numpy()
            assert abs(masked[1].mean() - center[0]) < 2 and abs(masked[0].mean() - center[1]) < 2
    assert read_info(tmp_path / "out")["options"]["split_by"] in ("unc", "umd")
