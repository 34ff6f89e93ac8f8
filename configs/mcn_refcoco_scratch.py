"""MCN on RefCOCO as published: 39 epochs, step schedule, no EMA, one image size."""

from .common.dataset import dataset
from .common.models.mcn import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
dataset.with_masks = True
dataset.use_glove, dataset.word_vectors = True, "en_core_web_lg"
model.visual_backbone.pretrained = True  # frozen, so it must be
train.epochs = 39
train.scheduler.name = "step"
train.ema.enabled = False
train.multi_scale_training.enabled = False
train.output_dir = "outputs/mcn_refcoco_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
