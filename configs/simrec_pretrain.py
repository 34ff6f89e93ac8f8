"""SimREC on the merged pre-training set (RefCOCO family, ReferIt, Flickr30k, Visual Genome): 15 epochs, backbone trained."""

from .common.dataset import dataset
from .common.models.simrec import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "merge"
dataset.use_glove, dataset.word_vectors = True, "en_core_web_lg"
model.visual_backbone.pretrained = True
model.visual_backbone.freeze_backbone = False
train.epochs = 15
train.output_dir = "outputs/simrec_pretrain"
train.batch_size = 32
train.evaluation.eval_batch_size = 32
train.evaluation.splits = ["val"]
