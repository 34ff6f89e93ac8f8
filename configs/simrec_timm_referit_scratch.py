"""SimREC on ReferItGame (RefClef) from public parts only, otherwise as simrec_timm_refcoco_scratch."""

from .simrec_timm_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "referit"
train.output_dir = "outputs/simrec_timm_referit_scratch"
train.evaluation.splits = ["val", "test"]
