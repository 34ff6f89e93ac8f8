"""SimREC on RefCOCO from public parts only: a timm backbone with timm's own weights, word vectors learnt from scratch."""

from .common.dataset import dataset
from .common.models.simrec_timm import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
train.data.mean, train.data.std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # what timm's resnet50 was trained with
train.output_dir = "outputs/simrec_timm_refcoco_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
