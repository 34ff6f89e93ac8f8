"""What happens with files that people wrote by hand: corrected, divided, listed with all that is wrong, and remedies."""

import errno
import gzip
import json
import logging
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rec.data import complete
from rec.data.cleaning import ALIKE
from rec.data.prepare import prepare, read_info, report_of
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.sources.divided import with_validation
from rec.data.tables import open_source, open_table
from rec.errors import InputError
from rec.files import alone_in

SCRIPTS = Path(__file__).parents[2] / "scripts"
BOX = [5, 5, 20, 20]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Ten pictures in photos/, and what opens a list of records about them."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(10):
        Image.fromarray(np.full((60, 80, 3), 20 * number, np.uint8)).save(f"photos/{number}.png")

    def source(records, file="mine.jsonl", images="photos"):
        Path(file).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return open_source({"path": file, "bbox_format": "xywh"}, name="mine", image_path=images)

    return source


def records(count=10, **more):
    return [{"image": f"{n % 10}.png", "phrase": "the red box", "bbox": BOX, **more} for n in range(count)]


def test_a_corrected_label_replaces_the_table_once_the_new_one_is_complete(own):
    prepare(own(records()), "out", progress=False)
    corrected = records()
    corrected[0]["phrase"] = "the blue box, and longer"
    with pytest.raises(SourceError, match="replace it with --overwrite"):
        prepare(own(corrected), "out", progress=False)
    broken = [*corrected[:5], corrected[5] | {"bbox": [0, 0, 0, 0]}]
    with pytest.raises(BadRecord, match="empty box"):
        prepare(own(broken), "out", progress=False, overwrite=True)
    assert open_table("out", "train", name="mine").rows[0]["sentences"] == ["the red box"]  # the old one stayed
    for store in ("raw", "plain"):
        prepare(own(corrected), "out", progress=False, overwrite=True, store=store, size=32)
        table = open_table("out", "train", name="mine")
        assert table.rows[0]["sentences"] == ["the blue box, and longer"] and len(table.rows) == 10
        assert all((Path(table.image_root) / row["image"]["path"]).is_file() for row in table.rows) or store == "raw"
    assert sorted(path.name for path in Path().iterdir()) == ["mine.jsonl", "out", "photos"]
    Path("other").mkdir()
    Path("other/thesis.txt").write_text("mine")
    with pytest.raises(SourceError, match="not empty"):  # what we did not prepare is never replaced
        prepare(own(corrected), "other", progress=False, overwrite=True)


def test_a_table_behind_a_link_is_replaced_where_it_lies(own):
    Path("disk").mkdir()
    Path("out").symlink_to("disk", target_is_directory=True)
    prepare(own(records()), "out", progress=False)
    prepare(own(records(4)), "out", progress=False, overwrite=True)
    assert Path("out").is_symlink() and len(open_table("disk", "train", name="mine").rows) == 4
    assert sorted(path.name for path in Path().iterdir()) == ["disk", "mine.jsonl", "out", "photos"]


def test_a_table_is_not_replaced_with_what_it_is_made_from_in_it(own):
    prepare(own(records()), "out", progress=False)
    source = own(records(4), file="out/mine.jsonl")
    with pytest.raises(InputError, match=r"would be written over .*mine\.jsonl, which is read"):
        prepare(source, "out", progress=False, overwrite=True)
    Path("photos").rename("out/photos")
    with pytest.raises(InputError, match=r"would be written over .*photos"):
        prepare(own(records(4), images="out/photos"), "out", progress=False, overwrite=True)
    assert Path("out/mine.jsonl").is_file() and Path("out/photos/1.png").is_file()


@pytest.mark.parametrize("left", [100, 0])
def test_a_table_whose_prepared_json_is_cut_short_is_replaced(own, left):
    prepare(own(records()), "out", progress=False)
    info = Path("out/prepared.json")
    info.write_text(info.read_text()[:left])
    with pytest.raises(SourceError, match=r"prepared\.json is not valid JSON.* or replace the table with --overwrite"):
        prepare(own(records()), "out", progress=False)
    prepare(own(records()), "out", progress=False, overwrite=True)
    assert len(open_table("out", "train", name="mine").rows) == 10


@pytest.mark.parametrize("file", ["notes.txt", "train/notes.txt", "sub/prepared.json", ".gitignore"])
def test_a_file_of_ones_own_in_a_table_is_not_lost(own, file):
    prepare(own(records()), "out", progress=False)
    for hidden in (".DS_Store", "._x", ".prepared.json.a1b2c3_4.json"):
        Path("out", hidden).touch()
    prepare(own(records(4)), "out", progress=False, overwrite=True, store="letterboxed", size=32)
    prepare(own(records(4)), "out", progress=False, overwrite=True, parquet=True)
    Path("out", file).parent.mkdir(exist_ok=True)
    Path("out", file).write_text("mine")
    with pytest.raises(SourceError, match=rf"holds {file}, which is of no table and would be lost"):
        prepare(own(records()), "out", progress=False, overwrite=True)
    assert Path("out", file).read_text() == "mine" and len(open_table("out", "train", name="mine").rows) == 4


@pytest.mark.parametrize("gone", [["prepared.json"], ["prepared.json", "train"], []])
def test_what_a_kill_left_of_the_old_table_is_in_nobodys_way(own, gone):
    prepare(own(records(4)), "out", progress=False)
    shutil.copytree("out", ".out.new")
    for name in gone:
        shutil.rmtree(f".out.new/{name}") if name == "train" else Path(".out.new", name).unlink()
    prepare(own(records()), "out", progress=False, overwrite=True)
    assert len(open_table("out", "train", name="mine").rows) == 10 and not Path(".out.new").exists()


def test_two_preparations_are_not_at_work_in_one_folder(own, caplog):
    source = own(records())
    with alone_in(Path("out").absolute()), pytest.raises(InputError, match="out is being written by another process"):
        prepare(source, "out", progress=False)
    prepare(source, "out", progress=False)
    with (
        alone_in(Path(".out.new").absolute()),
        pytest.raises(InputError, match="/out is being written by another process"),
    ):
        prepare(source, "out", progress=False, overwrite=True)
    with caplog.at_level(logging.INFO):
        prepare(source, "out", progress=False)
    assert "stays as it is; --overwrite looks at all images again" in caplog.text


def test_a_full_disk_is_told_of_the_folder_and_the_same_command_goes_on(own):
    source = own(records())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError) as full:
            prepare(source, "out", progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert full.value.errno == errno.EFBIG and str(Path("out").absolute()) in full.value.filename
    assert prepare(source, "out", progress=False)["splits"]["train"]["rows"] == 10


def test_records_that_are_there_twice_and_boxes_listed_twice_are_told(own):
    several = {"image": "9.png", "phrase": "boxes"}
    given = [*records(4), *records(2), several | {"boxes": [BOX, [30, 5, 20, 20], BOX]}, several | {"boxes": [BOX]}]
    first, second = report_of(prepare(own(given), "out", progress=False), "train").warnings()
    assert first.startswith("2 rows have the image, boxes and phrases of an earlier one")
    assert second.startswith("1 rows list a box twice")


def test_of_files_in_a_folder_the_names_tell_the_split_and_what_else_does_is_told(own):
    Path("files").mkdir()
    for file, split in (("boxes", "train"), ("training", "train"), ("val", "val ")):
        own(records(3, split=split))
        Path("mine.jsonl").rename(f"files/{file}.jsonl")
    source = open_source({"path": "files", "bbox_format": "xywh"}, name="mine", image_path="photos")
    info = prepare(source, "out", progress=False)
    told = "fields split, as the name of their file in a folder, boxes.jsonl, tells it"
    assert {split: report_of(info, split).left_out for split in info["splits"]} == {
        "boxes": {told: 3},
        "training": {},
        "val": {},
    }
    assert own([*records(2, split="train"), *records(2, split=" Training ")]).splits == ("train",)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"columns": {"phrase": "caption"}}, r"mine.jsonl is read without columns="),
        ({"split_by": "val"}, r"without split_by='val': leave that out; --split of `rec prepare` says who split REFER"),
        ({"count": 3, "prompt": ["Find {}"]}, "without prompt=.*, count=3: leave that out$"),
    ],
)
def test_a_choice_that_a_layout_knows_nothing_of_is_refused(own, choice, words):
    own(records())
    with pytest.raises(SourceError, match=words):
        open_source({"path": "mine.jsonl", "bbox_format": "xywh"} | choice, name="mine", image_path="photos")


def test_a_table_of_ours_that_is_prepared_anew_keeps_its_weights(own):
    prepare(own(records(3, weight=0.5, category="box")), "out", progress=False)
    prepare(open_source("out", name="mine", image_path="photos"), "again", progress=False, store="embedded")
    before, after = (list(open_table(folder, "train", name="mine").rows) for folder in ("out", "again"))
    assert [row | {"image": None} for row in after] == [row | {"image": None} for row in before]
    assert after[0]["weight"] == 0.5 and after[0]["image"]["bytes"]


def test_the_beginning_of_a_preparation_is_no_source(own):
    prepare(own(records()), "out", progress=False, store="embedded", parquet=True)
    Path("out/prepared.json").unlink()
    Path("out/.partial").mkdir()
    with pytest.raises(SourceError, match="the beginning of a preparation that was interrupted"):
        open_source("out", name="mine")


def test_a_validation_split_is_made_of_whole_images_and_stays_the_same(own):
    many = records(40)  # four about each image
    info = prepare(with_validation(own(many), 0.2), "out", progress=False)
    assert {split: (entry["rows"], entry["images"]) for split, entry in info["splits"].items()} == {
        "train": (32, 8),
        "val": (8, 2),
    }
    images = {split: set(open_table("out", split, name="mine").rows["image_id"]) for split in ("train", "val")}
    assert not images["train"] & images["val"]
    again = prepare(
        with_validation(own(many[:39], images=str(Path("photos").absolute())), 0.2), "again", progress=False
    )
    assert set(open_table("again", "val", name="mine").rows["image_id"]) == images["val"] and again["images"] == 10
    with pytest.raises(SourceError, match="where there is no val"):
        with_validation(own([*records(4), *records(4, split="validation")]), 0.5)
    with pytest.raises(SourceError, match="needs two"):
        with_validation(own(records(1)), 0.5)


@pytest.mark.parametrize("store", ["plain", "embedded", "letterboxed"])
def test_images_of_two_splits_are_told_whatever_they_are_called(own, store):
    Path("photos/copy.png").write_bytes(Path("photos/1.png").read_bytes())
    Path("photos/link.png").symlink_to("2.png")
    given = records(4)
    given += [line | {"split": "val"} for line in (given[0], given[3] | {"image": "9.png"})]
    given += [given[0] | {"image": name, "split": "val"} for name in ("copy.png", "link.png")]
    info = prepare(own(given), "out", progress=False, store=store, size=32)
    assert report_of(info, "train").warnings() == []
    [line] = report_of(info, "val").warnings()
    assert line.startswith("3 of its images are in the training split too")


def test_training_and_validation_are_train_and_val(own):
    source = own([*records(6, split="training"), *records(3, split="validation"), *records(1, split="VAL")])
    assert source.splits == ("train", "val")
    prepare(source, "out", splits=["train", "Training", "val"], progress=False)
    assert len(open_table("out", "validation", name="mine").rows) == 4
    for name in ("training", "validation"):
        own(records(3), file=f"{name}.jsonl")
    Path("files").mkdir()
    for name in ("training", "validation"):
        Path(f"{name}.jsonl").rename(f"files/{name}.jsonl")
    folder = open_source({"path": "files", "bbox_format": "xywh"}, name="mine", image_path="photos")
    prepare(folder, "of_files", splits=["train", "val"], progress=False)
    assert sorted(read_info("of_files")["splits"]) == ["training", "validation"]
    assert len(open_table("of_files", "val", name="mine").rows) == 3


def test_all_bad_records_are_told_at_once(own, caplog):
    bad = records(10)
    for number in (2, 5, 6):
        bad[number]["bbox"] = [0, 0, -1, 5]
    bad[8]["image"], bad[9] = "nowhere.png", {"image": "9.png", "split": "val"}
    with caplog.at_level(logging.ERROR), pytest.raises(BadRecord) as told:
        prepare(own(bad), "out", progress=False)
    assert str(told.value).startswith(
        "empty box: mine, split train, record 2 (ref_id mine-3, image_id 2.png): bbox [0, 0, -1, 5]"
    )
    assert "In all 4 records are bad: 3 x empty box, 1 x missing image. Mend them" in str(told.value)
    assert "3 x empty box, records 2, 5, 6; the first: mine, split train, record 2" in caplog.text
    assert (
        "1 x missing image, records 8; the first" in caplog.text
        and "it has no phrase, bbox; its fields are " in caplog.text
    )
    with pytest.raises(BadRecord, match=r"record 1 \(.*Mend it, or leave such records out \(--on-bad-record skip\)$"):
        prepare(own([*records(1), records(2)[1] | {"bbox": [0, 0, -1, 5]}]), "out", progress=False)


def test_a_fault_of_most_records_is_no_matter_of_single_records(own):
    wrong = [record | {"image": f"photos/{record['image']}"} for record in records(ALIKE)]
    with pytest.raises(BadRecord, match=rf"{ALIKE} of {ALIKE + 3} records fail alike.*Look for the cause"):
        prepare(own([*records(3), *wrong]), "out", on_bad_record="skip", progress=False)
    info = prepare(own([*records(ALIKE), *wrong[1:]]), "half", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["skipped"] == {"missing image": ALIKE - 1}


def test_remedies(own):
    with pytest.raises(BadRecord, match=r"no file photos/photos/0\.png, but there is photos/0\.png.*--images"):
        prepare(own([record | {"image": f"photos/{record['image']}"} for record in records(1)]), "out", progress=False)
    with pytest.raises(BadRecord, match="nor a folder photos/red: name the folder"):
        prepare(own([records(1)[0] | {"image": "red/0.png"}]), "out", progress=False)
    with pytest.raises(BadRecord, match=r"image_id 0\.png, has the same ref_id: put all phrases of one object"):
        prepare(own(records(2, ref_id="a")), "out", progress=False)
    Path("utf16.csv").write_text("image,phrase,bbox\n0.png,the box,5 5 20 20\n", encoding="utf-16")
    with pytest.raises(SourceError, match=r"cannot read 'utf16\.csv': it is UTF-16.*save it as UTF-8"):
        open_source({"path": "utf16.csv", "bbox_format": "xywh"}, name="mine", image_path="photos")
    Path("packed.csv").write_bytes(gzip.compress(b"image,phrase,bbox\n0.png,the box,5 5 20 20\n"))
    with pytest.raises(SourceError, match="it is compressed"):
        open_source({"path": "packed.csv", "bbox_format": "xywh"}, name="mine", image_path="photos")
    Path("array.jsonl").write_text(json.dumps([*records(2), 3]), encoding="utf-8")
    source = open_source({"path": "array.jsonl", "bbox_format": "xywh"}, name="mine", image_path="photos")
    info = prepare(source, "array", on_bad_record="skip", progress=False)
    assert info["splits"]["train"]["rows"] == 2 and info["splits"]["train"]["skipped"] == {"broken line": 1}


@pytest.mark.parametrize("sign", [";", "\t"])
def test_the_columns_of_a_csv_file_may_be_apart_by_other_signs(own, sign):
    lines = [
        "",
        "image,phrase,bbox,split",
        '0.png,"the box, left",5 5 20 20,train',
        "1.png,it,5 5 20 20,val",
        "2.png,it,5,val",
    ]
    text = "\n".join([line.replace(",", sign) for line in lines]).replace(f"box{sign} left", f"box{sign} or, left")
    Path("mine.csv").write_text(text, encoding="utf-8")
    source = open_source({"path": "mine.csv", "bbox_format": "xywh"}, name="mine", image_path="photos")
    assert [row["sentences"] for row in source.read("train")] == [f"the box{sign} or, left"]
    with pytest.raises(BadRecord, match=r"bad box: .*mine-5"):
        prepare(source, "out", progress=False)


def test_blanks_behind_the_commas_of_a_csv_file_are_nothing(own):
    own(records(1))
    Path("mine.csv").write_text('image, phrase, bbox\n0.png, "the box, left", "5, 5, 20, 20"\n', encoding="utf-8")
    source = open_source({"path": "mine.csv", "bbox_format": "xywh"}, name="mine", image_path="photos")
    assert prepare(source, "out", progress=False)["splits"]["train"]["rows"] == 1
    assert [row["sentences"] for row in source.read("train")] == ["the box, left"]


def test_a_csv_file_may_have_lists_of_phrases_as_pandas_writes_them_and_be_called_tsv(own):
    own(records(1))
    lines = ["image\tphrase\tbbox"]
    lines += [
        f"0.png\t{phrase}\t5 5 20 20" for phrase in ("['a mug', \"it's\"]", "[a mug]", "['a mug' 'it']", "['a', ']")
    ]
    Path("mine.tsv").write_text("\n".join(lines), encoding="utf-8")
    source = open_source({"path": "mine.tsv", "bbox_format": "xywh"}, name="mine", image_path="photos")
    first, second, *others = source.read("train")
    assert (first["sentences"], second["sentences"]) == (["a mug", "it's"], "[a mug]")
    assert ["bad phrase" in str(row) and "a list with commas" in str(row) for row in others] == [True, True]


def test_one_json_file_may_hold_the_records_of_every_split(own):
    content = {"train": records(4), "validation": records(2), "test": []}
    Path("all.json").write_text(json.dumps(content), encoding="utf-8")
    source = open_source({"path": "all.json", "bbox_format": "xywh"}, name="mine", image_path="photos")
    info = prepare(source, "out", progress=False)
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 4, "val": 2}
    content["train"][1]["split"], content["validation"][0]["split"] = "test", "valid"
    Path("all.json").write_text(json.dumps(content), encoding="utf-8")
    info = prepare(source, "other", progress=False)
    assert {split: entry["rows"] for split, entry in info["splits"].items()} == {"train": 4, "val": 2}
    assert report_of(info, "train").warnings()[0] == "left out 1 fields split, as their array tells it"
    assert not report_of(info, "val").left_out
    Path("others.json").write_text(json.dumps({"photos": [{"file": "0.png"}]}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"is of no known layout.* write a line \{"):
        open_source({"path": "others.json", "bbox_format": "xywh"}, name="mine", image_path="photos")
    spec = {"path": "all.json", "bbox_format": "xywh", "columns": {"sentences": "caption"}}
    with pytest.raises(SourceError, match="leave that out, and call the fields of the file image, phrase and bbox"):
        open_source(spec, name="mine", image_path="photos")


def test_the_script_says_that_there_is_nothing_to_train_on(own, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prepare_data

    own(records(split="test"))
    words = ["--dataset", "mine", "--source", "mine.jsonl", "--images", "photos", "--bbox-format", "xywh"]
    monkeypatch.setattr(sys, "argv", ["prepare", *words, "--output_dir", "data"])
    assert prepare_data.main() == 0
    assert "there is no split train" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["prepare", *words, "--output_dir", "asked", "--splits", "test"])
    assert prepare_data.main() == 0
    assert "there is no split train" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["my.data", "1.0", "a b"])
def test_the_script_says_what_is_missing_and_takes_names_with_dots(own, name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prepare_data

    own(records())
    words = [
        "--dataset",
        name,
        "--source",
        "mine.jsonl",
        "--images",
        "photos",
        "--bbox-format",
        "xywh",
        "--output_dir",
        "data",
    ]
    monkeypatch.setattr(sys, "argv", ["prepare", *words])
    assert prepare_data.main() == 0
    assert "there is no split val" in capsys.readouterr().out
    counts = {"train": 9, "val": 1}
    for more in ([], ["--splits", "train"]):
        monkeypatch.setattr(sys, "argv", ["prepare", *words, "--overwrite", "--val-fraction", "0.1", *more])
        assert prepare_data.main() == 0
        assert "there is no split val" not in capsys.readouterr().out
        found = read_info(f"data/anns/{name}")["splits"]
        assert {split: entry["rows"] for split, entry in found.items()} == counts
    for wrong, error in (("0", SourceError), ("1", SourceError), ("ten", SystemExit), ("nan", SystemExit)):
        monkeypatch.setattr(sys, "argv", ["prepare", *words, "--val-fraction", wrong])
        with pytest.raises(error):
            prepare_data.main()


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        (
            [10, 20, 30, 25],
            r"bbox \[10, 20, 30, 25\] \(0-1, xywh\) is \[800\.0.* leaves .*fit as pixels, without --coord",
        ),
        ([0.5, 0.5, 0.6, 0.7], r"\(0-1, xywh\) is \[40\.0, 30\.0, 88\.0, 72\.0\] in pixels .*\(it would fit as xyxy"),
        ([0.5, 0.5, 0, 0.2], r"bbox \[0\.5, 0\.5, 0, 0\.2\] .*has width 0"),
    ],
)
def test_a_box_in_other_coordinates_is_told_as_it_was_given(own, bbox, words):
    own([records(1)[0] | {"bbox": bbox}])
    source = open_source(
        {"path": "mine.jsonl", "bbox_format": "xywh", "coordinates": "0-1"}, name="mine", image_path="photos"
    )
    with pytest.raises(BadRecord, match=words):
        prepare(source, "out", progress=False)


def test_fractions_in_other_coordinates_are_told_as_they_were_given(own):
    own([records(1)[0] | {"bbox": [0.25, 0.5, 0.5, 0.75]}])
    spec = {"path": "mine.jsonl", "bbox_format": "xyxy"}
    words = r"bbox \[0\.25, .*\(0-1000, xyxy\) is \[0\.02, .*lies within one pixel \(it would fit as fractions .*0-1\)"
    with pytest.raises(BadRecord, match=f"box in fractions: .*{words}"):
        prepare(open_source(spec | {"coordinates": "0-1000"}, name="mine", image_path="photos"), "out", progress=False)
    prepare(open_source(spec | {"coordinates": "0-1"}, name="mine", image_path="photos"), "out", progress=False)


def test_an_image_that_is_named_in_another_way_is_told_how(own):
    Path("photos/sub").mkdir()
    Path("photos/0.png").rename("photos/sub/0.png")
    Path("photos/1.png").rename("photos/cafe\u0301.png")  # as a Mac stores it
    Path("photos/dead.png").symlink_to("/mnt/away/0.png")
    for name, words in (
        ("https://x.org/0.png", r"https://x\.org/0\.png is an address; download"),
        ("sub\\0.png", r"but there is photos/sub/0\.png: write / between"),
        ("CAF\u00c9.png", "but there is cafe\u0301.png: capitals, and how accents are stored, must be the same"),
        ("cafe\u0301.png ", "but there is cafe\u0301.png: .*blanks too"),
        (r"C:\Users\me\sub\0.png", r"but there is photos/sub/0\.png: name files .* on, such as sub/0\.png"),
        ("/home/me/sub/0.png", r"but there is photos/sub/0\.png: name files from the image folder on"),
        ("dead.png", "it is a link to /mnt/away/0.png, which is not there"),
    ):
        with pytest.raises(BadRecord, match=f"missing image: .*{words}"):
            prepare(own([records(1)[0] | {"image": name}]), "out", progress=False)


def test_every_image_is_decoded_once_in_whatever_order_its_records_come(own, monkeypatch):
    decoded = []
    read = complete.decode_image
    monkeypatch.setattr(complete, "decode_image", lambda image, name: decoded.append(name) or read(image, name))
    again = [record | {"phrase": "it"} for record in records(4)]
    prepare(own(records(4) + again), "out", progress=False)
    assert sorted(decoded) == [f"photos/{n}.png" for n in range(4)]
    prepare(own(records(4) + again), "embedded", progress=False, store="embedded")
    rows = open_table("embedded", "train", name="mine").rows
    assert [row["image"]["bytes"] for row in rows] == [Path(f"photos/{n}.png").read_bytes() for n in (0, 1, 2, 3) * 2]


@pytest.mark.parametrize("start", ["", "/"])
def test_a_name_of_thousands_of_folders_takes_no_time(own, start):
    source, began = own([records(1)[0] | {"image": start + "a/b/" * 20_000}]), time.perf_counter()
    with pytest.raises(BadRecord, match="missing image"):
        prepare(source, "out", progress=False)
    assert time.perf_counter() - began < 5


def test_a_mask_that_is_not_there_or_none_is_told_as_a_mask(own):
    Path("photos/m.png").write_bytes(b"junk")
    for name, words in (
        ("no.png", r"bad mask: .*there is no file photos/no\.png"),
        ("no.npy", r"bad mask: .*there is no file photos/no\.npy"),
        ("photos/m.png", r"bad mask: .*but there is photos/m\.png"),
        ("m.png", r"bad mask: .*photos/m\.png is not an image in a known format"),
        (".", "bad mask: .*cannot read the mask photos: .*is a folder"),
    ):
        with pytest.raises(BadRecord, match=words):
            prepare(own([records(1)[0] | {"image": "2.png", "mask": name}]), "out", progress=False)
