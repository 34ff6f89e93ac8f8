"""Training from a stream of parquet shards through ``scripts/train.py``: everything seen, exact after a restart."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from data_toys import make_refer

from rec.data import prepare as preparation
from rec.data.dataset import RefCOCODataSet
from rec.data.loader import StreamedBatches
from rec.data.stream import RefCOCOStream
from rec.data.tables import open_source

SHORT_SLEEP = 0.1  # datasets sleeps 5 s behind every pass over several shards
CONFIG = f"""
import datasets
from own_parts import OwnModel
from torch.optim import SGD

from rec.config import LazyCall, get_config
from rec.data.stream import streamed_split

train = get_config("common/train.py").train
dataset = LazyCall(streamed_split)(path="shards", vocabulary="vocab.json", input_shape=[32, 32], buffer_size=10)
model = LazyCall(OwnModel)(width=8)
optim = LazyCall(SGD)(lr=0.05, momentum=0.9)
train.output_dir, train.epochs, train.batch_size, train.warmup_epochs, train.log_period = "run", 3, 4, 1, 1
train.data.num_workers, train.trackers, train.multi_scale_training.enabled = 0, [], False
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = {SHORT_SLEEP}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """21 images with two objects each in training: 42 rows in 6 shards."""
    import datasets

    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = SHORT_SLEEP
    root = tmp_path_factory.mktemp("shards")
    make_refer(root, splits=("train",) * 21 + ("val",) * 3)
    preparation.SHARD_ROWS = 7
    try:
        source = open_source(root / "refcoco", name="refcoco")
        preparation.prepare(source, root / "shards", store="embedded", parquet=True, progress=False)
    finally:
        preparation.SHARD_ROWS = 10_000
    RefCOCODataSet("x", {"x": str(root / "shards")}, input_shape=[32, 32]).vocabulary.save(root / "vocab.json")
    return root


@pytest.fixture
def streaming(project, prepared):
    for name in ("shards", "vocab.json"):
        (project.folder / name).symlink_to(prepared / name)
    (project.folder / "stream.py").write_text(CONFIG, encoding="utf-8")
    project.config = "stream.py"
    return project


def test_a_stream_trains_evaluates_and_leaves_a_model_folder_that_names_its_data(streaming):
    output = streaming.run()
    assert "42 training samples, 30 updates of 4 = 4 per process x 1 x 1" in output
    evaluations = [record for record in streaming.metrics("run") if record["kind"] == "evaluation"]
    assert [(record["update"], record["count"]) for record in evaluations] == [(10, 9), (20, 9), (30, 9)]
    assert evaluations[-1]["mIoU"] > 0
    assert "refcoco" in (streaming.folder / "run/best/README.md").read_text(encoding="utf-8")


def test_a_stream_cannot_be_looked_at_by_number_but_its_evaluation_can(prepared, tmp_path, monkeypatch, call_script):
    for name in ("shards", "vocab.json"):
        (tmp_path / name).symlink_to(prepared / name)
    lines = [line for line in CONFIG.splitlines() if "Own" not in line and "SGD" not in line and "train." not in line]
    (tmp_path / "stream.py").write_text("\n".join([*lines, 'train = get_config("common/train.py").train']))
    monkeypatch.chdir(tmp_path)
    status, _, error = call_script("browse_data", "stream.py", "--out", "train.png")
    assert status == 2 and "split train is a stream" in error and "Traceback" not in error
    status, said, error = call_script("browse_data", "stream.py", "--split", "val", "--out", "val.png")
    assert status == 0 and "9 of 9 samples of split val" in said, error
    status, _, error = call_script("browse_data", "stream.py", "--split", "val", "--first", "9", "--out", "val.png")
    assert status == 2 and "--first 9: split val has 9 samples, numbered from 0" in error


@pytest.mark.parametrize("overrides", [[], ["train.data.num_workers=2", "train.num_accumulation_steps=2"]])
def test_a_stopped_run_continues_in_the_middle_of_the_stream_to_the_same_end(streaming, overrides):
    longer = [*overrides, "train.epochs=12", "train.checkpointer.period=7"]
    streaming.run(*longer, "train.output_dir=through")
    process = streaming.start(*longer)
    streaming.wait_for_update(process, 13)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert "continuing from" in streaming.run(*longer)
    assert streaming.hashes("run") == streaming.hashes("through")
    assert streaming.metrics("run") == streaming.metrics("through")


def test_two_processes_share_a_stream(streaming):
    output = streaming.run(processes=2)
    assert "30 updates of 4 = 2 per process x 2 x 1" in output
    assert [r["count"] for r in streaming.metrics("run") if r["kind"] == "evaluation"] == [9, 9, 9]


def keys(batches):
    """What tells the samples of a stream apart: boxes are the same two in every image, backgrounds differ."""
    samples = [
        (box, image) for batch in batches for box, image in zip(batch["box_pixels"], batch["image"], strict=True)
    ]
    return [(*box.round().tolist(), *image[0, 16, ::4].tolist()) for box, image in samples]


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_an_epoch_continues_from_any_update_with_the_batches_it_would_have_had(prepared, workers):
    stream = RefCOCOStream(str(prepared / "shards"), vocabulary=str(prepared / "vocab.json"), input_shape=[32, 32])
    batches = StreamedBatches(stream, 3, processes=1, accumulation=2, num_workers=workers)
    assert batches.updates_per_epoch == 7
    batches.set_position(1)
    whole = keys(batches.loader())
    assert len(whole) == 42
    for first in (1, 2, 5):
        batches.set_position(1, first)
        assert keys(batches.loader()) == whole[first * 6 :]
    batches.set_position(2)
    assert keys(batches.loader()) != whole


def test_an_epoch_of_one_process_without_workers_has_every_object_once(prepared):
    stream = RefCOCOStream(str(prepared / "shards"), vocabulary=str(prepared / "vocab.json"), input_shape=[32, 32])
    batches = StreamedBatches(stream, 3, processes=1, accumulation=1)
    batches.set_position(0)
    assert len(set(keys(batches.loader()))) == 42


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.data.num_workers=9", "the stream has 6 shards for each process"),
        ("train.data.share_images=true", "a stream does not tell which of its samples share an image"),
        ("dataset.path=/nowhere/at/all", "nowhere"),
        ("dataset.split=absent", "no parquet shards of split 'absent'"),
    ],
)
def test_what_a_stream_cannot_do_is_one_paragraph(streaming, refusal, override, message):
    assert message in refusal(override)
