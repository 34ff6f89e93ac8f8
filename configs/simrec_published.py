"""SimREC from scratch as its authors ran it, original arithmetic included; dataset.dataset names the data set."""

from .common.original import simrec
from .simrec_refcoco_scratch import dataset, model, optim, train

simrec(model, dataset)
train.output_dir = "outputs/simrec_published"
