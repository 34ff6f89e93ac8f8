"""What a table holds is known by its content: the same in every place, another once a row or an image is edited."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from data_toys import make_refer, write_image
from datasets import Dataset, load_from_disk
from datasets.arrow_writer import ArrowWriter

from rec.data import content
from rec.data.content import fingerprint
from rec.data.dataset import RefCOCODataSet
from rec.data.prepare import prepare
from rec.data.schema import FEATURES
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table

STORES = {
    "plain": {},
    "embedded": {"store": "embedded"},
    "letterboxed": {"store": "letterboxed", "size": 96},
    "raw": {"store": "raw", "size": 96},
    "parquet": {"store": "embedded", "parquet": True},
}


def prepared(root: Path, store: str = "plain") -> Path:
    """A REFER folder below ``root``, prepared; every file is old enough that its time tells of changes."""
    make_refer(root)
    prepare(open_source(root / "refcoco", name="refcoco"), root / "out", progress=False, **STORES[store])
    age(root)
    return root / "out"


def age(root: Path) -> None:
    """Sets the times of all files back by an hour, as if nobody had touched them since."""
    for path in root.rglob("*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))


def opened(folder: Path, split: str = "train") -> RefCOCODataSet:
    """As a new process would open it."""
    images = folder.parent / "images" / "train2014"
    return RefCOCODataSet("refcoco", {"refcoco": str(folder)}, str(images), split=split, input_shape=[64, 64])


def known(folder: Path, split: str = "train") -> tuple[str, str]:
    dataset = opened(folder, split)
    return dataset.fingerprint, dataset.content


@pytest.fixture
def reads(monkeypatch):
    """The names of files whose content was read, in order."""
    names = []
    digest = content.digest

    def noted(subject):
        if not isinstance(subject, bytes):
            names.append(Path(subject).name)
        return digest(subject)

    monkeypatch.setattr(content, "digest", noted)
    return names


def edit_rows(folder: Path, change) -> None:
    """Rewrites the rows of split train by ``change``."""
    if list(folder.glob("train-*.parquet")):
        (file,) = folder.glob("train-*.parquet")
        table = Dataset.from_parquet(str(file))
        table.map(change).to_parquet(str(file))
    else:
        (file,) = (folder / "train").glob("*.arrow")
        rows = [change(row) for row in Dataset.from_file(str(file)).to_list()]
        with ArrowWriter(path=f"{file}.new", features=FEATURES) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        os.replace(f"{file}.new", file)


@pytest.mark.parametrize("store", STORES)
def test_a_copy_in_another_place_is_the_same_and_read_once(tmp_path, reads, store):
    first = known(prepared(tmp_path / "a", store))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # with times of its own
    age(tmp_path / "b")
    reads.clear()
    assert known(tmp_path / "b" / "out") == first
    assert len([name for name in reads if name.endswith((".arrow", ".parquet"))]) >= 1
    assert len([name for name in reads if name.endswith((".jpg", ".u8"))]) == {
        "plain": 2,
        "letterboxed": 2,
        "raw": 1,
    }.get(store, 0)
    reads.clear()
    assert known(tmp_path / "b" / "out") == first
    assert [name for name in reads if not name.startswith("image_digests")] == [], "the second start reads no content"


@pytest.mark.parametrize("store", ["plain", "parquet"])
@pytest.mark.parametrize(
    "change",
    [
        lambda row: row | {"sentences": [text.replace("left", "big") for text in row["sentences"]]},
        lambda row: row | {"category": "other"},  # of no account to the fingerprint of old
    ],
)
def test_edited_rows_are_noticed(tmp_path, caplog, store, change):
    folder = prepared(tmp_path, store)
    before, evaluated = known(folder), known(folder, "val")
    assert not caplog.records
    edit_rows(folder, change)
    after = known(folder)
    assert after[1] != before[1] and "its rows are not those that were prepared" in caplog.text
    assert (after[0] != before[0]) == ("big" in str(opened(folder)._parts.parts[0].table.rows[0]["sentences"]))
    assert known(folder, "val") == evaluated, "another split is another matter"


def test_one_bit_of_the_rows_is_noticed_though_size_and_content_look_the_same(tmp_path, caplog):
    folder = prepared(tmp_path)
    before = known(folder)
    (file,) = (folder / "train").glob("*.arrow")
    data = bytearray(file.read_bytes())
    place = data.index(b"thing")  # a category
    data[place] ^= 1
    file.write_bytes(data)
    assert known(folder)[1] != before[1] and "edited or damaged" in caplog.text


def test_an_edited_image_is_noticed_and_a_touched_one_is_read_once(tmp_path, reads, caplog):
    folder = prepared(tmp_path)
    before, evaluated = known(folder), known(folder, "val")
    (image,) = (tmp_path / "images" / "train2014").glob("*001.jpg")
    kept = image.read_bytes()
    os.utime(image, (10**9, 10**9))  # touched
    for expected in ([image.name], []):
        reads.clear()
        assert known(folder) == before and [name for name in reads if name.endswith(".jpg")] == expected
    assert not caplog.records
    write_image(image, 80, 100, seed=99)
    after = known(folder)
    assert after[0] == before[0] and after[1] != before[1] and known(folder, "val") == evaluated
    assert f"1 of 2 image files of {folder}, split train, are not those" in caplog.text and "edited" in caplog.text
    image.unlink()
    assert known(folder)[1] not in (before[1], after[1]) and "not there" in caplog.text
    image.write_bytes(kept)
    assert known(folder) == before


@pytest.mark.parametrize(("store", "file"), [("letterboxed", "images/0000/0000000.jpg"), ("raw", "images.u8")])
def test_an_edited_store_is_noticed(tmp_path, caplog, store, file):
    folder = prepared(tmp_path, store)
    before = known(folder)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    assert known(folder)[1] != before[1] and file.rpartition("/")[2] in caplog.text


def test_the_content_is_of_the_rows_and_pictures_not_of_files_and_places(tmp_path):
    plain, embedded = prepared(tmp_path / "a"), prepared(tmp_path / "b", "embedded")
    assert known(plain) == known(embedded), "the same pictures, in files or in the table"
    stored = known(prepared(tmp_path / "c", "letterboxed"))
    assert stored[0] == known(plain)[0] and stored[1] != known(plain)[1], "smaller pictures are other pictures"
    source = open_source(tmp_path / "a" / "refcoco", name="refcoco")
    prepare(source, tmp_path / "a" / "bare", with_masks=False, progress=False)
    assert known(tmp_path / "a" / "bare")[1] != known(plain)[1], "masks belong to it"


def as_version_1(folder: Path) -> None:
    """What version 0.1 wrote: no digests."""
    for file in folder.glob("image_digests-*.arrow"):
        file.unlink()
    info = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    for entry in info["splits"].values():
        del entry["content"], entry["files"]
    (folder / "prepared.json").write_text(json.dumps(info), encoding="utf-8")


def test_a_table_of_the_version_before_keeps_its_fingerprint_and_edited_rows_are_noticed(tmp_path, caplog, monkeypatch):
    folder = prepared(tmp_path)
    before = known(folder)
    as_version_1(folder)
    old = known(folder)
    assert old[0] == before[0] and old[1].strip() and old[1] != before[1]
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder} was prepared by an earlier version: edited images are not noticed"
    ]
    monkeypatch.setattr(content, "fingerprint", lambda rows: pytest.fail("its rows are compared once"))
    assert known(folder) == old
    monkeypatch.undo()
    edit_rows(folder, lambda row: row | {"sentences": ["other"]})
    assert known(folder)[0] != old[0] and "its rows are not those that were prepared" in caplog.text


def test_saved_tables_of_anybodys_are_known_by_their_files(tmp_path):
    rows = open_table({"path": str(prepared(tmp_path, "embedded"))}, "train", name="refcoco").rows
    for kind in ("parquet", "saved"):
        for place in ("one", "two"):
            (tmp_path / kind / place).mkdir(parents=True)
        if kind == "parquet":
            rows.to_parquet(str(tmp_path / kind / "one" / "train.parquet"))
        else:
            rows.save_to_disk(str(tmp_path / kind / "one"))
        shutil.copytree(tmp_path / kind / "one", tmp_path / kind / "two", dirs_exist_ok=True)
        one, two = (open_table(tmp_path / kind / place, "train", name="own") for place in ("one", "two"))
        assert one.content == two.content != ""
        changed = Dataset.from_list([row | {"category": "x"} for row in rows.to_list()], features=rows.features)
        if kind == "parquet":
            changed.to_parquet(str(tmp_path / kind / "two" / "train.parquet"))
        else:
            shutil.rmtree(tmp_path / kind / "two")
            changed.save_to_disk(str(tmp_path / kind / "two"))
        assert open_table(tmp_path / kind / "two", "train", name="own").content != one.content


def test_a_damaged_cache_costs_a_look_and_nothing_else(tmp_path, reads):
    from datasets import config

    folder = prepared(tmp_path)
    before = known(folder)
    for file in Path(config.HF_DATASETS_CACHE, "rec").iterdir():
        if file.name.startswith(("files-", "images-", "rows-")):
            file.write_bytes(b"\xff\x00[" if len(file.name) % 2 else b'{"a": 3}')
    reads.clear()
    assert known(folder) == before and reads


def test_what_was_just_written_is_read_again_until_its_time_tells(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(content, "_SETTLED_NS", 3600 * 10**9)  # on a busy machine two seconds are soon over
    make_refer(tmp_path)
    prepare(open_source(tmp_path / "refcoco", name="refcoco"), tmp_path / "out", progress=False)
    before = known(tmp_path / "out")
    (image,) = (tmp_path / "images" / "train2014").glob("*000.jpg")
    status, size = image.stat(), image.stat().st_size
    data = bytearray(image.read_bytes())
    data[-30] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size in the same tick of the clock
    assert image.stat().st_size == size and known(tmp_path / "out")[1] != before[1]


def test_the_fingerprint_is_what_version_0_1_recorded():
    corpus = Path(__file__).parents[1] / "compat" / "0.1" / "tables" / "scenes"
    recorded = json.loads((corpus / "prepared.json").read_text(encoding="utf-8"))["splits"]["train"]["fingerprint"]
    assert fingerprint(load_from_disk(str(corpus / "train"))) == recorded


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING)


def test_notes_of_images_that_are_damaged_are_said_to_be(tmp_path):
    folder = prepared(tmp_path)
    manifest = folder / "image_digests-train.arrow"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"image_digests-train\.arrow is damaged .*prepare the data again"):
        _ = opened(folder).content
