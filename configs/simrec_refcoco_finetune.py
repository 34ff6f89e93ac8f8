"""SimREC on RefCOCO from the pre-trained weights of simrec_pretrain (a model folder): small batch, everything trained."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
model.visual_backbone.freeze_backbone = False
train.load_weight = "outputs/simrec_pretrain/best"
train.output_dir = "outputs/simrec_refcoco_finetune"
train.batch_size = 4
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
