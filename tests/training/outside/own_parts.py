"""A model and a data set that know nothing of rec."""

import time

import torch
from torch import nn


class OwnDataset:
    def __init__(self, length, delay=0.0, split="train"):
        self.length, self.delay, self.first = length, delay, 0 if split == "train" else 10_000

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(self.delay)
        generator = torch.Generator().manual_seed(self.first + index)
        box = torch.rand(4, generator=generator) * 0.3 + 0.3
        image = (box.mean() * 255).to(torch.uint8).expand(3, 32, 32).clone()
        left, top, width, height = (box * 32).tolist()
        pixels = torch.tensor([left - width / 2, top - height / 2, left + width / 2, top + height / 2])
        geometry = torch.tensor([32.0, 32, 32, 32, 0, 0])
        return {"image": image, "box": box, "box_pixels": pixels, "geometry": geometry, "index": index}


class OwnModel(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1))
        self.box = nn.Linear(width, 4)

    def forward(self, batch):
        box = self.box(self.features(batch["image"]).mean((2, 3))).float().sigmoid()
        if self.training:
            # Beside "loss", any number of named values is logged: this one tells which samples an update was made of.
            return {"loss": (box - batch["box"]).abs().mean(), "samples": batch["index"].sum().float()}
        size = batch["image"].shape[-1]
        corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1) * size
        return {"box": corners, "score": torch.ones(len(box))}
