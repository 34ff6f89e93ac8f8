"""SimREC on RefCOCO+, otherwise as simrec_refcoco_scratch."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco+"
train.output_dir = "outputs/simrec_refcoco+_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
