"""SimREC with a mask branch on RefCOCO: boxes and masks (referring expression segmentation)."""

from .common.dataset import dataset
from .common.models.simrec_res import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
dataset.with_masks = True
train.output_dir = "outputs/simrec_res_refcoco_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
