"""Streams of parquet shards: every sample once over all processes and workers, the same in every run."""

import multiprocessing
import signal

import pytest
import torch
from data_toys import make_refer
from torch.utils.data import DataLoader

from rec.data import prepare as preparation
from rec.data.dataset import RefCOCODataSet
from rec.data.images import ImageError
from rec.data.prepare import prepare
from rec.data.schema import BadRecord
from rec.data.sources import SourceError
from rec.data.stream import RefCOCOStream
from rec.data.tables import open_source
from rec.data.text import Vocabulary


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    make_refer(root, splits=("train",) * 10 + ("val",))
    preparation.SHARD_ROWS = 3
    try:
        prepare(
            open_source(root / "refcoco", name="refcoco"), root / "out", store="embedded", parquet=True, progress=False
        )
    finally:
        preparation.SHARD_ROWS = 10_000
    return root / "out"


def boxes(stream, workers=0):
    loader = DataLoader(stream, batch_size=3, num_workers=workers, collate_fn=stream.collate)
    before = signal.getsignal(signal.SIGCHLD)  # torch's own loader leaves a handler of it
    try:
        return [
            tuple(box.tolist()) for batch in loader for box in torch.cat([batch["box_pixels"], batch["geometry"]], 1)
        ]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_every_object_is_seen_once_over_all_processes_and_workers(shards):
    dataset = RefCOCODataSet("x", {"x": str(shards)}, input_shape=[64, 64])
    expected = sorted(
        tuple(torch.cat([s["box_pixels"], s["geometry"]]).tolist()) for s in (dataset[i] for i in range(20))
    )
    options = {"vocabulary": dataset.vocabulary, "input_shape": [64, 64], "processes": 2}
    for workers in (0, 2):
        parts = [boxes(RefCOCOStream(shards, rank=rank, **options), workers) for rank in range(2)]
        assert sorted(parts[0] + parts[1]) == expected
        assert all(parts)


def test_rows_without_the_masks_that_are_asked_for_are_told(tmp_path):
    make_refer(tmp_path, splits=("train", "val"))
    source = open_source(tmp_path / "refcoco", name="refcoco")
    prepare(source, tmp_path / "out", store="embedded", parquet=True, with_masks=False, progress=False)
    vocabulary = RefCOCODataSet("x", {"x": str(tmp_path / "out")}).vocabulary
    stream = RefCOCOStream(tmp_path / "out", vocabulary=vocabulary, input_shape=[64, 64], with_masks=True)
    with pytest.raises(ImageError, match=r"ref_id .* has no mask, .*--generate_mask"):
        next(iter(stream))


def test_a_pass_is_repeatable_and_epochs_differ(shards):
    vocabulary = RefCOCODataSet("x", {"x": str(shards)}).vocabulary
    stream, other = (RefCOCOStream(shards, vocabulary=vocabulary, input_shape=[64, 64], flip_lr=True) for _ in range(2))
    first, second = boxes(stream), boxes(other)
    assert first == second
    stream.set_epoch(1)
    assert boxes(stream) != first
    other.set_epoch(1)
    assert boxes(stream) == boxes(other)


def test_the_epoch_of_a_worker_is_its_own(shards):
    stream = RefCOCOStream(
        shards, vocabulary=RefCOCODataSet("x", {"x": str(shards)}).vocabulary, input_shape=[64, 64], buffer_size=50
    )
    stream.set_epoch(1)
    before = boxes(stream)
    worker = multiprocessing.get_context("fork").Process(target=stream.set_epoch, args=(7,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert boxes(stream) == before


def test_shards_that_are_not_there_are_named(shards, tmp_path):
    words = RefCOCODataSet("x", {"x": str(shards)}).vocabulary
    with pytest.raises(SourceError, match=r"no parquet shards of split 'test' .* it has train, val"):
        RefCOCOStream(shards, "test", vocabulary=words)
    assert RefCOCOStream(shards, "validation", vocabulary=words).__length_hint__() > 0
    make_refer(tmp_path)
    prepare(open_source(tmp_path / "refcoco", name="refcoco"), tmp_path / "plain", parquet=True, progress=False)
    with pytest.raises(SourceError, match=r"names the file .*must hold their pictures \(--store embedded\)"):
        next(iter(RefCOCOStream(tmp_path / "plain", vocabulary=words)))


@pytest.mark.parametrize("place", ["./nix", "../nix", "nix", "a/b/c", "folder/nix", "/nix/shards"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match=f"there is no folder {place}; expected"):
        RefCOCOStream(place, vocabulary=Vocabulary.build(["a"]))


def test_a_hub_data_set_that_cannot_be_had_is_named():
    with pytest.raises(SourceError, match="nobody/nothing is not a folder here, and as a Hub data set: "):
        RefCOCOStream("nobody/nothing", vocabulary=Vocabulary.build(["a"]))


def test_a_bad_row_of_a_shard_is_named(shards, tmp_path):
    from datasets import load_dataset

    vocabulary = RefCOCODataSet("x", {"x": str(shards)}).vocabulary
    rows = load_dataset("parquet", data_files=[str(file) for file in sorted(shards.glob("train-*"))], split="train")
    bad = rows.map(lambda row: row | {"bbox": [0.0, 0.0, 0.0, 0.0]} if row["ref_id"] == "3" else row)
    bad.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    stream = RefCOCOStream(tmp_path, vocabulary=vocabulary, input_shape=[64, 64], buffer_size=0)
    with pytest.raises(BadRecord, match=r"empty box: .*, ref_id 3, image_id 1: bbox"):
        list(stream)
