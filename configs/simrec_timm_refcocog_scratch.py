"""SimREC on RefCOCOg (umd split) from public parts only, otherwise as simrec_timm_refcoco_scratch."""

from .simrec_timm_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "refcocog"
dataset.max_token_length = 20  # 95 % of its sentences have at most 16 words, 99 % at most 21
train.output_dir = "outputs/simrec_timm_refcocog_scratch"
train.evaluation.splits = ["val", "test"]
