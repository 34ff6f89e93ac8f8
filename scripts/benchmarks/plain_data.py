"""The plain data set: SimREC's JSON items, dense masks in ``.npy`` files, images normalised to float32 on the host."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset


class PlainDataSet(Dataset):
    """Samples as the original's loader makes them; no image is shared between phrases.

    Args:
        annotations: SimREC's JSON: ``{split: [{iid, bbox, refs, mask_id}]}``.
        images: folder of ``<iid:06d>.jpg``.
        masks: folder of ``<mask_id>.npy``.
        split: of the annotations.
        training: one item per object with a random sentence; otherwise one per sentence.
        size: side of the letterboxed square.
    """

    def __init__(self, annotations: Path, images: Path, masks: Path, split: str, training: bool, size: int) -> None:
        import omegaconf
        from torchvision import transforms

        everything = json.loads(annotations.read_text(encoding="utf-8"))
        self.words = {"PAD": 0, "UNK": 1, "CLS": 2}
        for part in everything.values():
            for item in part:
                for sentence in item["refs"]:
                    for word in split_words(sentence):
                        self.words.setdefault(word, len(self.words))
        items = everything[split]
        if not training:
            items = [item | {"refs": [sentence]} for item in items for sentence in item["refs"]]
        self.items, self.images, self.masks, self.size = items, images, masks, size
        given = omegaconf.OmegaConf.create({"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]})
        self.transforms = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean=given.mean, std=given.std)]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        item = self.items[number]
        sentence = item["refs"][np.random.choice(len(item["refs"]))]
        tokens = np.zeros(15, np.int64)
        for place, word in enumerate(split_words(sentence)[:15]):
            tokens[place] = self.words.get(word, 1)
        image: Any = cv2.imread(str(self.images / f"{item['iid']:06d}.jpg"))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        mask = np.load(self.masks / f"{item['mask_id']}.npy").astype(np.float32)
        box = np.array([item["bbox"]], np.float32)
        image, mask, label, info = letterbox(image, mask, box, self.size)
        return (
            torch.from_numpy(tokens),
            self.transforms(image),
            torch.from_numpy(mask).unsqueeze(0).float(),
            torch.from_numpy(label).float(),
            torch.from_numpy(box[0]),
            item["mask_id"],
            np.array(info),
        )


def split_words(sentence: str) -> list[str]:
    """The original's tokenisation."""
    for mark in ".,'!?\"()*#:;":
        sentence = sentence.replace(mark, "")
    return sentence.lower().replace("-", " ").replace("/", " ").split()


def letterbox(image: np.ndarray, mask: np.ndarray, box: np.ndarray, size: int) -> tuple[Any, ...]:
    """Image padded with 127, mask with 0, label as cxcywh fractions, and (h, w, nh, nw, dx, dy)."""
    height, width = image.shape[:2]
    aspect = width / height
    nh, nw = (size, int(size * aspect)) if aspect < 1 else (int(size / aspect), size)
    dx, dy = (size - nw) // 2, (size - nh) // 2
    square = np.full((size, size, 3), 127, np.uint8)
    square[dy : dy + nh, dx : dx + nw] = cv2.resize(image, (nw, nh))
    padded = np.zeros((size, size), np.float32)
    padded[dy : dy + nh, dx : dx + nw] = cv2.resize(mask, (nw, nh))
    x, y, w, h = (box[:, i] for i in range(4))
    centre = [(x + w / 2) * nw / width + dx, (y + h / 2) * nh / height + dy, w * nw / width, h * nh / height]
    return square, padded, np.stack(centre, 1) / size, (height, width, nh, nw, dx, dy)
