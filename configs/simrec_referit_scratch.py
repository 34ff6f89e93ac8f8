"""SimREC on ReferItGame (RefClef), otherwise as simrec_refcoco_scratch."""

from .simrec_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "referit"
train.output_dir = "outputs/simrec_referit_scratch"
train.evaluation.splits = ["val", "test"]
