"""A data set and a model with known answers, in the shape of the real contracts; also run by torchrun as a script."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from rec import boxes
from rec.data.samples import collate

SIZE = 64


class ToySplit(torch.utils.data.Dataset):
    """``length`` samples; the truth of sample i is a box that depends on i alone, on images of varying size."""

    def __init__(self, length: int, with_masks: bool = False):
        self.length, self.with_masks = length, with_masks

    def __len__(self):
        return self.length

    def truth(self, i):
        generator = np.random.default_rng(i)
        height, width = (int(v) for v in generator.integers(40, 120, 2))
        left, top = generator.uniform(0, 0.4, 2) * (width, height)
        w, h = generator.uniform(0.2, 0.6, 2) * (width, height)
        return boxes.letterbox_geometry(height, width, SIZE), np.array([left, top, left + w, top + h], np.float32)

    def __getitem__(self, i):
        geometry, box = self.truth(i)
        square = boxes.xyxy_to_cxcywh(boxes.to_letterbox(box, geometry)) / SIZE
        return {
            "image": torch.full((3, SIZE, SIZE), i % 256, dtype=torch.uint8),
            "tokens": torch.tensor([3, i % 7 + 1, 0]),
            "box": torch.tensor(square, dtype=torch.float32),
            "box_pixels": torch.tensor(box),
            "geometry": torch.tensor(geometry),
            "index": torch.tensor(i),
        }

    def collate(self, samples):
        return torch.utils.data.default_collate(samples)

    def target_mask(self, i):
        if not self.with_masks:
            return None
        geometry, box = self.truth(i)
        mask = np.zeros(geometry[:2].astype(int), bool)
        left, top, right, bottom = box.astype(int)
        mask[top:bottom, left:right] = True
        return mask

    def describe(self, i):
        return {
            "image": f"{i}.jpg",
            "image_id": str(i),
            "ref_id": f"r{i}",
            "sentence_index": 0,
            "sentence": f"thing {i}" + " very red" * (i % 5),
            "source": "toy",
        }


class ToyModel(torch.nn.Module):
    """Answers the true box shifted by up to a third of its size, by a rule of the sample's index."""

    mask_threshold = 0.35

    def __init__(self, with_masks: bool = False):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.with_masks = with_masks
        self.batches_seen = 0

    def forward(self, batch):
        assert not self.training and torch.is_inference_mode_enabled()
        self.batches_seen += 1
        cxcywh = batch["box"] * SIZE
        shift = (batch["index"] % 10).float()[:, None] / 30 * cxcywh[:, 2:]
        outputs = {"box": boxes.cxcywh_to_xyxy(torch.cat([cxcywh[:, :2] + shift, cxcywh[:, 2:]], 1))}
        outputs["score"] = 1 - (batch["index"] % 10).float() / 10
        if self.with_masks:
            rows = torch.arange(SIZE).view(1, SIZE, 1) + 0.5
            columns = torch.arange(SIZE).view(1, 1, SIZE) + 0.5
            left, top, right, bottom = (outputs["box"][:, i].view(-1, 1, 1) for i in range(4))
            inside = (rows > top) & (rows < bottom) & (columns > left) & (columns < right)
            outputs["mask"] = (inside.float() * 12 - 6)[:, None]
        return outputs


class AnySplit(ToySplit):
    """Phrases of none to three objects: ``i % 4`` of them, side by side."""

    targets = "any"

    def objects(self, i):
        _, box = self.truth(i)
        width = (box[2] - box[0]) / 3
        lefts = box[0] + width * np.arange(i % 4)
        return np.stack([lefts, 0 * lefts + box[1], lefts + width, 0 * lefts + box[3]], 1).astype(np.float32)

    def __getitem__(self, i):
        geometry, _ = self.truth(i)
        objects = self.objects(i)
        square = boxes.xyxy_to_cxcywh(boxes.to_letterbox(objects, geometry[None])) / SIZE
        first = np.concatenate([objects, np.zeros((1, 4), np.float32)])[0]
        more = {"boxes": torch.tensor(square, dtype=torch.float32), "boxes_pixels": torch.tensor(objects)}
        return super().__getitem__(i) | more | {"box_count": torch.tensor(i % 4), "box_pixels": torch.tensor(first)}

    def collate(self, samples):
        return collate(samples)

    def target_mask(self, i):
        geometry, _ = self.truth(i)
        mask = np.zeros(geometry[:2].astype(int), bool)
        for left, top, right, bottom in self.objects(i).round().astype(int):
            mask[top:bottom, left:right] = True
        return mask


class AnyModel(ToyModel):
    """Finds every object, with a score of 0.8, and beside it, or where nothing is, something of a score that varies to 0.6."""

    several = True

    def forward(self, batch):
        count, most = batch["boxes"].shape[:2]
        found = boxes.cxcywh_to_xyxy(batch["boxes"] * SIZE)
        scores = torch.where(torch.arange(most) < batch["box_count"][:, None], 0.8, 0.0)
        wrong = torch.tensor([1.0, 1, 9, 9]).expand(count, 1, 4)
        doubt = (batch["index"] % 7).float()[:, None] / 10
        candidates = {
            "candidate_boxes": torch.cat([found, wrong], 1),
            "candidate_scores": torch.cat([scores, doubt], 1),
        }
        return super().forward(batch) | candidates


def run_any(accelerator, length: int, indices: list[int]) -> dict:
    """Metrics and records of phrases of any number of objects."""
    from rec.evaluation import evaluate

    dataset = AnySplit(length)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=[indices] if indices else [], collate_fn=dataset.collate
    )
    model = AnyModel(with_masks=True)
    metrics, records = evaluate(model, loader, dataset, accelerator, mean=[0, 0, 0], std=[1, 1, 1])
    return {"metrics": {k: v for k, v in metrics.items() if v == v}, "records": json.loads(json.dumps(records))}


def run(accelerator, length: int, batch_size: int) -> dict:
    """One evaluation, with samples dealt unevenly: the first process has the least, with few samples it has none."""
    from rec.evaluation import evaluate

    dataset = ToySplit(length, with_masks=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    cuts = [length * k * k // (world * world) for k in range(world + 1)]
    mine = list(range(cuts[rank], cuts[rank + 1]))
    batches = [mine[k : k + batch_size] for k in range(0, len(mine), batch_size)]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=dataset.collate)
    model = ToyModel(with_masks=True)
    model.norm.running_mean += rank
    wrapped = accelerator.prepare(model)
    metrics, records = evaluate(wrapped, loader, dataset, accelerator, mean=[0, 0, 0], std=[1, 1, 1])
    report = {"metrics": metrics, "records": records, "samples_here": len(mine), "processes": world}
    return report | {"buffer": model.norm.running_mean.tolist(), "any": run_any(accelerator, length, mine)}


if __name__ == "__main__":
    from accelerate import Accelerator

    from rec.training.process import end_together

    out, *lengths = sys.argv[1:]
    process = Accelerator(cpu=True)
    reports = {length: run(process, int(length), 3) for length in lengths}
    Path(f"{out}.{process.process_index}.json").write_text(json.dumps(reports), encoding="utf-8")
    end_together(process)
