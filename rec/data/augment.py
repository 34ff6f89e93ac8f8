"""Training augmentation: one candidate transform per sample, with boxes and mask carried along.

SimREC's configuration names four candidates: ``RandAugment``, ``ElasticTransform``, ``GridDistortion`` (albumentations)
and ``RandomErasing``. Any other albumentations transform may stand beside them under a name of your own, for example
``A.ColorJitter()``, or ``A.RandomSizedBBoxSafeCrop(480, 640)`` for a scaled crop that keeps the target.
"""

import copy
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from rec import boxes
from rec.errors import RecError

# A sample of which a target would lose more than this share of its box to an augmentation is left as it is.
MAX_HIDDEN = 0.3
FILL = (127, 127, 127)  # what the letterbox pads with

logger = logging.getLogger(__name__)

# Transforms of albumentations behind which left is right, or above.
_TURNING = {"HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4", "SquareSymmetry"}
_PROBE = 640  # side in pixels of the image that every candidate is tried on

Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # image, box or boxes, mask


class TransformError(RecError, ValueError):
    """A candidate transform fails or gives what is not a sample; the message names it by its config path."""


class Augmentation:
    """Draws one of the candidates for each sample and applies it.

    Args:
        candidates: name to transform: :class:`RandAugment`, :class:`RandomErasing` (torchvision's of that name is taken
            as ours), or an albumentations transform.

    Raises:
        TypeError: a candidate of another kind.
        TransformError: a candidate that gives anything but images of uint8 with three channels; each is tried once
            here, and every sample is checked.
    """

    def __init__(self, candidates: Mapping[str, Any]) -> None:
        self.names = list(candidates)
        self._apply = [_as_function(name, transform) for name, transform in candidates.items()]
        for name, transform in candidates.items():
            _try(name, transform)
            if _turns(transform):
                logger.warning(
                    "%s mirrors or turns images and leaves phrases as they are: what they call left may be right then. "
                    "dataset.flip_lr=true mirrors both",
                    _path(name),
                )

    def __call__(self, image: np.ndarray, box: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> Sample:
        """Augments a sample.

        Args:
            image: uint8 ``(H, W, 3)``, RGB.
            box: float ``(4,)`` or ``(N, 4)`` xyxy in pixels, N from 0.
            mask: uint8 ``(H, W)`` of 0 and 1, or None.
            rng: the only source of randomness.

        Returns:
            Image, box (or boxes, in their order) and mask; unchanged where a target would be hidden by more than
            :data:`MAX_HIDDEN`, or where nothing of its box or of the mask would be left in the image.

        Raises:
            TransformError: the transform failed, or its result is not a sample.
        """
        return self.each(image, [box], mask, rng)[0][:3]

    def each(
        self, image: np.ndarray, targets: Sequence[np.ndarray], mask: np.ndarray | None, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None, float]]:
        """Several targets of one image, each as if it were alone with ``rng``: image, box or boxes, mask, and what ``rng.random()``
        gives next. Where the transform looks at no box, as those that move, bend or colour images do, the image is changed once
        for all of them."""
        number = int(rng.integers(len(self._apply)))
        apply = self._apply[number]
        # Targets out of sight before it leave the image as it is; albumentations would refuse such a box.
        seen = [all(boxes.is_visible(one, *image.shape[:2]) for one in _each(box)) for box in targets]
        asked = [box for box, visible in zip(targets, seen, strict=True) if visible]
        together = len(asked) > 1 and mask is None and isinstance(apply, _Albumentation) and apply.blind
        used = [copy.deepcopy(rng) for _ in (asked[:1] if together else asked)]
        try:
            if together:
                changed = cast(_Albumentation, apply).together(image, asked, used[0])
            else:
                changed = [apply(image, box, mask, own) for box, own in zip(asked, used, strict=True)]
        except Exception as error:  # a transform of anybody's may raise anything
            what = f"failed on an image of {image.shape[1]} x {image.shape[0]} pixels, {type(error).__name__}: {error}"
            raise TransformError(f"{_path(self.names[number])} {' '.join(what.split())}") from error
        numbers = [own.random() for own in used] * (len(asked) if together else 1)
        after, unchanged = iter(zip(changed, numbers, strict=True)), rng.random()
        found = []
        for box, visible in zip(targets, seen, strict=True):
            sample, following = next(after) if visible else ((image, box, mask), unchanged)
            found.append((*(self._kept(number, (image, box, mask), sample) if visible else sample), following))
        return found

    def _kept(self, number: int, before: Sample, after: Sample) -> Sample:
        """``after``, or ``before`` where a target is lost."""
        _check(self.names[number], after, np.shape(before[1]), before[2] is not None)
        lost = not all(boxes.is_visible(one, *after[0].shape[:2]) for one in _each(after[1]))
        lost |= after[2] is not None and np.size(before[1]) > 0 and not after[2].any()
        return before if lost else (np.ascontiguousarray(after[0]), *after[1:])


def _each(box: np.ndarray) -> np.ndarray:
    """One box ``(4,)``, or several, as ``(N, 4)``."""
    return np.reshape(box, (-1, 4))


def _path(name: str) -> str:
    return f"dataset.candidate_transforms[{name!r}]"


def _check(name: str, after: Sample, shape: tuple[int, ...], masked: bool) -> None:
    """Refuses what is not a sample: the letterbox would read images of other kinds from uninitialised memory."""
    image, box, mask = after
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {tuple(getattr(image, 'shape', ()))}"
        raise TransformError(
            f"{_path(name)} gives images of {kind}; expected uint8 (H, W, 3), RGB: leave it out. Normalisation is "
            "train.data.mean and train.data.std, and grey images keep three channels (albumentations.ToGray(3))"
        )
    height, width = image.shape[:2]
    corners = np.asarray(box, np.float64)
    if corners.shape != shape or not np.isfinite(corners).all():
        raise TransformError(f"{_path(name)} gives the box {box!r}; expected four finite numbers, xyxy in pixels")
    for one in _each(corners):
        if (one[:2] < -1).any() or one[2] > width + 1 or one[3] > height + 1:
            raise TransformError(
                f"{_path(name)} gives the box {one.round(2).tolist()} (xyxy), which leaves its image of {width} x "
                f"{height} pixels: it must move the box with the image"
            )
    if masked and not (isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.shape == image.shape[:2]):
        kind = f"{getattr(mask, 'dtype', type(mask).__name__)} {tuple(getattr(mask, 'shape', ()))}"
        raise TransformError(f"{_path(name)} gives a mask of {kind}; expected uint8 {(height, width)}, as its image")


def _try(name: str, transform: object) -> None:
    """Applies a transform once, with every probability in it at 1, to find at the start what the first epoch would."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (_PROBE, _PROBE, 3), dtype=np.uint8)
    mask = np.zeros((_PROBE, _PROBE), np.uint8, order="F")
    mask[200:400, 200:400] = 1
    try:
        surely = _as_function(name, _always(copy.deepcopy(transform)))
        after = surely(image, np.array([200.0, 200, 400, 400]), mask, rng)
    except Exception:  # it may need images of another size: the first sample tells, with its name
        return
    _check(name, after, (4,), True)


def _turns(transform: Any) -> bool:
    return type(transform).__name__ in _TURNING or any(map(_turns, getattr(transform, "transforms", ())))


def _always(transform: Any) -> Any:
    if getattr(transform, "p", 0):
        transform.p = 1.0
    for inner in getattr(transform, "transforms", ()):
        _always(inner)
    return transform


def check_transforms(transforms: object) -> None:
    """Accepts SimREC's ``Compose([ToTensor, Normalize(0, 1)])``, which changes nothing here, and nothing else.

    Raises:
        ValueError: names what to use in its place.
    """
    if transforms is None:
        return
    for step in getattr(transforms, "transforms", [transforms]):
        kind = type(step).__name__
        if kind == "Normalize":
            if any(float(value) != 0 for value in step.mean) or any(float(value) != 1 for value in step.std):
                raise ValueError(
                    f"dataset.transforms normalises with mean {list(step.mean)} and std {list(step.std)}: "
                    "normalisation happens on the device; set train.data.mean and train.data.std, and "
                    "dataset.transforms=null"
                )
        elif kind != "ToTensor":
            raise ValueError(
                f"dataset.transforms holds {kind}: augmentations go into dataset.candidate_transforms, normalisation "
                "into train.data.mean and train.data.std; set dataset.transforms=null"
            )


def _as_function(name: str, transform: object) -> Callable[..., Sample]:
    if isinstance(transform, RandAugment | RandomErasing):
        return transform
    if type(transform).__module__.startswith("torchvision") and type(transform).__name__ == "RandomErasing":
        theirs: Any = transform
        return RandomErasing(theirs.p, theirs.scale, theirs.ratio, theirs.value)
    A = _albumentations()
    if isinstance(transform, A.BasicTransform | A.BaseCompose):
        return _Albumentation(transform)
    raise TypeError(
        f"dataset.candidate_transforms[{name!r}] is a {type(transform).__name__}; expected an albumentations "
        "transform, rec.data.augment.RandAugment or rec.data.augment.RandomErasing"
    )


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer version on import
    import albumentations

    return albumentations


class _Albumentation:
    """An albumentations transform, seeded anew for each sample.

    Attributes:
        moves: whether boxes move with the image.
        blind: whether it certainly changes an image without looking at its boxes (crops and erasures may look).
    """

    def __init__(self, transform: object) -> None:
        A = _albumentations()
        self.moves = not isinstance(transform, A.ImageOnlyTransform)
        self.blind = _is_blind(transform)
        carried = A.BboxParams("pascal_voc", label_fields=["target"], min_visibility=1 - MAX_HIDDEN, clip=True)
        self.compose = A.Compose([transform], bbox_params=carried if self.moves else None)

    def __call__(self, image: np.ndarray, box: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> Sample:
        return self.together(image, [box], rng, mask)[0]

    def together(
        self,
        image: np.ndarray,
        targets: Sequence[np.ndarray],
        rng: np.random.Generator,
        mask: np.ndarray | None = None,
    ) -> list[Sample]:
        """One change of the image, for each target; where that is lost, the image as it was."""
        self.compose.set_random_seed(int(rng.integers(2**32)))
        if not self.moves:
            after = self.compose(image=image)["image"]
            if np.shape(after)[:2] != image.shape[:2]:
                raise ValueError(f"an ImageOnlyTransform made it {np.shape(after)}, and box and mask stay behind")
            return [(after, box, mask) for box in targets]
        masks = {} if mask is None else {"mask": np.ascontiguousarray(mask)}
        counts = [len(_each(box)) for box in targets]
        flat, numbers = np.concatenate([_each(box) for box in targets]), np.repeat(np.arange(len(targets)), counts)
        result = self.compose(image=image, bboxes=flat, target=numbers, **masks)
        kept, of_target = np.reshape(np.asarray(result["bboxes"], np.float64), (-1, 4)), np.asarray(result["target"])
        samples: list[Sample] = []
        for number, box in enumerate(targets):
            own = kept[of_target == number]
            whole = len(own) == counts[number]
            samples.append(
                (result["image"], own.reshape(np.shape(box)), result.get("mask")) if whole else (image, box, mask)
            )
        return samples


def _is_blind(transform: Any) -> bool:
    inner = getattr(transform, "transforms", None)
    if inner is not None:
        return all(map(_is_blind, inner))
    kinds = ("blur", "geometric", "pixel")
    return type(transform).__module__.startswith(tuple(f"albumentations.augmentations.{kind}." for kind in kinds))


class RandomErasing:
    """Fills a random rectangle of the image (Zhong et al., https://arxiv.org/abs/1708.04896).

    Args:
        p: probability.
        scale: range of the rectangle's share of the image.
        ratio: range of its height to its width.
        value: ``"random"`` for noise, or one grey value or three of RGB, 0-255.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: str | float | Any = 0,
    ) -> None:
        self.p, self.scale, self.ratio, self.value = p, tuple(scale), tuple(ratio), value

    def __call__(self, image: np.ndarray, box: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> Sample:
        """Erases; tries ten rectangles that fit the image and hide no more of a target than :data:`MAX_HIDDEN`."""
        if rng.random() >= self.p:
            return image, box, mask
        height, width = image.shape[:2]
        for _ in range(10):
            area = rng.uniform(self.scale[0], self.scale[1]) * height * width
            ratio = float(np.exp(rng.uniform(*np.log(self.ratio))))
            h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if not (0 < h < height and 0 < w < width):
                continue
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            hole = np.array([left, top, left + w, top + h])
            if any(_visible(one, hole) > MAX_HIDDEN for one in _each(box)):
                continue
            image = image.copy()
            noise = isinstance(self.value, str)
            image[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3)) if noise else self.value
            break
        return image, box, mask


class RandAugment(_Albumentation):
    """Two (``n``) of 14 operations of one strength, drawn with replacement (https://arxiv.org/abs/1909.13719).

    SimREC's operations as albumentations has them: box and mask follow the geometric ones.

    Args:
        n: operations per image.
        m: strength, 0-30: the share ``m / 30`` of each operation's range.
    """

    def __init__(self, n: int = 2, m: int = 9) -> None:
        self.n, self.m = n, m
        A = _albumentations()
        share, still = m / 30, {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        factor, shear, shift = 0.1 + 1.8 * share, math.degrees(math.atan(0.3 * share)), round(100 * share)

        def either_way(name: str, size: float, axis: str = "") -> Any:
            ways = [(value, value) for value in (size, -size)]
            moves = [{"x": (0, 0), "y": (0, 0)} | {axis: way} if axis else way for way in ways]
            return A.OneOf([A.Affine(**{name: move}, fill=FILL, p=1) for move in moves], p=1)

        brighter = A.RandomBrightnessContrast((110 / 255 * share,) * 2, (0, 0), p=1)
        operations = [
            A.AutoContrast(method="pil", p=1),
            A.Equalize(mode="pil", p=1),
            # A strength of 9 keeps one bit of a channel, as in the original; no bit at all would be a black image.
            A.Posterize(max(1, int(4 * share)), p=1),
            A.Solarize((share, share), p=1),
            A.Sequential([brighter, A.Solarize((0.5, 0.5), p=1)], p=1),  # SolarizeAdd
            *(
                A.ColorJitter(**still | {name: (factor, factor)}, p=1)
                for name in ("saturation", "contrast", "brightness")
            ),
            A.Sharpen((share, share), (1, 1), p=1),
            either_way("rotate", 30 * share),
            *(either_way("shear", shear, axis) for axis in "xy"),
            *(either_way("translate_px", shift, axis) for axis in "xy"),
        ]
        super().__init__(A.SomeOf(operations, n, replace=True, p=1))


def _visible(box: np.ndarray, frame: np.ndarray) -> float:
    """Share of ``box`` that lies in ``frame``, both xyxy."""
    size = np.minimum(box[2:], frame[2:]) - np.maximum(box[:2], frame[:2])
    area = boxes.xyxy_to_xywh(box)[2:].prod()
    return float(size.clip(0).prod() / area) if area > 0 else 0.0
