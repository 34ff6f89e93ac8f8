"""SimREC on RefCOCO+, otherwise as simrec_refcoco_scratch."""

from .simrec_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "refcoco+"
train.output_dir = "outputs/simrec_refcoco+_scratch"
