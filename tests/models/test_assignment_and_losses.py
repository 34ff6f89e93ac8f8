"""Assignment without a loop equals the loop; box losses are the formulas; counts are exact across processes."""

import math
import multiprocessing
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assigned
from torch import Tensor
from torch.nn import functional as F

from rec.boxes import box_iou, cxcywh_to_xyxy, suppress
from rec.models import losses
from rec.models.anchor_head import MCNhead
from rec.models.assignment import cell_numbers, dynamic_assignment
from rec.models.heads import REChead
from rec.models.losses import BOX_LOSSES, dice_loss, mask_cross_entropy
from rec.models.mask_head import MaskHead


def looped_assignment(boxes: Tensor, target: Tensor, centres: Tensor, stride: int) -> set[int]:
    """The rule as written, for one image, in plain Python."""
    x, y, w, h = target.tolist()
    if x + y + w + h <= 0:
        return set()
    costs, ious = {}, []
    for cell, (cx, cy) in enumerate(centres.tolist()):
        inside = x - w / 2 < cx < x + w / 2 and y - h / 2 < cy < y + h / 2
        near = abs(cx - x) < 2.5 * stride and abs(cy - y) < 2.5 * stride
        if inside or near:
            iou = box_iou(cxcywh_to_xyxy(boxes[cell]), cxcywh_to_xyxy(target)).item()
            ious.append(iou)
            costs[cell] = -3 * math.log(iou + 1e-8) + (0 if inside and near else 1e5)
    k = max(1, int(sum(sorted(ious)[-10:])))
    return set(sorted(costs, key=costs.__getitem__)[:k])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    grid=st.integers(2, 12),
    centre=st.tuples(st.floats(0.02, 0.97), st.floats(0.02, 0.97)),
    size=st.tuples(st.floats(0.03, 0.99), st.floats(0.03, 0.99)),
    quality=st.floats(0.02, 2.0),
)
def test_batched_assignment_is_the_rule_applied_image_by_image(seed, grid, centre, size, quality) -> None:
    generator = torch.Generator().manual_seed(seed)
    stride = 16
    target = torch.tensor([[*centre, *size], [0, 0, 0, 0], [*reversed(centre), *size]], dtype=torch.float64)
    target = target * grid * stride
    noise = torch.randn(3, grid * grid, 4, generator=generator, dtype=torch.float64) * quality * stride
    boxes = target[:, None] + noise
    boxes[..., 2:] = boxes[..., 2:].abs() + 1
    centres = (cell_numbers(boxes.new_zeros(1, 1, grid, grid)) + 0.5) * stride
    iou = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target)[:, None])
    got = dynamic_assignment(iou, target, centres, stride)
    for row in range(3):
        cells = got.cells[row][got.positive[row]].tolist()
        assert len(set(cells)) == len(cells)
        want = looped_assignment(boxes[row], target[row], centres, stride)
        overlaps = iou[row]
        # Cells whose boxes miss the object all cost the same: how many of them are taken is defined, which is not.
        assert len(cells) == len(want)
        assert {c for c in cells if overlaps[c] > 0} == {c for c in want if overlaps[c] > 0}


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), grid=st.integers(3, 12), objects=st.integers(2, 5), quality=st.floats(0.02, 0.5))
def test_a_cell_that_several_objects_want_goes_to_the_one_it_overlaps_most(seed, grid, objects, quality) -> None:
    generator = torch.Generator().manual_seed(seed)
    stride = 16
    target = torch.rand(2, objects, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.3  # they overlap
    target[1, -1] = 0
    target = target * grid * stride
    boxes = target[:, torch.arange(grid * grid) % objects].clone()
    boxes += torch.randn(boxes.shape, generator=generator, dtype=torch.float64) * quality * stride
    boxes[..., 2:] = boxes[..., 2:].abs() + 1
    centres = (cell_numbers(boxes.new_zeros(1, 1, grid, grid)) + 0.5) * stride
    iou = box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target)[:, :, None])
    got = dynamic_assignment(iou, target, centres, stride)
    for row in range(2):
        wants = [looped_assignment(boxes[row], one, centres, stride) for one in target[row]]
        given = [cells[positive].tolist() for cells, positive in zip(got.cells[row], got.positive[row], strict=True)]
        assert len(set().union(*given)) == sum(map(len, given)), "no cell has two objects"
        for number, cells in enumerate(given):
            overlap = iou[row]
            rivals = {c: [t for t in range(objects) if c in wants[t]] for c in wants[number] if overlap[number, c] > 0}
            want = {c for c, who in rivals.items() if max(who, key=lambda t: overlap[t, c]) == number}
            assert {c for c in cells if overlap[number, c] > 0} == want
    single = dynamic_assignment(iou[:, :1], target[:, :1], centres, stride)
    alone = dynamic_assignment(iou[:, 0], target[:, 0], centres, stride)
    assert torch.equal(single.cells[:, 0], alone.cells) and torch.equal(single.positive[:, 0], alone.positive)


@pytest.mark.parametrize("normalize_by", ["batch", "image"])
def test_one_object_costs_the_same_to_the_bit_alone_and_among_several(normalize_by: str) -> None:
    head = REChead(strides=[16], use_l1=True, label_smooth=0.01, box_loss="giou", normalize_by=normalize_by)
    found = []
    for shape in (lambda box: box, lambda box: box[:, None], lambda box: torch.stack([box, box * 0], 1)):
        raw, box = head_inputs()
        losses_found = head.losses(raw.requires_grad_(), shape(box))
        losses_found["loss"].backward()
        found.append([*losses_found.values(), raw.grad])
    assert all(torch.equal(one, same) for one, same in zip(found[0], found[1], strict=True))
    torch.testing.assert_close(found[2], found[0])  # rows of zeros are not objects; they change the order of a sum


def test_several_objects_are_learnt_and_none_is_answered_with_none() -> None:
    head = REChead(strides=[16], box_loss="giou", prior_probability=0.01)
    torch.manual_seed(0)
    raw = (torch.randn(3, 5, 8, 8) * 0.3).requires_grad_()
    boxes = torch.zeros(3, 3, 4)
    boxes[0] = torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.7, 0.7, 0.4, 0.3], [0.35, 0.35, 0.3, 0.2]])
    boxes[1, 0] = torch.tensor([0.5, 0.5, 0.4, 0.4])
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        head.losses(raw, boxes)["loss"].backward()
        optimizer.step()
    found, scores = head.candidates(raw.detach())
    kept = [
        [found[i, k] for k in suppress(found[i].numpy(), scores[i].numpy(), 64, 0.5) if scores[i, k] > 0.5]
        for i in range(3)
    ]
    assert [len(one) for one in kept] == [3, 1, 0]
    overlap = box_iou(torch.stack(kept[0])[:, None], cxcywh_to_xyxy(boxes[0] * 128)[None])
    assert overlap.max(0).values.min() > 0.9


def test_softmax_objectness_refuses_several_objects_with_its_reason() -> None:
    head = REChead(strides=[16], objectness_loss="softmax")
    with pytest.raises(
        ValueError, match=r"none or several objects: .*exactly one answer: set model\.head\.objectness_loss=bce"
    ):
        head.losses(torch.zeros(1, 5, 4, 4), torch.zeros(1, 2, 4))


def test_no_object_no_positive_cells_and_finite_gradients() -> None:
    head = REChead(strides=[16], in_channels=[8], width=0.125)
    raw = torch.randn(2, 5, 4, 4, requires_grad=True)
    found = head.losses(raw, torch.zeros(2, 4))
    assert found["loss_iou"] == 0
    found["loss"].backward()
    assert raw.grad.isfinite().all() and raw.grad[:, :4].abs().max() == 0


def test_a_wild_box_in_a_cell_without_object_does_not_spoil_the_gradient() -> None:
    head = REChead(strides=[16], in_channels=[8], width=0.125)
    raw = torch.zeros(1, 5, 8, 8)
    raw[0, 2:4, 7, 7] = 200.0  # exp overflows
    raw.requires_grad_()
    head.losses(raw, torch.tensor([[0.2, 0.2, 0.1, 0.1]]))["loss"].backward()
    assert raw.grad.isfinite().all()


def test_label_smoothing_clamps_objectness_targets_and_touches_nothing_else() -> None:
    raw, box = torch.randn(1, 5, 4, 4), torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    plain, smooth = (REChead(strides=[16], label_smooth=s).losses(raw, box) for s in (0.0, 0.1))
    assignment = assigned(REChead(strides=[16]), raw, box * 64)
    targets = torch.full((16,), 0.1)
    targets[assignment.cells[assignment.positive]] = 0.9
    want = torch.nn.functional.binary_cross_entropy_with_logits(raw[0, 4].flatten(), targets, reduction="sum")
    torch.testing.assert_close(smooth["loss_obj"], want / assignment.positive.sum())
    assert smooth["loss_iou"] == plain["loss_iou"]


@settings(max_examples=100)
@given(st.lists(st.floats(0.1, 0.9), min_size=8, max_size=8))
def test_box_losses_are_their_formulas(values: list[float]) -> None:
    a, b = torch.tensor(values, dtype=torch.float64).view(2, 4)
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    left, top = max(ax - aw / 2, bx - bw / 2), max(ay - ah / 2, by - bh / 2)
    right, bottom = min(ax + aw / 2, bx + bw / 2), min(ay + ah / 2, by + bh / 2)
    overlap = max(0, right - left) * max(0, bottom - top)
    union = aw * ah + bw * bh - overlap
    width = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    height = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    iou, hull = overlap / union, width * height
    want = {
        "iou": 1 - iou**2,
        "giou": 1 - (iou - (hull - union) / hull),
        "diou": 1 - (iou - ((ax - bx) ** 2 + (ay - by) ** 2) / (width**2 + height**2)),
    }
    for name, value in want.items():
        assert BOX_LOSSES[name](losses.centred_iou(a, b), a, b).item() == pytest.approx(value, abs=1e-12), name
        assert BOX_LOSSES[name](losses.centred_iou(a, a), a, a).item() == pytest.approx(0, abs=1e-12), name


@pytest.mark.parametrize("box_loss", BOX_LOSSES)
def test_every_box_loss_trains_the_head(box_loss: str) -> None:
    head = REChead(strides=[16], box_loss=box_loss)
    torch.manual_seed(0)
    raw = (torch.randn(2, 5, 4, 4) * 0.3).requires_grad_()
    box = torch.tensor([[0.4, 0.5, 0.5, 0.4], [0.6, 0.3, 0.2, 0.3]])
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        head.losses(raw, box)["loss"].backward()
        optimizer.step()
    found = head.predict(raw)
    assert box_iou(found["box"], cxcywh_to_xyxy(box * 64)).min() > 0.9
    assert found["score"].min() > 0.9


def test_a_vote_is_the_mean_by_score_of_the_boxes_that_overlap_the_best_and_the_same_among_all_answers() -> None:
    torch.manual_seed(0)
    raw = torch.randn(6, 5, 8, 8) * 0.3
    raw[:, 2:4] += 1.5
    raw[5, 2:4] = -200.0  # boxes without area, which overlap nothing, themselves included
    plain, voting = REChead(strides=[16]), REChead(strides=[16], box_voting=0.5)
    (boxes, scores), best = plain.candidates(raw), plain.predict(raw)
    near = box_iou(best["box"][:, None], boxes) > 0.5
    assert near[:5].sum(1).min() > 1  # there is something to vote
    votes = (near * scores)[..., None]
    expected = torch.cat([((votes * boxes).sum(1) / votes.sum(1))[:5], best["box"][5:]])
    found, (every, same) = voting.predict(raw), voting.candidates(raw)
    torch.testing.assert_close(found["box"], expected)
    assert torch.equal(found["score"], best["score"]) and torch.equal(same, scores)
    torch.testing.assert_close(every[torch.arange(6), scores.argmax(1)], found["box"])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(voting.predict(raw)["box"], found["box"])


@pytest.mark.parametrize("several", [False, True])
def test_an_iou_aware_head_teaches_each_positive_cell_how_well_its_box_fits(several: bool) -> None:
    torch.manual_seed(0)
    raw = torch.randn(3, 5, 8, 8) * 0.3
    raw[:, 2:4] += 1.0
    raw.requires_grad_()
    box = torch.tensor([[0.4, 0.5, 0.4, 0.4], [0.6, 0.3, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0]])
    if several:
        box = torch.stack([box, torch.tensor([[0.8, 0.8, 0.3, 0.2], [0.0] * 4, [0.0] * 4])], 1)
    head = REChead(strides=[16], iou_aware=True)
    losses = head.losses(raw, box)

    boxes, numbers = head.decode(raw.detach()), cell_numbers(raw)
    targets = box.reshape(3, -1, 4) * 128
    iou = box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(targets)[:, :, None])
    cells, positive = dynamic_assignment(iou, targets, (numbers + 0.5) * 16, 16)
    wanted = torch.zeros(3, 64)
    for image, thing, place in positive.nonzero().tolist():
        cell = cells[image, thing, place]
        wanted[image, cell] = iou[image, thing, cell]
    assert ((wanted > 0) & (wanted < 0.95)).sum() > 3
    entropy = F.binary_cross_entropy_with_logits(raw[:, 4].flatten(1), wanted, reduction="sum")
    torch.testing.assert_close(losses["loss_obj"], entropy / positive.sum())
    torch.testing.assert_close(losses["loss_iou"], REChead(strides=[16]).losses(raw, box)["loss_iou"])
    assert not torch.autograd.grad(losses["loss_obj"], raw)[0][:, :4].any()  # a score does not bend its box


def test_mask_losses_vanish_on_the_right_mask_and_not_elsewhere() -> None:
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    mask[:, :, 2:5, 3:6] = 255
    right = (mask.float() / 255 - 0.5) * 60
    for loss in (mask_cross_entropy, dice_loss):
        assert loss(right, mask) < 1e-3 < 0.3 < loss(-right, mask)


def test_consistency_of_mean_directions_is_the_double_sum_over_cell_pairs() -> None:
    torch.manual_seed(0)
    head = MCNhead(6, 4, anchors=[[20, 20]], dilations=(2,)).double()
    head.requires_grad_(False)
    a, e = torch.randn(2, 6, 3, 3).double(), torch.randn(2, 6, 5, 5).double()
    p, r = head.box_energy(a).flatten(1).softmax(1), head.mask_energy(e).flatten(1).softmax(1)
    for row in range(2):
        total = 0.0
        for cell in range(9):
            for other in range(25):
                u, v = a[row].flatten(1)[:, cell], e[row].flatten(1)[:, other]
                total += p[row, cell] * r[row, other] * ((u @ v) / (u.norm() * v.norm()) + 1) / 2
        assert head.consistency(a, e)[row].item() == pytest.approx(-math.log(total + 1e-6), rel=1e-9)


def test_mcn_loss_weights_do_not_grow_with_the_image_unless_asked() -> None:
    torch.manual_seed(0)
    found = {}
    for summed in (False, True):
        head = MCNhead(6, 4, anchors=[[20, 20]], strides=(32, 8), dilations=(2,), summed_losses=summed)
        for size in (64, 128):
            maps = [torch.zeros(2, 6, size // stride, size // stride) for stride in (32, 8)]
            raw, logits = head(*maps)
            mask = torch.zeros(2, 1, size, size, dtype=torch.uint8)
            parts = head.losses(raw, logits, *maps, torch.zeros(2, 4), mask)
            found[summed, size] = parts["loss_seg"].item()
    assert found[False, 64] == pytest.approx(found[False, 128], rel=0.2)
    assert found[True, 128] == pytest.approx(4 * found[True, 64], rel=0.2)


def weighted_losses(kind: str) -> Callable[[slice, Tensor | None], dict[str, Tensor]]:
    """``losses(rows, weight)`` of a head on some of four phrases."""
    torch.manual_seed(0)
    raw, box = head_inputs()
    mask = torch.randint(0, 2, (4, 1, 96, 96), dtype=torch.uint8) * 255
    if kind == "MCN":
        mcn = MCNhead(6, 4, anchors=[[20, 20]], strides=(16, 8), dilations=(2,)).eval()
        maps = torch.randn(4, 6, 6, 6), torch.randn(4, 6, 12, 12)
        found = mcn(*maps)
        return lambda rows, weight: mcn.losses(
            *(x[rows] for x in (*found, *maps, box, mask)), *([] if weight is None else [weight])
        )
    if kind == "mask":
        logits = torch.randn(4, 1, 12, 12)
        return lambda rows, weight: MaskHead(6, 4, 8).losses(logits[rows], mask[rows], weight)
    head = REChead(strides=[16], use_l1=True, objectness_loss=kind.split()[0], normalize_by="image")
    target = box[:, None].expand(4, 2, 4) * torch.tensor([[1.0], [0.5]]) if "several" in kind else box
    return lambda rows, weight: head.losses(raw[rows], target[rows], weight)


@pytest.mark.parametrize("kind", ["bce", "bce several", "softmax", "mask", "MCN"])
def test_a_weight_multiplies_every_loss_of_its_phrase(kind) -> None:
    losses, weight = weighted_losses(kind), torch.tensor([1.0, 0.25, 3.0, 0.5])
    with torch.no_grad():
        alone = [losses(slice(i, i + 1), None) for i in range(4)]
        found, ones, plain = (losses(slice(None), w) for w in (weight, torch.ones(4), None))
    for name in found:
        assert torch.equal(ones[name], plain[name])
        single = torch.stack([one[name] for one in alone])
        assert found[name].item() == pytest.approx((single * weight).mean().item(), rel=1e-5, abs=1e-7), name
        assert found[name] != plain[name]


def _rank_gradient(rank: int, port: int, normalize_by: str, queue) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    raw, box = head_inputs()
    part = raw[2 * rank : 2 * rank + 2].clone().requires_grad_()
    REChead(strides=[16], normalize_by=normalize_by).losses(part, box[2 * rank : 2 * rank + 2])["loss"].backward()
    queue.put((rank, (part.grad / 2).tolist()))  # data parallelism averages over processes
    dist.destroy_process_group()


def head_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(4, 5, 6, 6, generator=generator) * 0.2
    box = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.4, 0.5, 0.8, 0.7], [0.2, 0.3, 0.05, 0.05], [0.0, 0.0, 0.0, 0.0]])
    raw[:2, 2:4] += 1.5  # good boxes: many positives on the first process, few on the second
    return raw, box


@pytest.mark.parametrize("normalize_by", ["processes", "batch"])
def test_counts_over_processes_make_two_compute_the_loss_of_one(normalize_by: str) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_rank_gradient, args=(r, port, normalize_by, queue)) for r in range(2)]
    for process in processes:
        process.start()
    parts = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    raw, box = head_inputs()
    raw.requires_grad_()
    REChead(strides=[16]).losses(raw, box)["loss"].backward()
    together = torch.cat([torch.tensor(parts[0]), torch.tensor(parts[1])])
    assert torch.allclose(together, raw.grad, atol=1e-6) == (normalize_by == "processes")


@pytest.mark.parametrize("objectness_loss", ["bce", "softmax"])
def test_by_image_the_loss_is_exact_however_a_batch_is_divided(objectness_loss: str) -> None:
    raw, box = head_inputs()
    head = REChead(strides=[16], use_l1=True, objectness_loss=objectness_loss, normalize_by="image")
    whole = head.losses(raw, box)
    halves = [head.losses(raw[part], box[part]) for part in (slice(0, 2), slice(2, 4))]
    rows = [
        REChead(strides=[16], use_l1=True, objectness_loss=objectness_loss).losses(raw[i : i + 1], box[i : i + 1])
        for i in range(4)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)
        torch.testing.assert_close(value, torch.stack([row[name] for row in rows]).mean())


def test_softmax_objectness_prefers_the_positive_cells_and_ignores_a_common_shift():
    head = REChead(strides=[32], in_channels=[8], objectness_loss="softmax")
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    raw = torch.zeros(1, 5, 4, 4)
    cells = assigned(head, raw, box * 128).cells
    right, shifted = raw.clone(), raw.clone() + torch.tensor([0.0, 0, 0, 0, 7]).view(1, 5, 1, 1)
    right[:, 4].view(1, -1).scatter_(1, cells, 5.0)
    loss = [head.losses(values, box)["loss_obj"] for values in (raw, right, shifted)]
    assert loss[1] < loss[0] and torch.allclose(loss[0], loss[2])


def test_a_prior_probability_is_what_every_cell_starts_with():
    head = REChead(strides=[32], in_channels=[8], prior_probability=0.01)
    assert head.objectness.bias.sigmoid().item() == pytest.approx(0.01)
