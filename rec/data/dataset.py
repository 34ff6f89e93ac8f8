"""``RefCOCODataSet``: rows of a table to samples, samples to batches."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from rec import boxes
from rec.contracts import Words
from rec.data import masks
from rec.data.parts import Part, Parts
from rec.data.samples import SAMPLE_COLUMNS, TARGETS, SampleMaker, collate
from rec.data.saved import check_single
from rec.data.schema import boxes_of
from rec.data.sources import SourceError, find_split
from rec.data.spec import Paths, name_sources
from rec.data.subwords import PREFIX, Subwords, load_words
from rec.data.tables import RowReader, Table, UnknownSplit, open_table
from rec.data.text import Vocabulary, get_tokenizer
from rec.data.text_statistics import text_statistics
from rec.data.word_vectors import look_up_vectors, vector_words
from rec.files import digest
from rec.trust import MAX_TOKEN_LENGTH, is_below, split_name

logger = logging.getLogger(__name__)


class RefCOCODataSet(Dataset):
    """Samples of referring expression data, by index or by ``(epoch, index)``.

    In training (``sentence_sampling="per_object"``) a sample is an object with one of its sentences, drawn anew each
    epoch; in evaluation it is one (object, sentence) pair. Everything random is a function of (seed, epoch, index).

    A sample is a dict of tensors: ``image`` uint8 ``(3, S, S)`` RGB, letterboxed with 127; ``tokens`` int64 ``(L,)``, 0
    is padding; ``box`` float32 ``(4,)`` cxcywh as fractions of the square; ``geometry`` float32 ``(6,)``, see
    :mod:`rec.boxes`; ``box_pixels`` float32 ``(4,)`` xyxy in the original image (in training: in the augmented one);
    ``index`` int64 ``()``; ``image_key`` int64 ``()``, equal for samples of one ``image``; with masks ``mask`` uint8
    ``(1, S, S)``, 0-255; in training ``weight`` float32 ``()`` where the row says one. With ``targets="any"`` also ``boxes``
    and ``boxes_pixels`` ``(N, 4)``, which batches pad with zeros, and ``box_count`` int64 ``()``, N.

    Args:
        dataset: name of the data set, a key of ``ann_path``; a list of names concatenates them; a mapping from names to
            numbers is a mixture in which each object of a source is seen that many times per epoch (0.5: every second
            one, drawn anew each epoch; evaluation takes every object once).
        ann_path: name to source, or one source for all; see :func:`rec.data.tables.open_table`.
        image_path, mask_path: name to folder, or one folder.
        input_shape: ``[S, S]`` in pixels; only squares.
        flip_lr: mirror half of the training samples, with the phrase's left and right
            (:func:`~rec.data.text.mirror_phrase`); phrases that cannot be mirrored keep their image.
        transforms: SimREC's ToTensor and Normalize; accepted where it changes nothing, else refused: normalisation
            happens on the device with ``train.data.mean`` and ``train.data.std``.
        candidate_transforms: name to transform; one is drawn for each training sample. See :mod:`rec.data.augment`.
        max_token_length: words per sentence; more are cut. -1 takes the longest sentence of the split.
        use_glove: whether :attr:`pretrained_emb` holds word vectors, from ``word_vectors``.
        split: the data set's own name; ``"train+val"`` joins several.
        training: whether to sample as in training; by default for splits with ``train`` in them.
        vocabulary: :class:`~rec.contracts.Words` or the path of their file; by default built.
        vocabulary_from: ``"train"``; ``"all"`` to build it from all splits as the original does; ``"vectors"`` for the words of
            the training split and all others of the text file ``word_vectors``, which a model with frozen vectors can then
            be asked about though it was trained on none of their phrases.
        tokenizer: of a vocabulary that is built, and the spaCy pipeline that a vocabulary file may name; see
            :func:`rec.data.text.get_tokenizer`. ``"transformers:<folder or Hub id>"`` takes the tokenizer of a published
            language model (:class:`rec.data.subwords.Subwords`): nothing is built.
        word_vectors: spaCy pipeline, its folder, or a GloVe text file; see :mod:`rec.data.word_vectors`.
        sentence_sampling: ``"per_object"``, or ``"per_sentence"`` to see every sentence once per epoch in training.
        with_masks: whether samples hold a mask.
        label_clip: clip the four label fractions to ``[0, label_clip]``; the original clips to 0.99.
        hide: for blind baselines: ``"phrase"`` puts words at random in its place, ``"image"`` makes the image constant 127.
        allow_paths: whether masks (and images of a Hub data set) may lie anywhere, where records say so; see
            :func:`rec.data.prepare.prepare`.
        seed: of everything random.
        targets: ``"one"`` for phrases that name one object each; ``"any"`` for those that name none, one or several.
        share_images: mirroring and augmentation are drawn once for all phrases of an image in an epoch, so that they share it;
            training passes ``train.data.share_images``.

    Attributes:
        vocabulary: the :class:`~rec.contracts.Words`.
        fingerprint: digest of the data and of how it is sampled; equal for copies on other machines.
        content: the same to the last byte, with masks and images; "" where a table does not tell. Looks at every image file.
        available_splits: all splits of the sources.
        truncated: how many sentences of the split have more than ``max_token_length`` words or subwords.

    Raises:
        rec.data.sources.SourceError: unknown data set or split, broken files, or rows of none or several objects with
            ``targets="one"``.
        ValueError: an argument that cannot be right; names it.
    """

    accepts_epoch = True

    def __init__(
        self,
        dataset: str | Sequence[str] | Mapping[str, float] = "refcoco",
        ann_path: Paths = None,
        image_path: Paths = None,
        mask_path: Paths = None,
        input_shape: Sequence[int] = (416, 416),
        flip_lr: bool = False,
        transforms: object = None,
        candidate_transforms: Mapping[str, Any] | None = None,
        max_token_length: int = 15,
        use_glove: bool = False,
        split: str = "train",
        *,
        training: bool | None = None,
        vocabulary: Words | str | os.PathLike[str] | None = None,
        vocabulary_from: str = "train",
        tokenizer: str = "simrec",
        word_vectors: str | None = None,
        sentence_sampling: str = "per_object",
        with_masks: bool = False,
        label_clip: float | None = None,
        hide: str | None = None,
        allow_paths: bool = False,
        seed: int = 0,
        targets: str = "one",
        share_images: bool = False,
    ) -> None:
        # What is asked for, checked before a file is touched.
        _choice("targets", targets, TARGETS)
        _choice("sentence_sampling", sentence_sampling, ("per_object", "per_sentence"))
        _choice("vocabulary_from", vocabulary_from, ("train", "all", "vectors"))
        if len(input_shape) != 2 or input_shape[0] != input_shape[1]:
            raise ValueError(f"dataset.input_shape is {list(input_shape)}; expected a square such as [416, 416]")
        self.split = split
        self.training = "train" in split.split("+") if training is None else training
        self.use_glove, self.word_vectors, self.seed = use_glove, word_vectors, seed
        self._sources = name_sources(dataset, ann_path, image_path, mask_path)
        self._with_masks, self._allow_paths, self.targets = with_masks, allow_paths, targets
        # The tables, memory-mapped.
        opened = self._open([split_name(part) for part in split.split("+")])
        expanded = not self.training or sentence_sampling == "per_sentence"
        self._parts = Parts(opened, expanded, self.training, seed)
        self.available_splits = tuple(dict.fromkeys(s for part in self._parts for s in part.table.splits))
        # The words, and how many of them a phrase may have.
        if vocabulary is None:
            is_published = tokenizer.startswith(PREFIX)
            vocabulary = tokenizer if is_published else self._build_vocabulary(vocabulary_from, tokenizer)
        if isinstance(vocabulary, str | os.PathLike):
            vocabulary = load_words(vocabulary, tokenizer)
        self.vocabulary: Words = vocabulary
        splitter = self.vocabulary.identity if isinstance(self.vocabulary, Subwords) else self.vocabulary.tokenizer
        # By the tokenizer's rule alone: counts are kept for every vocabulary, and what a word is taken for depends on the others.
        is_list = isinstance(self.vocabulary, Vocabulary)
        rule = get_tokenizer(splitter) if is_list else self.vocabulary.tokens
        statistics = [text_statistics(part.table, splitter, rule) for part in self._parts]
        if is_list:
            self._tell_unknown(dict.fromkeys(word for s in statistics for word in s["words"]))
        reserved = self.vocabulary.reserved
        longest = max(len(s["lengths"]) - 1 for s in statistics) + reserved
        self.max_token_length = longest if max_token_length == -1 else max_token_length
        if not 1 <= self.max_token_length <= MAX_TOKEN_LENGTH:
            found = f", the longest sentence has {longest} words" if max_token_length == -1 else ""
            raise ValueError(
                f"dataset.max_token_length is {max_token_length}{found}; expected 1 to {MAX_TOKEN_LENGTH}, or -1 for the longest"
            )
        self.truncated = sum(sum(s["lengths"][max(0, self.max_token_length + 1 - reserved) :]) for s in statistics)
        if self.truncated:
            total = sum(sum(s["lengths"]) for s in statistics)
            room = f"{self.max_token_length} words"
            if isinstance(self.vocabulary, Subwords):
                room = f"{self.max_token_length - reserved} subwords"
            logger.info("%d of %d sentences of split %s are cut to %s", self.truncated, total, split, room)
        self._make = SampleMaker(
            self.vocabulary,
            size=int(input_shape[0]),
            max_token_length=self.max_token_length,
            training=self.training,
            flip_lr=flip_lr,
            transforms=transforms,
            candidate_transforms=candidate_transforms or {},
            with_masks=with_masks,
            label_clip=label_clip,
            hide=hide,
            targets=targets,
            share_images=share_images,
        )

    def _open(self, splits: Sequence[str]) -> list[Part]:
        """Opens the tables of all sources; in evaluation, a source of a mixture may lack a split that another one has."""
        parts: list[Part] = []
        missing = None
        for name, source in self._sources.items():
            for split in splits:
                try:
                    table = self._open_table(name, split)
                except UnknownSplit as error:
                    if self.training:
                        raise
                    missing = error
                    continue
                reader = RowReader(table.rows, [*SAMPLE_COLUMNS, "mask"] if self._with_masks else SAMPLE_COLUMNS)
                parts.append(Part(table, name, split, source.repeat, reader))
        if missing is not None and len({part.split for part in parts}) < len(set(splits)):
            raise missing
        return parts

    def _open_table(self, name: str, split: str) -> Table:
        source = self._sources[name]
        table = open_table(
            source.spec,
            split,
            name=name,
            image_path=source.image_path,
            mask_path=source.mask_path,
            with_masks=self._with_masks,
            allow_paths=self._allow_paths,
        )
        if not len(table.rows):
            raise SourceError(
                f"data set {name!r} has no object in split {split!r}: every record of it was left out, or there was none; "
                "prepare it again, and see what `rec prepare` says of that split"
            )
        if self._with_masks and (bare := table.rows.data.column("mask").null_count):
            raise ValueError(
                f"{bare} of {len(table.rows)} objects of {name}, split {split}, have no mask, but the model asks for "
                "masks: prepare the data with --generate_mask, or leave the source out"
            )
        if self.targets == "one":
            check_single(table.rows, f"data set {name!r}, split {split}")
        return table

    def _tell_unknown(self, words: Mapping[str, None]) -> None:
        """Warns where more than half of the words of the phrases have no id."""
        known = [not self.vocabulary.unknown(word) for word in words]
        if 2 * sum(known) < len(known):
            first = next(word for word, is_known in zip(words, known, strict=True) if not is_known)
            logger.warning(
                "%d of %d words of split %s are not in the vocabulary, and all the same to a model: the first is %r. Languages "
                "without blanks between words want a tokenizer of theirs (dataset.tokenizer=spacy:zh), others than a model has "
                "learnt an encoder of theirs (docs/language.md)",
                len(known) - sum(known), len(known), self.split, first[:40],
            )  # fmt: skip

    def _build_vocabulary(self, vocabulary_from: str, tokenizer: str) -> Vocabulary:
        words: dict[str, None] = {}
        for name in dict.fromkeys(part.name for part in self._parts):
            opened = {part.split: part.table for part in self._parts if part.name == name}
            splits = next(iter(opened.values())).splits
            train = find_split("train", splits)
            if train is None and vocabulary_from == "train":
                logger.warning("%s has no split train: its vocabulary is built from split %s", name, splits[0])
            for split in splits if vocabulary_from == "all" else [train or splits[0]]:
                table = opened.get(split) or self._open_table(name, split)
                words.update(dict.fromkeys(text_statistics(table, tokenizer, get_tokenizer(tokenizer))["words"]))
        if vocabulary_from == "vectors":
            words.update(dict.fromkeys(vector_words(self.word_vectors)))
        # Files with capitals have words such as PAD and CLS too.
        return Vocabulary(dict.fromkeys(["PAD", "UNK", "CLS", *words]), tokenizer)

    def __len__(self) -> int:
        return self._parts.samples

    @cached_property
    def fingerprint(self) -> str:
        content = [(p.table.fingerprint, p.split, p.repeat) for p in self._parts], self._parts.expanded, self.training
        return hashlib.sha256(repr(content).encode()).hexdigest()[:24]

    @cached_property
    def content(self) -> str:
        if not all(part.table.content for part in self._parts):
            return ""
        changed = [part.table.images.changed() if part.table.images else [] for part in self._parts]
        parts = [(p.table.content, found, p.split, p.repeat) for p, found in zip(self._parts, changed, strict=True)]
        return digest(repr((parts, self._parts.expanded, self.training)).encode())

    @cached_property
    def pretrained_emb(self) -> np.ndarray | None:
        """Word vectors of the vocabulary, float32 ``(len(vocabulary), D)``; None without ``use_glove``."""
        if not self.use_glove:
            return None
        return look_up_vectors(self.vocabulary, self.word_vectors, seed=self.seed)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
        """Samples of several keys; phrases of one image share its decoding."""
        asked = []
        for key in keys:
            epoch, index = key if isinstance(key, tuple) else (0, key)
            part, row, sentence = self._parts.locate(epoch, index)
            asked.append((part.table, part.reader[row], sentence, index, (self.seed, epoch, index)))
        decoded = self._make.met((table, row) for table, row, *_ in asked)
        return [self._make(*one, decoded) for one in asked]

    def collate(
        self, samples: Sequence[dict[str, torch.Tensor]], share_images: bool = False
    ) -> dict[str, torch.Tensor]:
        """Samples to a batch of tensors with a leading dimension B, in shared memory inside a worker.

        Args:
            samples: of this data set.
            share_images: put each image once; ``image`` is then ``(U, 3, S, S)``, U <= B, and ``image_index`` int64
                ``(B,)`` tells each row's image. Images are the same where their ``image_key`` is.
        """
        if not share_images:
            return collate(samples)
        unique: dict[int, int] = {}
        rows = [unique.setdefault(int(sample["image_key"]), len(unique)) for sample in samples]
        first = {row: sample["image"] for row, sample in zip(reversed(rows), reversed(samples), strict=True)}
        batch = collate([{key: sample[key] for key in sample if key != "image"} for sample in samples])
        return batch | {
            "image": default_collate([first[row] for row in range(len(unique))]),
            "image_index": torch.tensor(rows, dtype=torch.int64),
        }

    def describe(self, index: int) -> dict[str, Any]:
        """What sample ``index`` of evaluation is: ``image`` (path), ``image_id``, ``ref_id``, ``sentence_index``,
        ``sentence`` (None where a sentence is drawn), ``source``."""
        part, number, sentence = self._parts.locate(0, index)
        path, held, image_id, ref_id, sentences, source = part.told(number)
        return {
            "image": path if held else os.path.join(part.table.image_root, path),
            "image_id": image_id,
            "ref_id": ref_id,
            "sentence_index": sentence,
            "sentence": None if sentence is None else sentences[sentence],
            "source": source,
        }

    def reads(self, file: str | os.PathLike[str]) -> bool:
        """Whether writing ``file`` would change this data set: it is an annotation file, lies in a folder of them, or is a
        picture of the split.
        """
        import pyarrow.compute as pc

        places = [source.spec.path for source in self._sources.values()]
        if is_below(file, [place for place in places if os.path.exists(place)]):
            return True
        for part in self._parts:
            if is_below(file, {os.path.dirname(entry["filename"]) for entry in part.table.rows.cache_files}):
                return True
            paths = pc.struct_field(part.table.rows.data.column("image"), "path")
            for path in paths.filter(pc.ends_with(paths, os.path.basename(file))).to_pylist():
                picture = os.path.join(part.table.image_root, path)
                if os.path.exists(file) and os.path.exists(picture) and os.path.samefile(file, picture):
                    return True
        return False

    def target_boxes(self, index: int) -> tuple[np.ndarray, int, int]:
        """The true boxes of evaluation's sample ``index``, float32 ``(N, 4)`` xyxy in pixels, and the image's height and width;
        the image is not read."""
        part, number, _ = self._parts.locate(0, index)
        row = part.reader[number]
        found = boxes.xywh_to_xyxy(np.array(boxes_of(row), np.float64).reshape(-1, 4))
        return found.astype(np.float32), row["height"], row["width"]

    def picture(self, index: int) -> np.ndarray:
        """The image of evaluation's sample ``index``, uint8 ``(H, W, 3)`` RGB, as large as it is stored."""
        part, number, _ = self._parts.locate(0, index)
        return self._make.pixels(part.table, part.reader[number])

    def target_mask(self, index: int) -> np.ndarray | None:
        """The true mask of evaluation's sample ``index``, bool ``(H, W)`` at the original image's size; None where the
        row has none.
        """
        part, number, _ = self._parts.locate(0, index)
        rle = part.table.rows[number]["mask"]
        return None if rle is None else masks.decode(rle).astype(bool)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The values of the rows' ``source``: what a model trained on this data set has seen."""
        return tuple(sorted({source for part in self._parts for source in part.table.rows.unique("source")}))

    @cached_property
    def weighted_rows(self) -> int:
        """How many rows of the tables say their ``weight``."""
        columns = [p.table.rows.data.column("weight") for p in self._parts if "weight" in p.table.rows.column_names]
        return sum(len(column) - column.null_count for column in columns)

    def image_groups(self) -> np.ndarray:
        """int64 ``(len(self),)``: equal numbers for samples of the same image; for evaluation, and for training on sources that are
        seen a whole number of times (of others it is shorter)."""
        return self._parts.image_groups()


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"dataset.{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")
