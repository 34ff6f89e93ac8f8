"""``dataset``, ``optim`` and ``train`` for photographs on two CPU cores, at 256 pixels.

Where the word vectors lie is told by the environment variable REC_GLOVE, a GloVe file of 50 dimensions, or by dataset.word_vectors.
"""

import os

from torch.optim import AdamW

from rec.config import LazyCall

from .dataset import dataset
from .optim import optim
from .train import train

dataset.input_shape = [256, 256]
dataset.use_glove = True
dataset.word_vectors = os.environ.get("REC_GLOVE", "data/weights/glove.6B.50d.txt")
dataset.vocabulary_from = "vectors"  # "giraffe" is a word, though no training phrase has it
dataset.flip_lr = True
dataset.candidate_transforms = dict(
    moved=LazyCall("albumentations.Affine")(scale=(0.75, 1.2), translate_percent=(-0.1, 0.1), fill=127, p=1.0)
)

optim._target_, optim.weight_decay = AdamW, 0.05
optim.lr = train.base_lr = 2e-3
train.parameter_groups.decay_norms_and_biases = False
train.parameter_groups.backbone_lr_factor = 0.2
train.warmup_lr, train.min_lr, train.warmup_ratio = 1e-5, 1e-5, 0.05
train.batch_size = 64
train.clip_grad_norm = 10.0
train.ema.alpha = 0.998
train.evaluation.eval_batch_size = 128
train.data.num_workers = 0
train.data.share_images = True
train.multi_scale_training.enabled = False
train.log_period = 100
