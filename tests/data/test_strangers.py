"""Annotation files of strangers: nothing outside the folders given is written or copied, nothing hangs or takes all memory."""

import json
import os
import resource
import shutil
import time

import cv2
import numpy as np
import pytest
from data_toys import make_jsonl, make_refer, save_refer

from rec.data.dataset import RefCOCODataSet
from rec.data.masks import decode
from rec.data.prepare import prepare, read_info
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table
from rec.errors import RecError

GOOD = {"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40]}
HOSTILE_SPLITS = ["../../../evil", "/tmp/evil", "..", ".hidden", "a/b", "a\\b", "c:evil", "x" * 101, "a\nb", " "]


def jsonl(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    return {"path": str(make_jsonl(folder, list(rows))), "bbox_format": "xywh"}


# --- names of splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", HOSTILE_SPLITS)
def test_a_split_name_that_leads_elsewhere_is_a_bad_record_or_refused(tmp_path, split):
    spec = jsonl(tmp_path / "jsonl", GOOD, GOOD | {"split": split})
    refs, instances = make_refer(tmp_path)
    refs[0]["split"] = split
    save_refer(tmp_path / "refcoco", refs, instances)
    for where, name, reason in ((spec, "mine", "bad split"), (tmp_path / "refcoco", "refcoco", "no split")):
        source = open_source(where, name=name)
        assert split not in source.splits
        with pytest.raises(BadRecord, match=f"{reason}: "):
            prepare(source, tmp_path / "out" / name, progress=False)
        info = prepare(source, tmp_path / "skipped" / name, on_bad_record="skip", progress=False)
        assert info["splits"]["train"]["skipped"] == {reason: 1}
    (tmp_path / "x.json").write_text(json.dumps({split: [{"iid": 1}]}), encoding="utf-8")
    with pytest.raises(SourceError, match="is not a name for a split"):
        open_source(tmp_path / "x.json", name="refcoco", image_path=str(tmp_path))
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("split", HOSTILE_SPLITS)
def test_a_split_name_that_leads_elsewhere_is_refused_in_tables(tmp_path, split):
    prepare(open_source(jsonl(tmp_path, GOOD), name="mine"), tmp_path / "out", progress=False)
    info = read_info(tmp_path / "out")
    info["splits"] = {split: info["splits"]["train"]}
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(SourceError, match="is not a name for a split"):
        open_table(tmp_path / "out", split, name="mine")
    (tmp_path / "out" / "prepared.json").unlink()
    (tmp_path / "out" / "dataset_dict.json").write_text(json.dumps({"splits": [split]}), encoding="utf-8")
    with pytest.raises(SourceError, match="is not a name for a split"):
        open_table(tmp_path / "out", split, name="mine")


def test_very_many_splits_are_another_column(tmp_path):
    spec = jsonl(tmp_path, *(GOOD | {"split": f"photo {n}"} for n in range(101)))
    with pytest.raises(SourceError, match="101 splits, such as 'photo 0'"):
        open_source(spec, name="mine")


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    """photos/ with a picture and a link out of it, and outside of it a picture and a mask that nobody meant to give."""
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "secret.png"), np.full((90, 120, 3), 77, np.uint8))
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 10:40] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask * 255)
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path


def outside(place):
    return ["../secret.png", str(place / "secret.png"), "link.png", "x/../../secret.png"]


@pytest.mark.parametrize("store", ["embedded", "letterboxed", "raw"])
@pytest.mark.parametrize("number", range(4))
def test_what_is_copied_into_a_table_comes_from_the_folders_given(place, store, number):
    (place / "photos" / "x").mkdir()
    spec = jsonl(place / "photos", GOOD, GOOD | {"image": outside(place)[number]})
    source = open_source(spec, name="mine")
    options = {"store": store, "size": 32, "progress": False}
    with pytest.raises(BadRecord, match=r"image outside the folders: .*--allow-paths"):
        prepare(source, place / "out", **options)
    info = prepare(source, place / "skipped", on_bad_record="skip", **options)
    assert info["splits"]["train"]["skipped"] == {"image outside the folders": 1}
    assert prepare(source, place / "all", allow_paths=True, **options)["splits"]["train"]["rows"] == 2


def test_ones_own_table_may_name_files_anywhere(place):
    rows = [GOOD | {"image": image} for image in outside(place)[:3]]
    spec = jsonl(place / "photos", *rows)
    prepare(open_source(spec, name="mine"), place / "out", progress=False)
    dataset = RefCOCODataSet("mine", {"mine": str(place / "out")}, input_shape=[32, 32])
    assert {int(dataset[n]["image"][0, 16, 16]) for n in range(3)} == {77}
    embedded = open_source(spec | {"path": spec["path"]}, name="mine", image_path=str(place))
    assert embedded.folders == (str(place), str(place / "photos"))


def test_a_link_to_the_folder_itself_is_the_folder(place):
    (place / "alias").symlink_to(place / "photos")
    spec = jsonl(place / "photos", GOOD)
    source = open_source(spec, name="mine", image_path=str(place / "alias"))
    assert prepare(source, place / "out", store="embedded", progress=False)["splits"]["train"]["rows"] == 1


@pytest.mark.parametrize("mask", ["../mask.png", "../mask.npy"])
def test_masks_come_from_the_folders_given(place, mask):
    spec = jsonl(place / "photos", GOOD | {"mask": mask})
    with pytest.raises(BadRecord, match=r"mask outside the folders.*dataset\.allow_paths=true"):
        RefCOCODataSet("mine", {"mine": spec}, with_masks=True)
    allowed = RefCOCODataSet("mine", {"mine": spec}, with_masks=True, allow_paths=True)
    assert decode(allowed._parts.parts[0].table.rows[0]["mask"]).sum() == 40 * 30


def test_a_table_from_the_network_names_no_files_of_this_machine(place):
    from datasets import Dataset

    from rec.data.sources.foreign import open_foreign

    rows = Dataset.from_list([{"image": str(place / "secret.png"), "bbox": [1, 2, 3, 4], "phrase": "box"}])
    with pytest.raises(BadRecord, match="image outside the folders"):
        prepare(open_foreign({"train": rows}, "hub"), place / "out", progress=False)
    own = open_foreign({"train": rows}, "mine", folder=str(place))
    assert prepare(own, place / "own", progress=False)["splits"]["train"]["rows"] == 1
    own = open_foreign({"train": rows}, "mine", folder=str(place / "photos"))
    with pytest.raises(BadRecord, match="image outside the folders"):
        prepare(own, place / "embedded", store="embedded", progress=False)


# --- regular files ----------------------------------------------------------------------------------------------------


def devices(folder):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.npy")
    return ["pipe.png", "pipe.npy", "/dev/zero", "/dev/stdin", "."]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("key", ["image", "mask"])
def test_records_that_name_devices_and_pipes_are_bad_ones(tmp_path, key, number):
    spec = jsonl(tmp_path, GOOD)
    with open(spec["path"], "a", encoding="utf-8") as file:
        file.write(json.dumps(GOOD | {key: devices(tmp_path)[number]}) + "\n")
    source = open_source(spec, name="mine")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", allow_paths=True, progress=False)
    assert info["splits"]["train"]["skipped"] == {"unreadable image" if key == "image" else "bad mask": 1}


# --- sizes ------------------------------------------------------------------------------------------------------------


def npy(shape, descr="|u1", data=b"", version=b"\x01\x00"):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        npy((10**6, 10**6)),
        npy((90, 120)),
        npy((90, 120), data=bytes(90 * 120 + 1)),
        npy((90, 120), "|O", bytes(90 * 120 * 8)),
        npy((90, 120), "<U1", bytes(90 * 120 * 4)),
        npy((-90, -120), data=bytes(90 * 120)),
        npy((120, 90), data=bytes(90 * 120)),
        npy((90, 120), data=bytes(90 * 120), version=b"\x09\x00"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 60_000,
        b"\x93NUMPY",
        b"",
        b"PK\x03\x04",
    ],
    ids=range(12),
)
def test_numpy_files_that_claim_more_than_they_are_are_bad_masks(tmp_path, content):
    spec = jsonl(tmp_path, GOOD | {"mask": "m.npy"})
    (tmp_path / "m.npy").write_bytes(content)
    with pytest.raises(BadRecord, match=r"bad mask: .*m\.npy"):
        prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_masks_of_every_plain_type_are_read(tmp_path, dtype, order):
    mask = np.zeros((90, 120), dtype, order)
    mask[20:60, 10:40] = 1
    np.save(tmp_path / "m.npy", mask)
    spec = jsonl(tmp_path, GOOD | {"mask": "m.npy"})
    prepare(open_source(spec, name="mine"), tmp_path / "out", progress=False)
    assert (decode(open_table(tmp_path / "out", "train", name="mine").rows[0]["mask"]) == (mask != 0)).all()
    shutil.rmtree(tmp_path / "out")


def test_a_mask_of_another_size_than_its_row_is_an_error_of_that_row(tmp_path):
    from data_toys import row, write_image
    from datasets import Dataset

    from rec.data.schema import FEATURES

    write_image(tmp_path / "a.jpg", 120, 90)
    for number, (size, counts) in enumerate((([10**6, 10**4], "P" * 30), ([45, 60], "PR2"), ([90, 120], "PR2"))):
        rows = Dataset.from_list(
            [row(image={"path": str(tmp_path / "a.jpg"), "bytes": None}, mask={"size": size, "counts": counts})],
            FEATURES,
        )
        folder = tmp_path / str(number)
        rows.save_to_disk(folder)
        with pytest.raises(RecError, match=r"ref_id 7.*mask|mask.*ref_id 7"):
            RefCOCODataSet("mine", {"mine": str(folder)}, with_masks=True)[0]


def peak():
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def nested_key(depth=60):
    """A dict whose key is a tuple of the tuple before, twice: 60 of them take 2**60 steps to be hashed."""
    pairs = b"".join(b"h\x00h\x00\x86q\x00" for _ in range(depth))
    return b"\x80\x02)q\x00" + pairs + b"}h\x00K\x01s."


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x3f.",  # a memo of a thousand million places
        b"\x80\x02]p999999999\n.",
        b"\x80\x04\x8e\x00\x00\x00\x80\x00\x00\x00\x00.",  # 2 GB of bytes
        b"\x80\x04B\x00\x00\x00\x80.",
        b"\x80\x04\x8d\x00\x00\x00\x80\x00\x00\x00\x00.",
        b"\x80\x05\x96\x00\x00\x00\x80\x00\x00\x00\x00.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02](]" + b"2" * 1000 + b"e.",
        nested_key(),
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"(" * 100_000,
    ],
    ids=range(13),
)
def test_pickles_that_claim_more_than_they_are_take_no_memory(tmp_path, data):
    make_refer(tmp_path)
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(data)
    before = peak()
    with pytest.raises(SourceError, match=r"refs\(unc\)\.p"):
        open_source(tmp_path / "refcoco", name="refcoco")
    assert peak() - before < 100


def every_annotation_file(folder):
    """(what opens it, the file) of every kind of annotation file."""
    make_refer(folder)
    yield (folder / "refcoco", "refcoco"), folder / "refcoco" / "refs(unc).p"
    yield (folder / "refcoco", "refcoco"), folder / "refcoco" / "instances.json"
    (folder / "x.json").write_text(json.dumps({"train": []}), encoding="utf-8")
    yield (folder / "x.json", "refcoco"), folder / "x.json"
    spec = jsonl(folder, GOOD)
    yield (spec, "mine"), spec["path"]
    (folder / "x.csv").write_text("image,phrase,bbox\n", encoding="utf-8")
    yield (spec | {"path": str(folder / "x.csv")}, "mine"), folder / "x.csv"
    for name in ("region_descriptions.json", "image_data.json"):
        (folder / "vg").mkdir(exist_ok=True)
        (folder / "vg" / name).write_text("[]", encoding="utf-8")
        yield (folder / "vg", "vg"), folder / "vg" / name
    for name in ("Sentences/1.txt", "Annotations/1.xml", "train.txt"):
        (folder / "flickr" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "flickr" / name).write_text("1", encoding="utf-8")
        yield (folder / "flickr", "flickr"), folder / "flickr" / name
    yield (folder / "flickr", "flickr"), folder / "flickr" / "train.txt"


@pytest.mark.parametrize("number", range(10))
def test_annotation_files_that_are_pipes_are_never_waited_for(tmp_path, number):
    (spec, name), file = list(every_annotation_file(tmp_path))[number]
    os.unlink(file)
    os.mkfifo(file)
    with pytest.raises((SourceError, BadRecord)):
        source = open_source(spec, name=name, image_path=str(tmp_path))
        list(prepare(source, tmp_path / "out", progress=False))


def test_annotations_larger_than_the_limit_are_refused_before_they_are_read(tmp_path):
    make_refer(tmp_path)
    with open(tmp_path / "refcoco" / "instances.json", "r+b") as file:
        file.truncate(3 << 30)  # takes no room on the disk
    source = open_source(tmp_path / "refcoco", name="refcoco")
    with pytest.raises(SourceError, match=r"instances\.json has 3,221,225,472 bytes; the limit"):
        prepare(source, tmp_path / "out", progress=False)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_line_without_end_is_a_bad_record(tmp_path, monkeypatch, suffix):
    from rec.data.sources import tabular

    monkeypatch.setattr(tabular, "MAX_LINE", 1000)
    spec = jsonl(tmp_path, GOOD)
    file = tmp_path / f"long{suffix}"
    lines = ["image,phrase,bbox", 'a.jpg,box,"10 20 30 40"'] if suffix == ".csv" else [json.dumps(GOOD)]
    file.write_text("\n".join([lines[-1].replace("box", "x" * 100_000, 1), *lines[-1:]]), encoding="utf-8")
    if suffix == ".csv":
        file.write_text("\n".join([lines[0], "a.jpg," + "x," * 300_000, lines[1]]), encoding="utf-8")
    source = open_source(spec | {"path": str(file)}, name="mine")
    info = prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["rows"] == 1 and sum(info["splits"]["train"]["skipped"].values()) == 1


def test_a_long_array_of_small_elements_is_read_in_one_pass(tmp_path):
    from rec.data.sources.visual_genome import iterate_json_array

    (tmp_path / "x.json").write_text("[" + "0, " * 400_000 + "1]", encoding="utf-8")
    started = time.perf_counter()
    assert sum(1 for _ in iterate_json_array(tmp_path / "x.json")) == 400_001
    assert time.perf_counter() - started < 10


def flickr(folder, xml="<annotation/>", captions="[/EN#1/people a man]", image="1"):
    for name, text in (("Sentences/1.txt", captions), ("Annotations/1.xml", xml), ("train.txt", image)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return open_source(folder, name="flickr", image_path=str(folder))


LAUGHS = "<!DOCTYPE a [<!ENTITY a '" + "ha" * 50 + "'>]><annotation><object><name>&a;</name></object></annotation>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"xml": LAUGHS}, "document type"),
        ({"xml": "<a>" * 20_000}, "no element found"),
        ({"xml": " " * (1 << 19)}, "the limit for the boxes is"),
        ({"captions": "[/EN#1/" * 100_000}, "the limit for the captions is"),
        ({"image": "../Annotations/1"}, "not a name of an image"),
        ({"image": "/etc/passwd"}, "not a name of an image"),
    ],
    ids=range(6),
)
def test_hostile_flickr_files_are_bad_records(tmp_path, change, words):
    with pytest.raises(BadRecord, match=f"broken annotation: .*{words}"):
        prepare(flickr(tmp_path, **change), tmp_path / "out", progress=False)


def test_broken_phrases_are_not_looked_at_to_the_files_end_each(tmp_path):
    started = time.perf_counter()
    for captions in ("[/EN#1/" * 35_000, "[/EN#1/x y" * 25_000):
        with pytest.raises(SourceError):
            prepare(flickr(tmp_path, captions=captions), tmp_path / "out", progress=False)
    assert time.perf_counter() - started < 10


def test_a_record_has_a_bounded_number_of_phrases_of_bounded_length():
    from data_toys import row

    from rec.data.schema import validate_row

    for sentences in (["x"] * 1001, ["x" * 100_001]):
        with pytest.raises(BadRecord, match="too many phrases"):
            validate_row(row(sentences=sentences))
