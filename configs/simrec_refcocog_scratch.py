"""SimREC on RefCOCOg (umd split: sentences are longer), otherwise as simrec_refcoco_scratch."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcocog"
dataset.max_token_length = 20  # 95 % of its sentences have at most 16 words, 99 % at most 21
train.output_dir = "outputs/simrec_refcocog_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "test"]
