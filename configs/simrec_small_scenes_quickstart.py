"""The quickstart: a SimREC of 1.7 million parameters, trained from scratch on shape scenes, seen at 96 x 96 pixels."""

from .common.dataset import dataset
from .common.models.simrec_small import model
from .common.optim import optim
from .common.train import train

dataset.dataset = "scenes"
dataset.ann_path.scenes = "outputs/scenes/anns/scenes"
dataset.input_shape = [96, 96]
dataset.sentence_sampling = "per_sentence"

optim.lr = train.base_lr = 3e-3
train.warmup_lr, train.min_lr, train.warmup_epochs = 1e-5, 1e-5, 0.1
train.output_dir = "outputs/quickstart"
train.epochs = 3
train.batch_size = 48
train.clip_grad_norm = 10.0
train.ema.alpha = 0.998
train.evaluation.eval_batch_size = 100
train.data.num_workers = 0
train.data.share_images = True
train.multi_scale_training.enabled = False
train.evaluation.eval_period = 3
train.log_period = 100
