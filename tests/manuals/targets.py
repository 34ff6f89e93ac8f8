"""What configs of the cases call."""

from collections import namedtuple
from dataclasses import dataclass

Shape = namedtuple("Shape", "height width")


class Trainer:
    def __init__(self, optimizer=None, **more):
        self.optimizer, self.more = optimizer, more

    def __call__(self, x):
        return (self, x)


class Optimizer:
    def __init__(self, lr=0.1, algo="SGD"):
        self.lr, self.algo = lr, algo


@dataclass
class Spec:
    channels: int = 3
    height: int = 4


class Evaluator:
    def __init__(self, topk=(1,)):
        self.topk = topk


class WarmupCosineLR:
    def __init__(self, optimizer, max_iter, warmup_factor=0.001, alpha=0.0, warmup_method="linear"):
        raise AssertionError("never built")
