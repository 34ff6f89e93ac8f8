"""MCN as its authors ran it, original arithmetic included; dataset.dataset names the data set."""

from .common.original import mcn
from .mcn_refcoco_scratch import dataset, model, optim, train

mcn(model, dataset)
train.output_dir = "outputs/mcn_published"
