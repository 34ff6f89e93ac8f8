"""Annotation files of strangers: nothing outside the folders given is written or copied, nothing hangs or takes all memory."""

import json
import os
import shutil

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
    with pytest.raises(SourceError, match="is no name for a split"):
        open_source(tmp_path / "x.json", name="refcoco", image_path=str(tmp_path))
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("split", HOSTILE_SPLITS)
def test_a_split_name_that_leads_elsewhere_is_refused_in_tables(tmp_path, split):
    prepare(open_source(jsonl(tmp_path, GOOD), name="mine"), tmp_path / "out", progress=False)
    info = read_info(tmp_path / "out")
    info["splits"] = {split: info["splits"]["train"]}
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(SourceError, match="is no name for a split"):
        open_table(tmp_path / "out", split, name="mine")
    (tmp_path / "out" / "prepared.json").unlink()
    (tmp_path / "out" / "dataset_dict.json").write_text(json.dumps({"splits": [split]}), encoding="utf-8")
    with pytest.raises(SourceError, match="is no name for a split"):
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
    assert decode(allowed._parts[0].table.rows[0]["mask"]).sum() == 40 * 30


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
