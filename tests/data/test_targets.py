"""Phrases that name none, one or several objects, from rows to batches; tables of 0.1 are read as they were."""

import json

import numpy as np
import pytest
import torch
from data_toys import row, write_image
from datasets import Dataset, Features

from rec import boxes
from rec.config import ConfigError, LazyCall
from rec.contracts import Answer
from rec.data import masks
from rec.data.augment import Augmentation, RandAugment, RandomErasing
from rec.data.content import _content, fingerprint
from rec.data.dataset import RefCOCODataSet
from rec.data.saved import usable_rows
from rec.data.schema import FEATURES, BadRecord, boxes_of, validate_row
from rec.data.sources import SourceError
from rec.data.stream import RefCOCOStream
from rec.data.text import Vocabulary
from rec.training.build import build_model

COUNTS = (2, 0, 1, 3)
BOXES = [[10.0, 20, 30, 40], [60, 10, 20, 30], [90, 50, 25, 30]]
OLD = Features({name: FEATURES[name] for name in FEATURES if name not in ("boxes", "weight")})


def rows(folder, counts=COUNTS):
    write_image(folder / "a.jpg", 120, 90, BOXES[0])
    image = {"path": str(folder / "a.jpg"), "bytes": None}
    made = []
    for number, count in enumerate(counts):
        area = np.zeros((90, 120), np.uint8)
        for x, y, w, h in np.array(BOXES[:count], int).reshape(-1, 4):
            area[y : y + h, x : x + w] = 1
        named = {"boxes": BOXES[:count], "mask": masks.encode(area), "sentences": ["the things on the left"]}
        made.append(validate_row(row(image=image, ref_id=str(number), bbox=None, **named)))
    return made


def save(folder, made, features=FEATURES):
    table = Dataset.from_list([{name: one[name] for name in features} for one in made], features)
    table.save_to_disk(folder)
    return table


def open_as(folder, targets, **options):
    return RefCOCODataSet("mine", {"mine": str(folder)}, input_shape=[64, 64], targets=targets, **options)


def test_a_row_holds_every_box_and_the_first_one_again(tmp_path):
    several, none, one, _ = rows(tmp_path)
    assert several["boxes"] == BOXES[:2] and several["bbox"] == BOXES[0]
    assert none["boxes"] == [] and none["bbox"] is None and masks.check(none["mask"], 90, 120) == 0
    assert one["boxes"] == [one["bbox"]] == BOXES[:1]


FULL = masks.encode(np.ones((90, 120), np.uint8))
EMPTY = masks.encode(np.zeros((90, 120), np.uint8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boxes": [BOXES[0], [1, 2, 0, 4]]}, r"empty box: boxes\[1\] \[1, 2, 0, 4\] .* has width 0"),
        ({"boxes": [BOXES[0], [200, 2, 9, 4]]}, r"box outside image: boxes\[1\]"),
        ({"boxes": BOXES[0]}, r"bad box: boxes\[0\] is 10"),
        ({"boxes": "none"}, "bad box: boxes is 'none'; expected a list of boxes, empty where nothing is named"),
        ({"boxes": {"x": 1}}, "bad box: boxes is"),
        ({"boxes": [BOXES[0]] * 1001}, "too many boxes: 1,001 boxes; a record has at most 1,000"),
        ({"boxes": [], "mask": FULL}, "mask of nothing: .* covers 10800 pixels"),
        ({"boxes": BOXES, "mask": EMPTY}, "empty mask"),
        ({"boxes": None, "bbox": None}, "bad box: bbox is None and there are no boxes.* empty where nothing is named"),
        ({"boxes": BOXES[1:], "bbox": BOXES[0]}, "two different boxes: bbox is .* give one of the two"),
        ({"boxes": [], "bbox": BOXES[0]}, "two different boxes"),
    ],
)
def test_boxes_that_are_none_are_refused_by_their_number(changes, words):
    with pytest.raises(BadRecord, match=words):
        validate_row(row(bbox=None) | changes)


@pytest.mark.parametrize(
    "changes", [{"bbox": BOXES[2]}, {"boxes": [BOXES[0], [1, 2, 0, 4]]}, {"boxes": [], "mask": FULL}]
)
def test_a_saved_table_whose_boxes_were_edited_is_refused(tmp_path, changes):
    made = rows(tmp_path)
    assert usable_rows(save(tmp_path / "good", made), "raise", "good")
    made[0] |= changes
    with pytest.raises(BadRecord, match=r"bad, row 0 \(ref_id 0"):
        usable_rows(save(tmp_path / "bad", made), "raise", "bad")


def test_digests_of_rows_with_one_box_are_those_of_tables_without_boxes(tmp_path):
    made = rows(tmp_path, (1, 1))
    new, old = save(tmp_path / "new", made), save(tmp_path / "old", made, OLD)
    looks = {made[0]["image"]["path"]: (1, 1, "digest")}
    assert fingerprint(new) == fingerprint(old) and _content(new, looks) == _content(old, looks)
    more = save(tmp_path / "more", rows(tmp_path, (1, 2)))
    assert fingerprint(more) != fingerprint(old) and _content(more, looks) != _content(old, looks)


def test_a_table_without_boxes_gives_the_samples_of_one_with_them(tmp_path):
    made = rows(tmp_path, (1, 1))
    save(tmp_path / "new", made)
    save(tmp_path / "old", made, OLD)
    for targets in ("one", "any"):
        old, new = (open_as(tmp_path / name, targets, flip_lr=True, with_masks=True) for name in ("old", "new"))
        for index in range(2):
            first, second = old[(1, index)], new[(1, index)]
            assert first.keys() == second.keys()
            differing = [key for key in first if not torch.equal(first[key], second[key])]
            assert not set(differing) - {"image_key"}  # by which pictures of other tables are told apart
            assert ("boxes" in first) == (targets == "any")


def test_a_batch_pads_boxes_with_zeros_and_counts_them(tmp_path):
    save(tmp_path / "table", rows(tmp_path))
    dataset = open_as(tmp_path / "table", "any", split="train", training=False, with_masks=True)
    samples = dataset.__getitems__(range(4))
    for batch in (dataset.collate(samples), dataset.collate(samples, share_images=True)):
        assert batch["box_count"].tolist() == list(COUNTS) and batch["box_count"].dtype == torch.int64
        assert batch["boxes"].shape == batch["boxes_pixels"].shape == (4, 3, 4)
        for number, count in enumerate(COUNTS):
            expected = boxes.xywh_to_xyxy(np.array(BOXES[:count], np.float32).reshape(-1, 4))
            assert np.allclose(batch["boxes_pixels"][number, :count], expected)
            assert not batch["boxes"][number, count:].any() and not batch["boxes_pixels"][number, count:].any()
            found = boxes.from_letterbox(
                boxes.cxcywh_to_xyxy(batch["boxes"][number, :count]) * 64, batch["geometry"][number].expand(count, 6)
            )
            assert np.allclose(found, expected, atol=1e-3)
            assert torch.equal(batch["box"][number], batch["boxes"][number, 0])
            assert torch.equal(batch["box_pixels"][number], batch["boxes_pixels"][number, 0])
            assert bool(batch["mask"][number].any()) == (count > 0)
    assert dataset.collate([samples[1]])["boxes"].shape == (1, 1, 4)


def test_single_object_data_refuse_rows_of_none_and_several_with_the_remedy(tmp_path):
    save(tmp_path / "table", rows(tmp_path))
    words = r"data set 'mine', split train: 3 of 4 rows name no object or several, the first \(ref_id 0.*dataset.targets=any"
    with pytest.raises(SourceError, match=words):
        open_as(tmp_path / "table", "one")
    with pytest.raises(ValueError, match=r"dataset\.targets is 'many'; expected one of 'one', 'any'"):
        open_as(tmp_path / "table", "many")


def test_a_stream_gives_every_box_and_refuses_rows_it_cannot_use(tmp_path):
    from pyarrow import parquet

    (tmp_path / "shards").mkdir()
    made = [
        one | {"image": {"path": "a.jpg", "bytes": (tmp_path / "a.jpg").read_bytes()}} for one in rows(tmp_path, (2, 0))
    ]
    parquet.write_table(
        Dataset.from_list(made, FEATURES).data.table, tmp_path / "shards" / "train-00000-of-00001.parquet"
    )
    options = {"vocabulary": Vocabulary(["PAD", "UNK", "CLS", "left"]), "buffer_size": 0, "input_shape": (64, 64)}
    stream = RefCOCOStream(tmp_path / "shards", targets="any", **options)
    assert stream.collate(list(stream))["box_count"].tolist() == [2, 0]
    with pytest.raises(BadRecord, match=r"none or several boxes: .*ref_id 0.* has 2 boxes; dataset\.targets=any"):
        list(RefCOCOStream(tmp_path / "shards", **options))


WEIGHTS = [{"weight": 2}, {}, {"weight": 0.5}, {"weight": None}]


def weighted(folder, weights, suffix="jsonl"):
    write_image(folder / "a.jpg", 120, 90, BOXES[0])
    lines = [{"image": "a.jpg", "phrase": "the thing", "bbox": BOXES[0]} | weight for weight in weights]
    file = folder / f"own.{suffix}"
    if suffix == "csv":
        told = ["image,phrase,bbox,weight", *(f"a.jpg,the thing,10 20 30 40,{w.get('weight') or ''}" for w in weights)]
    else:
        told = [json.dumps(line) for line in lines]
    file.write_text("\n".join(told), encoding="utf-8")
    return {"mine": {"path": str(file), "bbox_format": "xywh"}}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_weights_of_own_lines_reach_training_batches_and_nothing_else(tmp_path, suffix):
    spec = weighted(tmp_path, WEIGHTS, suffix)
    training, evaluation = (RefCOCODataSet("mine", spec, split="train", training=t) for t in (True, False))
    batch = training.collate([training[(0, i)] for i in range(4)])
    assert batch["weight"].tolist() == [2, 1, 0.5, 1] and batch["weight"].dtype == torch.float32
    assert training.weighted_rows == 2 and "weight" not in training.collate([training[(0, 1)], training[(0, 3)]])
    assert "weight" not in evaluation.collate([evaluation[i] for i in range(4)])
    other = RefCOCODataSet("mine", weighted(tmp_path / "other", [{}, *WEIGHTS[1:]]), split="train")
    assert other.fingerprint != training.fingerprint  # a run is not continued with other weights


@pytest.mark.parametrize("weight", [0, -1, 1e-9, 2000, "heavy", True, [1]])
def test_a_weight_that_is_none_is_a_bad_record(tmp_path, weight):
    with pytest.raises(BadRecord, match=r"bad weight: .*expected a number from 0.001 to 1000"):
        RefCOCODataSet("mine", weighted(tmp_path, [{"weight": weight}]), split="train")


def test_tables_of_strangers_have_their_weights_checked(tmp_path):
    made = [one | {"weight": weight} for one, weight in zip(rows(tmp_path, (1, 1)), (1.5, -2.0), strict=True)]
    table = save(tmp_path / "table", made)
    with pytest.raises(BadRecord, match=r"bad weight: .*row 1 \(ref_id 1.*-2\.0"):
        usable_rows(table, "raise", "table")
    assert usable_rows(table, "skip", "table")["weight"] == [1.5]
    spec = {"mine": {"path": str(tmp_path / "table"), "on_bad_record": "skip"}}
    assert RefCOCODataSet("mine", spec, split="train")[(0, 0)]["weight"] == 1.5


def augmented(transform, count, seed):
    image, mask = np.full((240, 320, 3), 60, np.uint8), np.zeros((240, 320), np.uint8, order="F")
    several = np.array([[100.0, 80, 180, 150], [20, 20, 60, 70], [200, 100, 300, 200]])[:count]
    for left, top, right, bottom in several.astype(int):
        mask[top:bottom, left:right] = 1
    return Augmentation({"t": transform})(image, several, mask, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["RandAugment", "RandomErasing", "crop", "affine", "elastic"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_augmentations_carry_all_boxes_and_lose_none(name, count):
    import albumentations as A

    transform = {
        "RandAugment": RandAugment(3, 9),
        "RandomErasing": RandomErasing(1.0, (0.02, 0.2), (0.05, 8), "random"),
        "crop": A.RandomSizedBBoxSafeCrop(200, 300),
        "affine": A.Affine(scale=(0.6, 1.1), translate_percent=0.1, p=1),
        "elastic": A.ElasticTransform(p=1, alpha=30, sigma=8),
    }[name]
    changed = 0
    for seed in range(8):
        image, found, mask = augmented(transform, count, seed)
        assert found.shape == (count, 4)
        changed += image.shape != (240, 320, 3) or bool((image != 60).any())
        covered = np.zeros_like(mask)
        for left, top, right, bottom in found.round().astype(int):
            assert mask[top:bottom, left:right].mean() > 0.5
            covered[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4] = 1
        assert not (mask > covered).any()
    assert changed or name == "crop"


def test_one_box_is_augmented_the_same_alone_and_in_a_list():
    image, box = np.full((240, 320, 3), 60, np.uint8), np.array([100.0, 80, 180, 150])
    for seed in range(10):
        alone = Augmentation({"t": RandAugment(3, 9)})(image, box, None, np.random.default_rng(seed))
        listed = Augmentation({"t": RandAugment(3, 9)})(image, box[None], None, np.random.default_rng(seed))
        assert np.array_equal(alone[1], listed[1][0]) and np.array_equal(alone[0], listed[0])


class OneBox(torch.nn.Module):
    pass


class WithReason(torch.nn.Module):
    several = "softmax knows one winner"


@pytest.mark.parametrize(("kind", "words"), [(OneBox, "knows the batch's `box` alone"), (WithReason, "one winner")])
def test_a_model_that_knows_one_box_is_refused_before_it_trains_on_several(kind, words):
    from omegaconf import OmegaConf

    cfg = OmegaConf.create({"model": LazyCall(kind)()}, flags={"allow_objects": True})
    data = type("Data", (), {"targets": "any"})()
    with pytest.raises(ConfigError, match=rf"dataset\.targets=any, but this {kind.__name__} .*{words}"):
        build_model(cfg, data)
    data.targets, data.weighted_rows = "one", 2
    with pytest.raises(
        ConfigError, match=rf"2 rows of the data set have a weight, which this {kind.__name__} does not know"
    ):
        build_model(cfg, data)
    data.weighted_rows = 0
    assert isinstance(build_model(cfg, data), kind)


def test_an_answer_is_what_is_above_the_threshold_and_not_suppressed():
    found = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [60, 60, 70, 70]])
    scores = np.array([0.8, 0.9, 0.5, 0.1])
    assert Answer(0.5, 0.5).choose(found, scores) == [1, 2]
    assert Answer(0.5, 1.0).choose(found, scores) == [1, 0, 2]
    assert Answer(0.95).choose(found, scores) == []
    assert Answer.of_folder({"answer": Answer(0.3, 0.6, 50).to_folder()}) == Answer(0.3, 0.6, 50)
    assert Answer.of_folder({}) is None
    mask = np.zeros((4, 5), bool)
    assert not Answer().sees(mask)
    mask[0, :3] = True
    assert Answer(min_pixels=3).sees(mask) and not Answer(min_pixels=4).sees(mask)


def test_boxes_of_reads_rows_of_both_kinds():
    assert boxes_of({"bbox": [1, 2, 3, 4]}) == boxes_of({"bbox": None, "boxes": [[1, 2, 3, 4]]}) == [[1, 2, 3, 4]]
    assert boxes_of({"bbox": None, "boxes": []}) == []
