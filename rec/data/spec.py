"""What a config says of its sources: ``dataset.dataset``, ``ann_path``, ``image_path`` and ``mask_path``."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from rec.conventions import Convention
from rec.data.sources import Source, SourceError
from rec.errors import InputError

SCENES = ("scenes", "scenes_hard")
Paths = str | os.PathLike[str] | Mapping[str, Any] | None  # one for all sources, or by the source's name


@dataclass(frozen=True)
class SourceSpec:
    """One entry of ``ann_path``; None is the reader's own choice.

    Attributes:
        path: file, folder, Hub id, ``"scenes"`` or ``"scenes_hard"``, ``~`` replaced.
        split_by: of REFER folders.
        bbox_format: of JSONL, CSV, foreign tables, COCO files and conversations.
        coordinates: what the numbers of its boxes mean, see :class:`rec.conventions.Convention`; pixels without.
        columns: of foreign tables, COCO files and Label Studio's JSON_MIN.
        prompt: of conversations: the question, or several, with ``{}`` in place of the phrase.
        configuration, revision, splits: of a Hub id; of the splits all are downloaded, or those named.
        boxes: of Flickr30k Entities.
        count, size, phrases_per_scene, targets: of scenes.
        on_bad_record: ``"raise"``, or ``"skip"`` to count such records and leave them out.
    """

    path: str
    split_by: str | None = None
    bbox_format: str | None = None
    boxes: str | None = None
    columns: Mapping[str, str] | None = None
    coordinates: str | None = None
    prompt: str | Sequence[str] | None = None
    configuration: str | None = None
    revision: str | None = None
    splits: Sequence[str] | None = None
    count: int | Mapping[str, int] | None = None
    size: int | None = None
    phrases_per_scene: int | None = None
    targets: str | None = None
    on_bad_record: str = "raise"

    @classmethod
    def of(cls, given: "SourceSpec | str | os.PathLike[str] | Mapping[str, Any]", name: str) -> Self:
        """From a path, or from a mapping with ``path`` and further choices.

        Raises:
            SourceError: no ``path``, or a key or coordinates that are not known.
        """
        if isinstance(given, cls):
            return given
        choices: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"path": os.fspath(given)}  # type: ignore[arg-type]
        keys = [field.name for field in fields(cls)]
        if "path" not in choices or not set(choices) <= set(keys):
            raise SourceError(f"ann_path of {name!r}: {choices} needs the key path and may have {', '.join(keys[1:])}")
        if choices.get("coordinates") is not None:
            try:
                Convention(str(choices["coordinates"]))
            except InputError as error:
                raise SourceError(f"ann_path of {name!r}: {error}") from None
        return cls(
            **{key: value for key, value in choices.items() if value is not None} | {"path": expand(choices["path"])}
        )

    def chosen(self, *names: str) -> dict[str, Any]:
        """Those of the choices that were made."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


# What readers look at of a :class:`SourceSpec`, by the kind of their source, besides what holds for all.
_TAKEN = {
    "refer": ("split_by",),
    "grefs": ("split_by",),
    "flickr30k": ("boxes",),
    "coco": ("bbox_format", "columns"),
    "label_studio": ("columns",),
    "conversations": ("bbox_format", "prompt"),
    "tabular": ("bbox_format",),
    "foreign": ("bbox_format", "columns"),
    "scenes": ("count", "size", "phrases_per_scene", "targets"),
}


def refuse_unused(chosen: SourceSpec, source: Source, name: str) -> None:
    """Refuses choices that the reader of a source does not look at.

    Raises:
        SourceError: names them.
    """
    taken = ["path", "on_bad_record", "splits", "coordinates", *_TAKEN.get(source.options.get("kind", "scenes"), ())]
    taken += ["configuration", "revision"] * source.is_foreign + ["bbox_format"] * (chosen.bbox_format == "xywh")
    unused = {key: value for key, value in vars(chosen).items() if value and key not in taken}
    if unused:
        hint = (
            "; --split of `rec prepare` says who split REFER's files, and --splits which splits to take"
            if "split_by" in unused
            else ", and call the fields of the file image, phrase and bbox"
            if "columns" in unused and source.options.get("kind") == "tabular"
            else ""
        )
        given = ", ".join(f"{key}={value!r}" for key, value in unused.items())
        raise SourceError(f"ann_path of {name!r}: {chosen.path} is read without {given}: leave that out{hint}")


def expand(path: object) -> str:
    """``path`` with ``~`` for the home folder."""
    return os.path.expanduser(str(path))


@dataclass(frozen=True)
class NamedSource:
    """One source of a data set: how often an epoch sees each of its objects, where it is, folders of images and masks."""

    repeat: float
    spec: SourceSpec
    image_path: str | None
    mask_path: str | None


def name_sources(
    dataset: str | Sequence[str] | Mapping[str, float], ann_path: Paths, image_path: Paths, mask_path: Paths
) -> dict[str, NamedSource]:
    """The sources by name; arguments as of :class:`rec.data.dataset.RefCOCODataSet`.

    Raises:
        ValueError: ``dataset`` names none, one twice, or one that ``ann_path`` does not have.
        SourceError: an entry of ``ann_path`` is none.
    """
    repeats = dataset
    if not isinstance(repeats, Mapping):
        names = [repeats] if isinstance(repeats, str) else list(repeats)
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"dataset.dataset is {names}, with {twice[0]} twice: name it once, or how often each is seen, {{{twice[0]}: 2}}"
            )
        repeats = dict.fromkeys(names, 1.0)
    if not repeats or any(not isinstance(r, int | float) or r <= 0 for r in repeats.values()):
        raise ValueError(
            f"dataset.dataset is {dataset!r}; expected a name, a list of names, or names with numbers above 0"
        )
    by_name = ann_path if isinstance(ann_path, Mapping) and "path" not in ann_path else None
    sources = {}
    for name, repeat in repeats.items():
        given: Any = ann_path
        if by_name is not None or given is None:
            given = (by_name or {}).get(name, name if name in SCENES else None)
        if given is None:
            known = ", ".join(sorted({*(by_name or ()), *SCENES}))
            raise ValueError(f"dataset.dataset is {name!r}, which dataset.ann_path does not have; it has {known}")
        folders = [paths.get(name) if isinstance(paths, Mapping) else paths for paths in (image_path, mask_path)]
        images, masks = (None if folder is None else expand(folder) for folder in folders)
        sources[name] = NamedSource(float(repeat), SourceSpec.of(given, name), images, masks)
    return sources
