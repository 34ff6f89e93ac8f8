"""Ways to call a Grounder: each gives what its overload promises. mypy checks this file: ``assert_type`` is for it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type, cast

import numpy as np
import pandas
import pytest
import torch
from inference_toy import write_folder
from PIL import Image

import rec
from rec.data.images import ImageError
from rec.inference.grounder import Grounder
from rec.inference.grounding import Grounding
from rec.inference.inputs import find_images

A, B = "the red circle", "small triangle"


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Grounder:
    """Opened by the run folder that its model folder is in."""
    run = tmp_path_factory.mktemp("run")
    write_folder(run / "best")
    return rec.from_pretrained(run, device="cpu")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), np.uint8))


@pytest.fixture
def photos(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("none", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"of a killed process")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def plain(results: list[Grounding]) -> list[dict[str, object]]:
    return [result.to_dict() for result in results]


def test_every_call_has_the_type_that_a_checker_sees(grounder: Grounder, frames: list[np.ndarray]) -> None:
    one = assert_type(grounder(frames[0], A), Grounding)
    about = assert_type(grounder(frames[0], [A, B], threshold=0.0), list[Grounding])
    each = assert_type(grounder(frames, A), list[Grounding])
    paired = assert_type(grounder((frames[0], frames[1]), [A, B]), list[Grounding])
    every = assert_type(grounder(frames, [A, B], product=True), list[list[Grounding]])
    nested = assert_type(grounder(frames, [[A], [A, B], [B]]), list[list[Grounding]])
    lazy = assert_type(grounder(iter(frames), A), Iterator[Grounding])
    both = assert_type(grounder((frame for frame in frames), [A, B], batch_size=2), Iterator[list[Grounding]])
    assert one.phrase == A and [a.phrase for a in about] == [A, B] == [a.phrase for a in paired]
    assert [[a.phrase for a in row] for row in every] == [[A, B]] * 3
    assert [[a.phrase for a in row] for row in nested] == [[A], [A, B], [B]]
    boxes = [a.box for a in each]
    assert [a.box for a in lazy] == boxes
    np.testing.assert_allclose([row[0].box or () for row in every], [box or () for box in boxes], atol=1e-3)
    assert iter(lazy) is lazy and [len(row) for row in both] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"3 images but 2 phrases.*product=True"):
        grounder(frames, [A, B])


def test_folders_patterns_and_batches_are_their_images(
    grounder: Grounder, frames: list[np.ndarray], photos: Path
) -> None:
    expected = plain(grounder(frames, A))
    batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    named = assert_type(grounder(find_images(photos) or [], A), list[Grounding])
    pattern = f"{photos.parent}/{photos.name}/*"
    sources: list[Any] = [photos, str(photos / "*.png"), pattern, np.stack(frames), batch, batch / 255]
    for images in sources:
        assert plain(grounder(images, A)) == expected == plain(named)
    assert [result.path for result in named] == [str(photos / f"{number}.png") for number in range(3)]
    assert [[a.phrase for a in row] for row in grounder(sources[0], [A, B])] == [[A, B]] * 3
    for nothing in (photos / "absent*.png", photos / ".." / photos.name / "n*.txt"):
        with pytest.raises(ImageError, match="no file matches"):
            grounder(nothing, A)
    (photos / "1.png").write_bytes(b"cut")
    with pytest.raises(ImageError, match=r"1\.png"):
        grounder(photos, A)


def test_what_has_its_images_at_hand_is_a_list_and_any_kind_of_path_is_a_path(
    grounder: Grounder, frames: list[np.ndarray], photos: Path
) -> None:
    expected = plain(grounder(frames, [A, B, A]))
    kinds: list[Any] = [dict(enumerate(frames)).values(), pandas.Series([str(photos / f"{n}.png") for n in range(3)])]
    for images in kinds:
        assert plain(grounder(images, [A, B, A])) == expected
    with os.scandir(photos) as entries:
        first = next(entry for entry in entries if entry.name == "0.png")
    result = grounder(first, A)
    assert result.to_dict() == expected[0] and result.path == str(photos / "0.png") and result.draw().size == (60, 40)


def test_frames_of_opencv_are_what_their_channels_say(grounder: Grounder, frames: list[np.ndarray]) -> None:
    frame = np.ascontiguousarray(frames[0][..., ::-1])
    result = grounder(frame, A, channels="bgr")
    assert result.to_dict() == grounder(frames[0], A).to_dict() and np.array_equal(result.image, frames[0])
    assert np.array_equal(grounder([frame], A, channels="bgr", keep_images=True)[0].image, frames[0])
    with pytest.raises(ImageError, match="channels is 'gbr'"):
        grounder(frame, A, channels=cast(Any, "gbr"))


def test_a_run_that_has_no_model_folder_yet_says_so(tmp_path: Path) -> None:
    step = tmp_path / "checkpoints" / "step_00000001"
    step.mkdir(parents=True)
    (step / "trainer_state.json").write_text("{}", encoding="utf-8")
    (tmp_path / "checkpoints" / "last").write_text("step_00000001", encoding="utf-8")
    for folder in (tmp_path, step):
        with pytest.raises(rec.errors.RecError, match=r"is a checkpoint.*no best/.*train\.evaluation"):
            rec.from_pretrained(folder)
