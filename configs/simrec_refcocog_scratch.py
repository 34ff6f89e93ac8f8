"""SimREC on RefCOCOg (umd split: sentences are longer), otherwise as simrec_refcoco_scratch."""

from .simrec_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "refcocog"
dataset.max_token_length = 20  # 95 % of its sentences have at most 16 words, 99 % at most 21
train.output_dir = "outputs/simrec_refcocog_scratch"
train.evaluation.splits = ["val", "test"]
