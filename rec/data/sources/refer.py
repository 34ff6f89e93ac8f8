"""REFER files: RefCOCO, RefCOCO+, RefCOCOg, RefClef (ReferItGame), gRefCOCO, and anything else in their layout.

Format (https://github.com/lichengunc/refer): a folder with ``instances.json`` (COCO: images, annotations, categories)
and one or more ``refs(<split_by>).p``, pickled lists of ``{ref_id, ann_id, image_id, category_id, split, sentences:
[{sent, raw, tokens, sent_id}]}``. An image's file name is in ``instances.json``; ``refs[].file_name`` is something
else.

gRefCOCO (Liu et al., "GRES", CVPR 2023; https://github.com/henghuiding/gRefCOCO) has ``grefs(<split_by>).json`` in place of
the pickle: the same list as JSON, ``ann_id`` an id or a list of them, ``[-1]`` where the phrases name nothing, and
``category_id`` likewise. Annotations of crowds (``iscrowd``) are left out there, as in the published loader, and counted.
"""

import functools
import io
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from rec.data.schema import BadRecord, attempt, shown
from rec.data.sources import ById, Source, SourceError, load_json, read_annotations
from rec.trust import is_split_name

# The splits everybody reports on, for folders that hold several refs files.
USUAL_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc", "referit": "unc"}
# Broken files of the SAIAPR TC-12 images; SimREC and others skip them.
BROKEN_REFCLEF_IMAGES = frozenset({"19579.jpg", "17975.jpg", "19575.jpg"})
# Refs of each split of the published files.
SPLIT_COUNTS = {
    "refcoco_unc": {"train": 42404, "val": 3811, "testA": 1975, "testB": 1810},
    "refcoco_google": {"train": 40000, "val": 5000, "test": 5000},
    "refcoco+_unc": {"train": 42278, "val": 3805, "testA": 1975, "testB": 1798},
    "refcocog_umd": {"train": 42226, "val": 2573, "test": 5023},
    "refcocog_google": {"train": 44822, "val": 5000},
}
_REFS_FILE = re.compile(r"(?P<general>g)?refs\((?P<by>.+)\)\.(?(general)json|p)")
_IMAGE_FOLDERS = {"refclef": ("saiapr_tc-12", "refclef"), "referit": ("saiapr_tc-12", "refclef")}


def count_warnings(name: str, rows: dict[str, int]) -> list[str]:
    """Warnings where the refs per split differ from the published counts.

    Args:
        name: data set and split_by, ``refcoco_unc``.
        rows: split to number of refs. Fewer than half of all published refs is taken for a sample: no warnings.
    """
    expected = SPLIT_COUNTS.get(name, {})
    if 2 * sum(rows.values()) < sum(expected.values()):
        return []
    return [
        f"{rows.get(split, 0)} refs in split {split} of {name}; the published files have {count}"
        for split, count in expected.items()
        if rows.get(split, 0) != count
    ]


# Opcodes of lists, dicts, tuples, texts and numbers, all that such files hold. Those that name a class or a function are
# not there, so nothing can run.
_PLAIN = (
    pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE + pickle.INT
    + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG + pickle.LONG1 + pickle.FLOAT + pickle.BINFLOAT
    + pickle.STRING + pickle.BINSTRING + pickle.SHORT_BINSTRING + pickle.UNICODE + pickle.BINUNICODE
    + pickle.SHORT_BINUNICODE + pickle.BINUNICODE8 + pickle.BINBYTES + pickle.SHORT_BINBYTES + pickle.EMPTY_LIST
    + pickle.LIST + pickle.APPEND + pickle.APPENDS + pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2
    + pickle.TUPLE3 + pickle.EMPTY_DICT + pickle.DICT + pickle.SETITEM + pickle.SETITEMS + pickle.PUT + pickle.BINPUT
    + pickle.LONG_BINPUT + pickle.MEMOIZE + pickle.GET + pickle.BINGET + pickle.LONG_BINGET
)  # fmt: skip


class _PlainUnpickler(pickle._Unpickler):
    """The standard library's unpickler in Python: unlike the one in C it takes memory for what it has read, not for what
    the file says will come, and its table of opcodes can be cut down."""

    dispatch: ClassVar[Any] = {op: load for op, load in pickle._Unpickler.dispatch.items() if op in _PLAIN}
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def _check_keys(self, keys: list[Any]) -> None:
        """Tuples within tuples, each twice in the next, take time without end to be hashed."""
        if not all(isinstance(key, str | bytes | int | float | None) for key in keys):
            raise pickle.UnpicklingError("a dict has a key that is neither text nor number")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self._check_keys(items[::2])
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._check_keys([key])
        self.stack[-1][key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._check_keys(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {pickle.DICT[0]: load_dict, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}


def load_pickle(path: Path) -> Any:
    """Loads a pickle of built-in types; nothing in the file can run, and it takes no more than some times its size.

    Raises:
        SourceError: missing, cut short, no pickle, or one that asks for anything but built-in types.
    """
    data = read_annotations(path)
    for encoding in ("utf-8", "latin-1"):  # Python 2 wrote the published files: their texts are bytes
        try:
            return _PlainUnpickler(io.BytesIO(data), encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except KeyError as error:
            opcode = bytes([error.args[0]]) if isinstance(error.args[0], int) and error.args[0] < 256 else error
            if data[:1] not in (pickle.PROTO, pickle.MARK, pickle.EMPTY_LIST):  # a page of a server, or Git LFS's note
                raise SourceError(f"{path} is not a pickle, it begins with {data[:20]!r}: get it again") from None
            raise SourceError(
                f"{path} was refused: such files hold lists, dicts, texts and numbers only; this one also has {opcode!r}, "
                "which was not run. If you trust it, load it with pickle elsewhere and put in its place "
                "json.loads(json.dumps(refs, default=lambda x: x.tolist()))"
            ) from None
        except Exception as error:  # a broken pickle raises almost anything
            raise SourceError(f"{path} was refused: {error!s} ({type(error).__name__})") from None
    raise SourceError(f"{path} was refused: its texts are neither UTF-8 nor Latin-1")


def is_refer(folder: Path) -> bool:
    """Whether a folder has REFER's or gRefCOCO's files."""
    return any(match for path in folder.iterdir() if (match := _REFS_FILE.fullmatch(path.name)))


def find_refs_file(folder: Path, name: str, split_by: str | None) -> Path:
    """The ``refs(<split_by>).p`` of a folder; without ``split_by`` the only one, or the one everybody reports on.

    For the data set ``grefcoco``, and in a folder that has no other, ``grefs(<split_by>).json``.

    Raises:
        SourceError: none, or several and no rule; lists those there are.
    """
    there = [match for path in folder.iterdir() if (match := _REFS_FILE.fullmatch(path.name))]
    general = name == "grefcoco" or all(match["general"] for match in there)
    found = {match["by"]: folder / match[0] for match in there if bool(match["general"]) == general}
    if split_by is None:
        split_by = next(iter(found)) if len(found) == 1 else USUAL_SPLIT_BY.get(name)
    if split_by not in found:
        file = f"grefs({split_by or '…'}).json" if general else f"refs({split_by or '…'}).p"
        problem = f"has {file} of several" if split_by is None and found else f"has no {file}"
        raise SourceError(
            f"{folder} {problem}; it has {sorted(found) or 'none'}: choose split_by from those (--split of `rec prepare`)"
        )
    return found[split_by]


def open_refer(folder: Path, name: str, image_root: str | None = None, split_by: str | None = None) -> Source:
    """Opens a REFER folder.

    Args:
        folder: with ``instances.json`` and ``refs(<split_by>).p`` or ``grefs(<split_by>).json``.
        name: of the data set, for the rows' ``source`` and its rules (``refclef``: three broken images are left out).
        image_root: folder of the images; by default ``../images/train2014`` (``../images/saiapr_tc-12`` or
            ``../images/refclef`` for RefClef) beside ``folder``, where it exists.
        split_by: see :func:`find_refs_file`.

    Raises:
        SourceError: files missing, broken or of another layout.
    """
    refs_file, instances_file = find_refs_file(folder, name, split_by), folder / "instances.json"
    general = refs_file.suffix == ".json"
    refs = load_json(refs_file) if general else load_pickle(refs_file)
    splits = sorted(
        {split for ref in (refs if isinstance(refs, list) else ()) for split in _splits_of(ref)}, key=_split_order
    )
    if not splits:
        raise SourceError(
            f"{refs_file} is not a list of refs with a split each; is it a {'grefs(…).json' if general else 'refs(…).p'} file?"
        )
    if image_root is None:
        beside = [folder.parent / "images" / sub for sub in _IMAGE_FOLDERS.get(name, ("train2014", "coco", "."))]
        image_root = str(next((path for path in beside if path.is_dir()), beside[0]))
    index = functools.cache(lambda: _index(instances_file))

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        entries = index()
        for number, ref in enumerate(refs):
            own = _splits_of(ref)
            if split in own or (not own and split == splits[0]):
                where = f"{refs_file.name}, ref number {number}"
                row = attempt(_general_row if general else _row, ref, *entries, Path(image_root), name, where=where)
                if row is not None:
                    yield row

    return Source(
        name=name,
        splits=tuple(splits),
        read=read,
        files=(refs_file, instances_file),
        image_root=image_root,
        options={"kind": "grefs" if general else "refer", "split_by": refs_file.stem.partition("(")[2][:-1]},
    )


def _splits_of(ref: dict[str, Any]) -> list[str]:
    """RefClef marks a ref of several test splits as ``testAC``; everything else is one split. None of a broken ref."""
    split = ref.get("split") if isinstance(ref, dict) else None
    if not isinstance(split, str) or not is_split_name(split):
        return []
    return [f"test{letter}" for letter in split[4:]] if re.fullmatch(r"test[A-Z]+", split) else [split]


def _split_order(split: str) -> tuple[int, str]:
    return next((n for n, start in enumerate(("train", "val", "test")) if split.startswith(start)), 9), split


def _index(path: Path) -> tuple[ById, ById, ById]:
    content = load_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise SourceError(f"{path} is not a COCO file with images and annotations")
    images, annotations, categories = (
        ById(content.get(key) or [], "id", f"{key} of {path.name}") for key in ("images", "annotations", "categories")
    )
    return images, annotations, categories


def _row(
    ref: dict[str, Any], images: ById, annotations: ById, categories: ById, root: Path, name: str
) -> dict[str, Any] | None:
    image = _image(ref, images)
    annotation = _annotation(ref.get("ann_id"), annotations)
    if name in _IMAGE_FOLDERS and image.get("file_name") in BROKEN_REFCLEF_IMAGES:
        return None
    category = categories.find(ref.get("category_id")) or {}
    return _common(ref, image, root, name) | {
        "ann_id": ref["ann_id"],
        "bbox": annotation["bbox"],
        "segmentation": annotation.get("segmentation"),
        "category": category.get("name"),
    }


def _general_row(
    ref: dict[str, Any], images: ById, annotations: ById, categories: ById, root: Path, name: str
) -> dict[str, Any]:
    """A ref of gRefCOCO: every object it names, or none."""
    image, ids = _image(ref, images), _listed(ref.get("ann_id"))
    if not ids or (-1 in ids and len(ids) > 1):
        raise BadRecord("bad id", f"ann_id is {shown(ref.get('ann_id'))}; expected ids, or [-1] where nothing is named")
    named = [] if ids == [-1] else [_annotation(identity, annotations) for identity in ids]
    for annotation in named:
        if annotation.get("image_id") != ref["image_id"]:
            raise BadRecord(
                "annotation of another image",
                f"ann_id {annotation['id']} is of image {shown(annotation.get('image_id'))}, the ref of {ref['image_id']}",
            )
    single = [annotation for annotation in named if not annotation.get("iscrowd")]
    if named and not single:  # to call it a phrase of nothing would teach a falsehood
        raise BadRecord("crowds alone", f"ann_id {shown(ids)}: all are crowds (iscrowd), which are left out")
    kinds = [categories.find(identity) or {} for identity in _listed(ref.get("category_id")) if identity != -1]
    outlines = [annotation.get("segmentation") for annotation in single]
    return _common(ref, image, root, name) | {
        "ann_id": ",".join(str(annotation["id"]) for annotation in single) or None,
        "boxes": [annotation["bbox"] for annotation in single],
        "segmentations": None if None in outlines else outlines,
        "category": ", ".join(dict.fromkeys(str(kind["name"]) for kind in kinds if kind.get("name"))) or None,
        "left_out": {"annotations of crowds (iscrowd)": len(named) - len(single)} if len(named) > len(single) else {},
    }


def _listed(ids: object) -> list[Any]:
    """An id or a list of them as a list, each once."""
    several = ids if isinstance(ids, list) else [ids]
    return [identity for number, identity in enumerate(several) if identity not in several[:number]]


def _image(ref: dict[str, Any], images: ById) -> dict[str, Any]:
    if not _splits_of(ref):
        raise BadRecord("no split", f"its split is {shown(ref.get('split'))}; expected a text such as train or testA")
    image = images.find(ref.get("image_id"))
    if image is None:
        raise BadRecord("image id without image", f"image_id {shown(ref.get('image_id'))} is not in instances.json")
    return image


def _annotation(identity: object, annotations: ById) -> dict[str, Any]:
    annotation = annotations.find(identity)
    if annotation is None:
        raise BadRecord("no annotation", f"ann_id {shown(identity)} is not in instances.json")
    return annotation


def _common(ref: dict[str, Any], image: dict[str, Any], root: Path, name: str) -> dict[str, Any]:
    return {
        "image": str(root / image["file_name"]),
        "image_id": ref["image_id"],
        "ref_id": ref["ref_id"],
        "width": image["width"],
        "height": image["height"],
        "sentences": [sentence["sent"] for sentence in ref["sentences"]],
        "source": name,
    }
