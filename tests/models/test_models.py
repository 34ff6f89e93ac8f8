"""Whole models: the contract of outputs, one image pass for many phrases, learning, and errors that name both sides."""

import pytest
import torch
from small import WIDTH, attention, backbone, batch, encoder, mask_head, mcn, simrec
from torch import nn

from rec.boxes import box_iou, cxcywh_to_xyxy
from rec.config import get_config, instantiate
from rec.contracts import abilities
from rec.models import SimREC
from rec.models.backbones.cspdarknet import Stem
from rec.models.fusion import MultiScaleFusion, SimpleFusion
from rec.models.heads import MaskHead, REChead
from rec.models.layers import AveragePool, Upsampled, halved, upsample

MODELS = {
    "boxes": lambda: simrec(),
    "boxes and masks": lambda: simrec(masks=True, box_loss="giou"),
    "masks alone": lambda: simrec(boxes=False, masks=True),
    "mcn": lambda: mcn(),
}
ALL = pytest.mark.parametrize("name", MODELS)


@ALL
def test_training_gives_a_finite_total_and_gradients_everywhere(name: str) -> None:
    model = MODELS[name]().train()
    losses = model(batch(masks=True))
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    losses["loss"].backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [], "parameters nobody reads: data-parallel training would hang on them"


@ALL
def test_evaluation_gives_boxes_in_pixels_scores_and_mask_logits(name: str) -> None:
    model = MODELS[name]().eval()
    data = batch()
    prediction = model({"image": data["image"], "tokens": data["tokens"]})
    assert ("box" in prediction) == (name != "masks alone")
    assert ("mask" in prediction) == (name != "boxes")
    if "box" in prediction:
        assert prediction["box"].shape == (4, 4) and prediction["box"].dtype == torch.float32
        assert (prediction["box"][:, 2:] > prediction["box"][:, :2]).all()
        assert prediction["score"].shape == (4,)
    if "mask" in prediction:
        assert prediction["mask"].shape == (4, 1, 64, 64)


@ALL
@torch.no_grad()
def test_many_phrases_on_one_encoded_image_get_what_repeated_images_get(name: str) -> None:
    model = MODELS[name]().eval()
    data = batch()
    images = torch.tensor([0, 0, 1, 3])
    repeated = model({"image": data["image"][images], "tokens": data["tokens"]})
    shared = model({"image": data["image"], "tokens": data["tokens"], "image_index": images})
    features = model.encode_image(data["image"])
    grounded = model.ground(features, data["tokens"], images)
    for key, value in repeated.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(grounded[key], shared[key])


@pytest.mark.parametrize("name", ["boxes and masks", "mcn"])
def test_it_learns_where_the_rectangle_is(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train()
    data = batch(8, masks=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        model(data)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        for _ in range(10):
            model(data)  # running statistics catch up
        prediction = model.eval()(data)
    assert box_iou(prediction["box"], cxcywh_to_xyxy(data["box"] * 64)).mean() > 0.7
    on, truth = prediction["mask"].sigmoid() > 0.5, data["mask"] > 127
    assert ((on & truth).sum() / (on | truth).sum()) > 0.7


@ALL
def test_outputs_and_losses_stay_float32_under_bfloat16_autocast(name: str) -> None:
    model = MODELS[name]().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch(masks=True))
        prediction = model.eval()(batch())
    assert {value.dtype for value in (*losses.values(), *prediction.values())} == {torch.float32}


def test_a_head_sits_on_the_map_of_its_stride_and_nothing_else_is_built() -> None:
    fine, coarse = simrec(stride=8), simrec(stride=32)
    assert list(fine.multi_scale_manner.out) == ["0"] and len(fine.multi_scale_manner.down) == 0
    assert list(coarse.multi_scale_manner.out) == ["2"] and len(coarse.multi_scale_manner.down) == 2
    data = batch()
    with torch.no_grad():
        for model, cells in ((fine, 8), (coarse, 2)):
            model.eval()
            raw = model.forward_features(model.encode_image(data["image"]), data["tokens"])
            assert raw["head"].shape == (4, 5, cells, cells)


def test_suppression_weights_the_mask_by_the_box() -> None:
    torch.manual_seed(0)
    plain = mcn().eval()
    data = batch()
    with torch.no_grad():
        reference = plain(data)
        left, top, right, bottom = reference["box"][0]
        inside = torch.zeros(64, 64, dtype=torch.bool)
        rows, columns = torch.arange(64) + 0.5, torch.arange(64) + 0.5
        inside = ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))
        plain.suppression = "hard"
        assert (plain(data)["mask"][0, 0].sigmoid()[~inside] < 1e-5).all()
        plain.suppression = "soft"
        soft = plain(data)["mask"][0, 0].sigmoid()
    probability, score = reference["mask"][0, 0].sigmoid(), reference["score"][0]
    torch.testing.assert_close(soft[~inside], probability[~inside] * score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(soft[inside], (probability[inside] * (2 - score)).clamp(max=1), rtol=1e-4, atol=1e-5)


def parts(**changes) -> dict:
    made = {
        "visual_backbone": backbone(),
        "language_encoder": encoder(),
        "multi_scale_manner": MultiScaleFusion((WIDTH,) * 3, hidden_planes=WIDTH),
        "fusion_manner": nn.ModuleList(SimpleFusion(c, WIDTH, WIDTH) for c in (32, 64, 128)),
        "attention_manner": attention(),
        "head": REChead(width=0.125, strides=[32], in_channels=[WIDTH]),
    }
    return made | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_backbone": backbone(out_strides=(16, 32))}, r"3 fusions.*2 maps"),
        ({"visual_backbone": backbone(out_strides=(8, 16))}, r"3 fusions.*2 maps"),
        ({"visual_backbone": backbone(width=0.25)}, r"\(64, 128, 256\).*\(32, 64, 128\)"),
        ({"visual_backbone": nn.Identity()}, "no strides and channels"),
        (
            {"multi_scale_manner": MultiScaleFusion((16, 16, 16), hidden_planes=WIDTH)},
            r"\(32, 32, 32\).*\(16, 16, 16\)",
        ),
        ({"head": REChead(width=0.125, strides=[64], in_channels=[WIDTH])}, r"stride 64.*\(8, 16, 32\)"),
        ({"head": REChead(width=0.125, strides=[32], in_channels=[512])}, "in_channels of head is 512.*32 channels"),
        ({"attention_manner": None}, "attention come together"),
        ({"head": None, "attention_manner": None}, "needs a head"),
        ({"mask_head": mask_head()}, "attention come together"),
        ({"fusion_manner": nn.ModuleList(SimpleFusion(c, WIDTH, 99) for c in (32, 64, 128))}, "vectors of 32.*99"),
    ],
)
def test_parts_that_do_not_fit_are_refused_naming_both(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimREC(**parts(**changes))


def test_an_image_size_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"72x72 pixels.*stride 32"):
        simrec().eval()(batch(size=72))


def test_a_mask_model_on_data_without_masks_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no mask: set dataset\.with_masks=true"):
        simrec(masks=True).train()(batch())


def test_training_on_one_phrase_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="at least 2 per process"):
        simrec().train()(batch(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 80}, "num_classes must be 0, not 80"),
        ({"strides": [8, 16]}, "one level"),
        ({"box_loss": "ciou"}, "ciou.*iou, giou, diou"),
        ({"act": "gelu"}, "gelu.*silu, relu, lrelu"),
        ({"iou_aware": True, "objectness_loss": "softmax"}, "needs objectness_loss=bce"),
        ({"box_voting": 1.0}, "IoU from 0 to below 1, or None, not 1.0"),
        ({"box_voting": False}, "or None, not False"),  # 0 would let all that overlap vote
    ],
)
def test_head_options_that_do_not_exist_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REChead(**options)


def test_the_published_model_has_its_published_size() -> None:
    cfg = get_config("simrec_refcoco_scratch.py").model
    cfg.language_encoder.token_size, cfg.visual_backbone.pretrained = 10_000, False
    with torch.device("meta"):
        model = instantiate(cfg)
    # 43.19 M published, less the parts nobody reads: two projections (768 + 1024) * 512 with norms, and w_m.
    unread = (768 + 1024) * 512 + 4 * 512 + 512 * 9 + 1
    total = sum(p.numel() for p in model.parameters())
    assert round((total + unread) / 1e6, 2) == 43.19


def test_cells_that_predict_patches_draw_what_is_smaller_than_a_cell() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, WIDTH, 8, 8)
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    mask[:, :, 9:12, 20:23] = 255  # 3 pixels in cells of 8
    overlap = {}
    for sub_cells in (1, 8):
        head = MaskHead(WIDTH, 16, stride=8, dilations=(2,), sub_cells=sub_cells)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            head.losses(head(x), mask)["loss"].backward()
            optimizer.step()
        predicted, wanted = head.predict(head(x))["mask"] > 0, mask > 0
        assert predicted.shape == wanted.shape
        overlap[sub_cells] = ((predicted & wanted).sum() / (predicted | wanted).sum()).item()
    assert overlap[8] > 0.9 > overlap[1]
    with pytest.raises(ValueError, match="stride 8 cannot split its cells in 3"):
        MaskHead(WIDTH, 16, stride=8, sub_cells=3)


def test_simrec_learns_from_any_number_of_objects_and_then_answers_with_every_cell() -> None:
    model, data = simrec(), batch()
    ones = {"boxes": data["box"][:, None], "box_count": torch.ones(4, dtype=torch.int64)}
    with torch.no_grad():
        alone, among = (model.train()(inputs)["loss"] for inputs in (data, data | ones))
    assert torch.equal(alone, among), "one object of several is one object"
    none = {"boxes": torch.zeros(4, 2, 4), "box_count": torch.zeros(4, dtype=torch.int64)}
    losses = model(data | none)
    assert losses["loss_iou"] == 0 and losses["loss"].isfinite()
    with torch.no_grad():
        plain, every = (model.eval()(inputs) for inputs in (data, data | ones))
    assert set(every) - set(plain) == {"candidate_boxes", "candidate_scores"} and torch.equal(
        every["box"], plain["box"]
    )
    best = every["candidate_scores"].argmax(1)
    torch.testing.assert_close(every["candidate_boxes"][torch.arange(4), best], plain["box"])
    torch.testing.assert_close(every["candidate_scores"].max(1).values, plain["score"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: simrec(), ""),
        (lambda: simrec(boxes=False, masks=True), ""),
        (lambda: simrec(objectness_loss="softmax"), "set model.head.objectness_loss=bce"),
        (lambda: mcn(), "it knows the batch's `box` alone"),
    ],
)
def test_a_model_tells_whether_it_can_learn_from_any_number_of_objects(model, reason: str) -> None:
    said = abilities(model()).one_only
    assert reason in said and bool(said) == bool(reason)


def test_what_gpus_compute_in_another_way_is_what_torch_gives():
    """Gradients of upsampling and of means of 2x2 places, and the stem's convolution."""
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    stem = Stem(8).double()
    for own, plain in (
        (lambda x: Upsampled.apply(x, 2), lambda x: upsample(x, 2)),
        (halved, AveragePool()),
        (stem.side_by_side, stem.conv),
    ):
        y, wanted = own(x), plain(x)
        grad = torch.randn_like(y)
        assert torch.allclose(y, wanted, atol=1e-12)
        assert torch.allclose(*(torch.autograd.grad(each, x, grad)[0] for each in (y, wanted)), atol=1e-12)
