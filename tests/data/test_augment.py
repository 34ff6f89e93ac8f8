"""Augmentation carries box and mask along, and is refused where it would be something else."""

import numpy as np
import pytest

from rec.boxes import box_iou
from rec.data.augment import Augmentation, RandAugment, RandomErasing, TransformError, check_transforms

BOX = np.array([100.0, 80, 180, 150])


def sample():
    image = np.full((240, 320, 3), 60, np.uint8)
    mask = np.zeros((240, 320), np.uint8, order="F")
    image[80:150, 100:180] = (250, 20, 20)
    mask[80:150, 100:180] = 1
    return image, BOX, mask


def candidates():
    import albumentations as A

    return {
        "RandAugment": RandAugment(2, 9),
        "ElasticTransform": A.ElasticTransform(p=1, alpha=30, sigma=8),
        "GridDistortion": A.GridDistortion(p=1),
        "RandomErasing": RandomErasing(1.0, (0.02, 0.2), (0.05, 8), "random"),
        "ColorJitter": A.ColorJitter(p=1),
        "crop": A.RandomSizedBBoxSafeCrop(200, 300),
        "affine": A.Affine(scale=(0.5, 1.5), translate_percent=(-0.3, 0.3), p=1),
    }


@pytest.mark.parametrize("name", candidates())
def test_box_and_mask_follow_the_image(name):
    augmentation = Augmentation({name: candidates()[name]})
    changed = 0
    for seed in range(30):
        image, box, mask = augmentation(*sample(), np.random.default_rng(seed))
        changed += image.shape != (240, 320, 3) or bool((image != sample()[0]).any())
        assert image.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        rows, columns = np.nonzero(mask)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        assert box_iou(box, found) > 0.85
        assert (box[:2] >= 0).all() and (box[2:] <= np.array(image.shape[1::-1])).all()
    assert changed > 10


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", candidates())
def test_several_targets_of_an_image_are_each_as_if_alone(name):
    augmentation = Augmentation({name: candidates()[name]})
    image = sample()[0]
    corner, out, two = np.array([[0.0, 0, 30, 20]]), np.array([[400.0, 0, 450, 40]]), np.array([BOX, [20, 20, 90, 60]])
    targets, lost = [BOX[None], corner, out, np.zeros((0, 4)), two], 0
    for seed in range(30):
        together = augmentation.each(image, targets, None, np.random.default_rng(seed))
        for box, (changed, moved, mask, number) in zip(targets, together, strict=True):
            rng = np.random.default_rng(seed)
            (alone,) = augmentation.each(image, [box], None, rng)
            assert same((changed, moved, number), (alone[0], alone[1], alone[3])) and mask is None
        lost += np.array_equal(together[1][0], image) and not np.array_equal(together[0][0], image)
    assert lost or name != "affine"  # one target is lost, and the image is changed for the others all the same


def test_the_red_object_is_where_the_box_says():
    for seed in range(30):
        image, box, _ = Augmentation({"affine": candidates()["affine"]})(*sample(), np.random.default_rng(seed))
        red = (image[..., 0] > 180) & (image[..., 1] < 60)
        rows, columns = np.nonzero(red)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        assert box_iou(box, found) > 0.9


def test_a_target_is_never_mostly_hidden():
    augmentation = Augmentation({"e": RandomErasing(1.0, (0.1, 0.4), (0.3, 3), 0)})
    for seed in range(50):
        image, _, mask = augmentation(*sample(), np.random.default_rng(seed))
        assert (image[mask > 0][:, 0] > 0).mean() >= 0.69


def test_one_candidate_is_drawn_for_each_sample():
    augmentation = Augmentation({"erase": RandomErasing(1.0, (0.02, 0.05), (1, 1), 255), "keep": RandomErasing(0.0)})
    white = [bool((augmentation(*sample(), np.random.default_rng(s))[0] == 255).any()) for s in range(60)]
    assert 15 < sum(white) < 45


def test_torchvisions_erasing_is_taken_as_ours():
    from torchvision import transforms

    theirs = transforms.RandomErasing(p=1.0, scale=(0.02, 0.2), ratio=(0.05, 8), value="random")
    one = Augmentation({"RandomErasing": theirs})(*sample(), np.random.default_rng(1))
    ours = Augmentation({"RandomErasing": RandomErasing(1.0, (0.02, 0.2), (0.05, 8), "random")})
    assert (one[0] == ours(*sample(), np.random.default_rng(1))[0]).all()


def test_rand_augment_of_the_original_strength_keeps_one_bit_and_moves_nine_degrees():
    import albumentations as A

    some = RandAugment(2, 9).compose.transforms[0]
    assert some.n == 2 and some.replace and len(some.transforms) == 14
    moved = [one for either in some.transforms if isinstance(either, A.OneOf) for one in either.transforms]
    assert {round(one.rotate[0], 6) for one in moved} == {-9, 0, 9} and len(moved) == 10
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    posterize, solarize_add = some.transforms[2], some.transforms[4]
    assert set(np.unique(posterize(image=ramp)["image"])) == {0, 128}
    brighter = np.minimum(ramp.astype(int) + 33, 255)
    assert (solarize_add(image=ramp)["image"] == np.where(brighter < 128, brighter, 255 - brighter)).all()


def test_other_candidates_are_refused_by_name():
    with pytest.raises(TypeError, match=r"candidate_transforms\['flip'\] is a str"):
        Augmentation({"flip": "yes"})


@pytest.mark.parametrize(
    ("transform", "found"),
    [
        (lambda A: A.Normalize(p=0.3), r"float32 \(640, 640, 3\)"),
        (lambda A: A.ToFloat(p=1), r"float32 \(640, 640, 3\)"),
        (lambda A: A.ToGray(1, p=0.01), r"uint8 \(640, 640\)"),
        (lambda A: A.OneOf([A.Normalize(p=1)], p=0.5), r"float32 \(640, 640, 3\)"),
        (lambda A: A.Compose([A.HorizontalFlip(p=0.5), A.ToTensorV2()]), r"torch\.uint8 \(3, 640, 640\)"),
    ],
    ids=["Normalize", "ToFloat", "ToGray", "OneOf", "ToTensorV2"],
)
def test_a_transform_whose_images_cannot_be_read_is_refused_at_the_start(transform, found):
    import albumentations as A

    with pytest.raises(TransformError, match=rf"candidate_transforms\['mine'\] gives images of {found}; .*train\.data"):
        Augmentation({"keep": RandomErasing(0.0), "mine": transform(A)})


def test_a_transform_that_mirrors_images_without_their_phrases_is_told(caplog):
    import albumentations as A

    Augmentation(candidates())
    assert not caplog.messages
    Augmentation({"flip": A.Compose([A.OneOf([A.HorizontalFlip(p=0.5)]), A.ColorJitter()])})
    assert "candidate_transforms['flip'] mirrors" in caplog.text and "dataset.flip_lr=true" in caplog.text


def test_transforms_that_end_as_uint8_with_three_channels_are_fine():
    import albumentations as A

    there_and_back = A.Compose([A.ToFloat(max_value=255, p=1), A.FromFloat(dtype="uint8", max_value=255, p=1)])
    for transform in (there_and_back, A.ToGray(3, p=1), A.Normalize(p=0)):
        image, box, mask = Augmentation({"mine": transform})(*sample(), np.random.default_rng(0))
        assert (image.dtype, image.shape) == (np.uint8, (240, 320, 3))
        assert box == pytest.approx(BOX, abs=1e-3) and (mask == sample()[2]).all()


class Odd(RandAugment):
    """A transform of somebody's that changes one part of the sample once it has been tried."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __call__(self, image, box, mask, rng):
        return self.change(image, box, mask) if image.shape[0] == 240 else (image, box, mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, b, m: (i.astype(np.float32), b, m), r"images of float32 \(240, 320, 3\)"),
        (lambda i, b, m: (i[..., :1], b, m), r"images of uint8 \(240, 320, 1\)"),
        (lambda i, b, m: (i, b * np.nan, m), "four finite numbers"),
        (lambda i, b, m: (i, b[:2], m), "four finite numbers"),
        (lambda i, b, m: (i[:100], b, m), r"leaves its image of 320 x 100"),
        (lambda i, b, m: (i, b, None), "a mask of NoneType"),
        (lambda i, b, m: (i, b, m[:200]), r"a mask of uint8 \(200, 320\)"),
        (lambda i, b, m: 1 / 0, "failed on an image of 320 x 240 pixels, ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_transform_gives_is_checked_on_every_sample(change, words):
    augmentation = Augmentation({"mine": Odd(change)})
    with pytest.raises(TransformError, match=rf"dataset\.candidate_transforms\['mine'\].*{words}"):
        augmentation(*sample(), np.random.default_rng(0))


def test_an_image_that_is_a_view_is_copied():
    image, *_ = Augmentation({"mine": Odd(lambda i, b, m: (i[:, ::-1], b, m))})(*sample(), np.random.default_rng(0))
    assert image.flags.c_contiguous and (image == sample()[0][:, ::-1]).all()


@pytest.mark.parametrize(
    "change", [lambda i, b, m: (i, np.array([320, 10, 321, 50.0]), m), lambda i, b, m: (i, b, np.zeros_like(m))]
)
def test_a_sample_whose_target_is_lost_stays_as_it_is(change):
    image, box, mask = Augmentation({"mine": Odd(change)})(*sample(), np.random.default_rng(0))
    assert (image == sample()[0]).all() and (box == BOX).all() and (mask == sample()[2]).all()


@pytest.mark.parametrize("box", [[320, 80, 321, 150], [-1, 80, 0, 150], [100, 240, 180, 241], [319.995, 80, 321, 150]])
def test_a_box_that_only_touches_the_image_does_not_stop_a_training(box):
    import albumentations as A

    augmentation = Augmentation({"ElasticTransform": A.ElasticTransform(p=1)})
    image, _, mask = sample()
    after = augmentation(image, np.array(box, float), mask, np.random.default_rng(0))
    assert (after[0] == image).all() and after[1].tolist() == box


def test_the_manuals_transforms_are_accepted_and_others_name_their_replacement():
    from torchvision import transforms as T

    check_transforms(None)
    check_transforms(T.Compose([T.ToTensor(), T.Normalize([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])]))
    with pytest.raises(ValueError, match=r"train\.data\.mean"):
        check_transforms(T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]))
    with pytest.raises(ValueError, match="candidate_transforms"):
        check_transforms(T.Compose([T.RandomHorizontalFlip()]))
