"""RefCOCODataSet: what a sample holds, and that randomness is a function of seed, epoch and index."""

import albumentations as A
import numpy as np
import pytest
import torch
from data_toys import make_jsonl, make_refer

from rec import boxes
from rec.data.dataset import RefCOCODataSet
from rec.data.loader import TrainingBatches, evaluation_loader, sharing_groups, training_loader
from rec.data.sources import SourceError
from rec.data.text import Vocabulary


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("refer")
    make_refer(root, splits=("train",) * 6 + ("val", "val", "testA"))
    return root


def open_dataset(root, split="train", **options):
    return RefCOCODataSet(
        "refcoco", ann_path={"refcoco": str(root / "refcoco")}, split=split, **{"input_shape": [64, 64]} | options
    )


def equal(sample, other):
    return sample.keys() == other.keys() and all(torch.equal(sample[key], other[key]) for key in sample)


def test_training_counts_objects_and_evaluation_sentences(root):
    assert len(open_dataset(root)) == 12
    assert len(open_dataset(root, sentence_sampling="per_sentence")) == 18
    assert len(open_dataset(root, "val")) == 6
    assert len(open_dataset(root, "val+testA")) == 9


def test_a_sample_is_as_documented(root):
    dataset = open_dataset(root, "val", with_masks=True)
    sample = dataset[0]
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in sample.items()}
    assert shapes == {
        "image": ((3, 64, 64), torch.uint8),
        "tokens": ((15,), torch.int64),
        "box": ((4,), torch.float32),
        "geometry": ((6,), torch.float32),
        "box_pixels": ((4,), torch.float32),
        "index": ((), torch.int64),
        "image_key": ((), torch.int64),
        "mask": ((1, 64, 64), torch.uint8),
    }
    assert sample["geometry"].tolist() == [100, 80, 64, 51, 6, 0]
    assert sample["box_pixels"].tolist() == [10.5, 20, 40.5, 45.5]
    assert (sample["image"][:, :, :6] == 127).all()
    corners = boxes.cxcywh_to_xyxy(sample["box"]) * 64
    assert torch.allclose(boxes.to_letterbox(sample["box_pixels"], sample["geometry"]), corners, atol=1e-4)


@pytest.mark.parametrize(
    "move", [A.Affine(translate_percent=(-0.4, 0.4), p=1.0), A.RandomSizedBBoxSafeCrop(40, 50, p=1.0)]
)
def test_phrases_that_share_an_image_move_with_it_as_each_would_alone(root, move):
    changes = {"share_images": True, "flip_lr": True, "candidate_transforms": {"move": move}}
    dataset = open_dataset(root, sentence_sampling="per_sentence", **changes)
    for epoch in range(6):
        keys = [(epoch, index) for index in range(len(dataset))]
        for together, key in zip(dataset.__getitems__(keys), keys, strict=True):
            alone = dataset[key]
            assert all(torch.equal(together[name], alone[name]) for name in alone), key


@pytest.mark.parametrize(
    "changes", [{}, {"flip_lr": True}, {"flip_lr": True, "candidate_transforms": {"grey": A.ToGray(3, p=0.5)}}]
)
def test_phrases_of_one_image_share_it_and_its_key_and_others_do_not(root, changes):
    dataset = open_dataset(root, sentence_sampling="per_sentence", share_images=True, **changes)
    shown = set()
    for epoch in range(20):
        samples = dataset.__getitems__([(epoch, index) for index in range(len(dataset))])
        groups = dataset.image_groups()
        for one, of_one in zip(samples, groups, strict=True):
            for other, of_other in zip(samples, groups, strict=True):
                same = torch.equal(one["image"], other["image"])
                assert same == bool(one["image_key"] == other["image_key"])
                assert same == (of_one == of_other)  # the toy's phrases can all be mirrored
        shown.add(samples[0]["image"].numpy().tobytes())
    assert len(shown) == {0: 1, 1: 2, 2: 4}[len(changes)]  # as it is, mirrored, grey, both


def test_image_mask_and_box_show_the_same_place(root):
    sample = open_dataset(root, "val", with_masks=True, input_shape=[128, 128])[2]  # the object drawn in red
    red = (sample["image"][0] > 150) & (sample["image"][1] < 110)
    for area in (red, sample["mask"][0] > 127):
        rows, columns = torch.nonzero(area, as_tuple=True)
        found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert torch.allclose(found, boxes.cxcywh_to_xyxy(sample["box"]) * 128, atol=1.5)


def test_describe_and_groups_tell_image_and_sentence(root):
    dataset = open_dataset(root, "val")
    told = [dataset.describe(i) for i in range(len(dataset))]
    assert [t["sentence_index"] for t in told] == [0, 1, 0, 0, 1, 0]
    assert [t["sentence"] for t in told][:3] == ["the left one", "red thing, on the left!", "right box"]
    assert told[0]["image"].endswith("images/train2014/COCO_train2014_000000000006.jpg")
    assert [t["ref_id"] for t in told] == ["12", "12", "13", "14", "14", "15"]
    assert dataset.image_groups().tolist() == [0, 0, 0, 1, 1, 1]


def test_phrases_of_one_image_share_its_decoding(root, monkeypatch):
    from rec.data import samples

    calls = []
    monkeypatch.setattr(samples, "read_image", lambda *a, read=samples.read_image: calls.append(a) or read(*a))
    dataset = open_dataset(root, "val")
    loader = evaluation_loader(dataset, batch_size=4)
    batches = list(loader)
    assert len(calls) == 2
    assert sum(len(batch["index"]) for batch in batches) == 6
    for batch in batches:
        whole = batch["image"][batch["image_index"]]
        for row, index in enumerate(batch["index"].tolist()):
            assert torch.equal(whole[row], dataset[index]["image"])


def test_what_is_random_is_a_function_of_seed_epoch_and_index(root):
    options = {"flip_lr": True, "candidate_transforms": {"RandAugment": _rand_augment()}, "seed": 3}
    one, other = open_dataset(root, **options), open_dataset(root, **options)
    assert all(equal(one[1, i], other[1, i]) for i in reversed(range(12)))
    assert not all(equal(one[1, i], one[2, i]) for i in range(12))
    assert not all(equal(one[1, i], open_dataset(root, **options | {"seed": 4})[1, i]) for i in range(12))


def _rand_augment():
    from rec.data.augment import RandAugment

    return RandAugment(2, 9)


@pytest.mark.parametrize("augmented", [False, True])
def test_workers_yield_the_same_samples_bit_for_bit(root, augmented):
    import albumentations as A

    options = {}
    if augmented:
        candidates = {
            "RandAugment": _rand_augment(),
            "ElasticTransform": A.ElasticTransform(p=1),
            "c": A.ColorJitter(p=1),
        }
        options = {"flip_lr": True, "candidate_transforms": candidates, "with_masks": True}
    dataset = open_dataset(root, **options)
    passes = []
    for workers in (0, 2):
        batches = TrainingBatches(len(dataset), 3, processes=1, rank=0, accumulation=1, seed=0)
        loader = training_loader(dataset, batches, num_workers=workers)
        passes.append([])
        for epoch in (0, 1):
            batches.set_position(epoch)
            passes[-1] += list(loader)
    assert len(passes[0]) == 8
    assert all(equal(one, other) for one, other in zip(*passes, strict=True))


def test_every_sentence_comes_up(root):
    dataset = open_dataset(root)
    tokens = {tuple(dataset[epoch, 0]["tokens"].tolist()) for epoch in range(20)}
    assert len(tokens) == 2


def test_flips_mirror_image_box_mask_and_words(root):
    plain, flipping = open_dataset(root, with_masks=True), open_dataset(root, with_masks=True, flip_lr=True)
    words = plain.vocabulary.words
    flips = 0
    for epoch in range(10):
        before, after = plain[epoch, 1], flipping[epoch, 1]  # "right box"
        said = [words[i] for i in after["tokens"] if i]
        if said == ["left", "box"]:
            flips += 1
            _height, width = after["geometry"][:2].tolist()
            assert torch.allclose(after["box_pixels"], boxes.flip_left_right(before["box_pixels"], width))
            assert (after["image"].flip(2).int() - before["image"].int()).abs().float().mean() < 12
            assert (after["mask"].flip(2).int() - before["mask"].int()).abs().float().mean() < 12
        else:
            assert equal(before, after)
    assert 0 < flips < 10


def test_evaluation_is_never_augmented(root):
    options = {"flip_lr": True, "candidate_transforms": {"RandAugment": _rand_augment()}}
    vocabulary = open_dataset(root).vocabulary
    plain = open_dataset(root, "val", vocabulary=vocabulary)
    assert equal(open_dataset(root, "val", vocabulary=vocabulary, **options)[1], plain[1])


def test_the_original_label_clip(tmp_path):
    rows = [{"image": "a.jpg", "phrase": "all of it", "bbox": [0, 0, 120, 90]}]
    file = make_jsonl(tmp_path, rows)
    for clip, expected in ((None, [0.5, 0.5, 1, 0.75]), (0.99, [0.5, 0.5, 0.99, 0.75])):
        dataset = RefCOCODataSet(
            "mine", {"path": str(file), "bbox_format": "xywh"}, input_shape=[64, 64], label_clip=clip
        )
        assert dataset[0]["box"].tolist() == pytest.approx(expected)


def test_blind_baselines_hide_the_phrase_or_the_image(root):
    for options in ({}, {"split": "val"}):
        sample, again, seen = (
            open_dataset(root, hide=hide, **options)[0]["tokens"] for hide in ("phrase", "phrase", None)
        )
        assert torch.equal(sample, again) and not torch.equal(sample, seen) and sample.all()
    for options in ({}, {"flip_lr": True}):
        assert (open_dataset(root, hide="image", **options)[0]["image"] == 127).all()
    with pytest.raises(ValueError, match=r"dataset\.hide"):
        open_dataset(root, hide="box")


def test_the_vocabulary_is_of_the_training_split_or_of_all(tmp_path):
    make_refer(tmp_path, splits=("train", "val"), sentences={2: ["unseen animal"], 3: ["right box"]})
    train = open_dataset(tmp_path).vocabulary
    assert "animal" not in train.words
    assert open_dataset(tmp_path, "val").vocabulary == train
    assert "animal" in open_dataset(tmp_path, vocabulary_from="all").vocabulary.words
    assert open_dataset(tmp_path, "val")[0]["tokens"].tolist()[:3] == [1, 1, 0]


def test_the_vocabulary_of_training_is_the_same_whatever_read_the_phrases_before(tmp_path):
    make_refer(tmp_path, splits=("train",), sentences={0: ["the man\u2019s hat"]})
    open_dataset(tmp_path, vocabulary=Vocabulary(["PAD", "UNK", "CLS", "the", "mans"]))
    assert "man\u2019s" in open_dataset(tmp_path).vocabulary.words


def test_words_that_no_vocabulary_of_the_run_has_are_told(tmp_path, caplog):
    make_refer(
        tmp_path, splits=("train", "val"), sentences={2: ["\u5de6\u8fb9\u7684\u732b"], 3: ["\u7ea2\u8272\u7684\u8f66"]}
    )
    open_dataset(tmp_path)
    assert not caplog.text
    open_dataset(tmp_path, "val")
    assert "2 of 2 words of split val are not in the vocabulary" in caplog.text and "\u5de6\u8fb9" in caplog.text


def test_vectors_with_capitals_may_have_the_names_of_reserved_words(tmp_path):
    make_refer(tmp_path)
    (tmp_path / "cased.vec").write_text("4 2\nthe 1 2\nPAD 3 4\nUNK 5 6\ngiraffe 7 8\n", encoding="utf-8")
    vectors = {"word_vectors": str(tmp_path / "cased.vec"), "use_glove": True}
    opened = open_dataset(tmp_path, vocabulary_from="vectors", **vectors)
    words = opened.vocabulary.words
    assert words[:3] == ("PAD", "UNK", "CLS") and words.count("PAD") == words.count("giraffe") == 1
    assert opened.pretrained_emb[words.index("giraffe")].tolist() == [7, 8]


def test_an_evaluation_split_opened_alone_knows_the_words_of_training(tmp_path, caplog):
    scenes = {"path": "scenes", "count": {"train": 4, "val": 1, "test": 1}, "size": 64}
    opened = [RefCOCODataSet("scenes", {"scenes": scenes}, split=split) for split in ("val", "train")]
    assert opened[0].vocabulary == opened[1].vocabulary
    assert opened[0].available_splits == ("train", "val", "test") and not caplog.records
    make_refer(tmp_path, splits=("val", "testA"))
    assert "no split train: its vocabulary is built from split val" in [open_dataset(tmp_path, "val"), caplog.text][1]


def test_truncated_sentences_are_counted(root, caplog):
    with caplog.at_level("INFO"):
        dataset = open_dataset(root, max_token_length=3)
    assert dataset.truncated == 6
    assert "6 of 18 sentences of split train are cut to 3 words" in caplog.text
    assert len(open_dataset(root, max_token_length=-1)[0]["tokens"]) == 5


def test_errors_name_what_there_is(root, tmp_path):
    with pytest.raises(SourceError, match="no split 'testB'; it has train, val, testA"):
        open_dataset(root, "testB")
    with pytest.raises(ValueError, match=r"'refcocog', which dataset\.ann_path does not have; it has refcoco"):
        RefCOCODataSet("refcocog", ann_path={"refcoco": str(root / "refcoco")})
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        RefCOCODataSet("refcoco", ann_path={"refcoco": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="square"):
        open_dataset(root, input_shape=[416, 320])
    with pytest.raises(IndexError):
        open_dataset(root)[12]


def test_an_image_that_vanishes_is_named_with_its_record(tmp_path):
    make_refer(tmp_path)
    dataset = open_dataset(tmp_path)
    (tmp_path / "images" / "train2014" / "COCO_train2014_000000000000.jpg").unlink()
    with pytest.raises(ValueError, match=r"000000000000\.jpg.*ref_id 0"):
        dataset[0]


def test_an_image_that_is_cut_after_preparation_is_named_with_its_record(tmp_path):
    make_refer(tmp_path)
    dataset = open_dataset(tmp_path)
    file = tmp_path / "images" / "train2014" / "COCO_train2014_000000000000.jpg"
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"000000000000\.jpg.*truncated.*ref_id 0"):
        dataset[0]


def test_lists_concatenate_and_mappings_mix(root, tmp_path):
    make_refer(tmp_path, name="refcoco+", splits=("train",) * 4 + ("val",))
    paths = {"refcoco": str(root / "refcoco"), "refcoco+": str(tmp_path / "refcoco+")}
    joined = RefCOCODataSet(["refcoco", "refcoco+"], paths, input_shape=[64, 64])
    assert len(joined) == 12 + 8
    assert {joined.describe(i)["source"] for i in (0, 19)} == {"refcoco", "refcoco+"}
    mixed = RefCOCODataSet({"refcoco": 2, "refcoco+": 0.5}, paths, input_shape=[64, 64])
    assert len(mixed) == 24 + 4
    seen = [tuple(sorted(int(mixed._parts.locate(epoch, i)[1]) for i in range(24, 28))) for epoch in range(20)]
    assert all(len(set(rows)) == 4 for rows in seen)
    assert {row for rows in seen for row in rows} == set(range(8))
    assert len(set(seen)) > 1
    with pytest.raises(ValueError, match=r"set train\.data\.share_images=false, or whole numbers in dataset\.dataset"):
        sharing_groups(mixed)
    with pytest.raises(
        ValueError, match=r"with refcoco twice: name it once, or how often each is seen, \{refcoco: 2\}"
    ):
        RefCOCODataSet(["refcoco", "refcoco+", "refcoco"], paths, input_shape=[64, 64])
    twice = RefCOCODataSet({"refcoco": 2, "refcoco+": 1}, paths, input_shape=[64, 64])
    groups, images = twice.image_groups(), [(d["source"], d["image"]) for d in map(twice.describe, range(len(twice)))]
    assert len(groups) == len(twice) and len(set(zip(groups.tolist(), images, strict=True))) == len(
        set(groups.tolist())
    )
    evaluation = RefCOCODataSet({"refcoco": 2, "refcoco+": 0.5}, paths, split="val", input_shape=[64, 64])
    assert len(evaluation) == 6 + 3
    assert len(RefCOCODataSet(["refcoco", "refcoco+"], paths, split="testA", input_shape=[64, 64])) == 3
    with pytest.raises(SourceError, match="no split 'testB'"):
        RefCOCODataSet(["refcoco", "refcoco+"], paths, split="testB", input_shape=[64, 64])


def test_the_fingerprint_is_of_the_content_not_of_the_place(root, tmp_path):
    make_refer(tmp_path, splits=("train",) * 6 + ("val", "val", "testA"))
    assert open_dataset(tmp_path).fingerprint == open_dataset(root).fingerprint
    assert open_dataset(tmp_path, "val").fingerprint != open_dataset(root).fingerprint


def test_masks_are_asked_for_in_vain_with_a_message(tmp_path):
    file = make_jsonl(tmp_path, [{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, 30, 40]}])
    with pytest.raises(ValueError, match="1 of 1 objects of mine, split train, have no mask"):
        RefCOCODataSet("mine", {"path": str(file), "bbox_format": "xywh"}, with_masks=True)


def test_the_manuals_transforms_are_taken_and_others_refused(root):
    from torchvision import transforms as T

    manual = T.Compose([T.ToTensor(), T.Normalize([0.0] * 3, [1.0] * 3)])
    assert equal(open_dataset(root, "val", transforms=manual)[0], open_dataset(root, "val")[0])
    with pytest.raises(ValueError, match=r"train\.data\.mean"):
        open_dataset(root, transforms=T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.2] * 3)]))


def test_a_data_set_survives_being_sent_to_another_process(root):
    import pickle

    dataset = open_dataset(root, "val")
    assert equal(pickle.loads(pickle.dumps(dataset))[4], dataset[4])


def test_memory_per_row_is_a_few_bytes(root):
    dataset = open_dataset(root, "val")
    held = [value for part in dataset._parts for value in vars(part).values() if isinstance(value, list | np.ndarray)]
    assert sum(np.asarray(value).nbytes for value in held) <= 8 * (len(dataset._parts.parts[0].table.rows) + 1)


def two_pictures_of_one_id():
    """Rows with embedded pictures, a black and a white one, of one image id and one file name."""
    import cv2
    from data_toys import row
    from datasets import Dataset

    from rec.data.schema import FEATURES

    files = [cv2.imencode(".png", np.full((90, 120, 3), shade, np.uint8))[1].tobytes() for shade in (0, 255)]
    images = [{"path": "a.png", "bytes": data} for data in files]
    rows = [row(image=images[n % 2], ref_id=str(n)) for n in range(4)]
    return Dataset.from_list(rows, FEATURES)


def test_every_row_shows_its_own_picture_whatever_its_image_id(tmp_path):
    from rec.data.cleaning import Report
    from rec.data.store import store_images, stored_rows

    table = two_pictures_of_one_id()
    table.save_to_disk(tmp_path / "table")
    for options in ({}, {"split": "train", "training": False}):
        dataset = RefCOCODataSet("mine", {"mine": str(tmp_path / "table")}, input_shape=[64, 64], **options)
        samples = dataset.__getitems__(range(4))
        assert [int(sample["image"][0, 32, 32]) for sample in samples] == [0, 255, 0, 255]
        assert samples[0]["image"] is samples[2]["image"]
        assert dataset.collate(samples, share_images=True)["image_index"].tolist() == [0, 1, 0, 1]
    for kind in ("letterboxed", "raw"):
        (tmp_path / kind / ".partial").mkdir(parents=True)
        names, broken = store_images({"train": table}, "", tmp_path / kind, kind, 64, "raise", False)
        assert len(names) == 2 and not broken
        stored = [stored["image"]["path"] for stored in stored_rows(table, names, broken, Report())]
        assert stored[0] == stored[2] != stored[1] == stored[3]


def test_pictures_that_share_an_id_are_refused_at_preparation_and_both_searched_for_leaks(tmp_path):
    from rec.data.leakage import ImageIndex
    from rec.data.prepare import prepare
    from rec.data.schema import BadRecord
    from rec.data.sources.foreign import open_foreign
    from rec.data.tables import Table

    rows = two_pictures_of_one_id()
    source = open_foreign({"train": rows}, "mine")
    with pytest.raises(BadRecord, match=r"two images of one id: .*sha256:"):
        prepare(source, tmp_path / "out", progress=False)
    index = ImageIndex()
    index.add(Table(rows, "", "", ("train",)), "there")
    for row in rows:
        assert index.find(row | {"image_id": "other"}) == "there, by content"
