"""SimREC on RefCOCO with the published recipe: 25 epochs, batch 32, cosine schedule, EMA, multi-scale."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "refcoco"
dataset.use_glove, dataset.word_vectors = True, "en_core_web_lg"
model.visual_backbone.pretrained = True  # frozen, so it must be
train.output_dir = "outputs/simrec_refcoco_scratch"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val", "testA", "testB"]
