"""SimREC on RefCOCO as published: 25 epochs, batch 32, cosine schedule, EMA, multi-scale."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
train.output_dir = "outputs/simrec_refcoco_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
