"""For 30 to 30,000 objects of your own on photographs: starts from photo-small, and follows the size of the data."""

from .common.models.simrec_photos import model
from .common.photos import dataset, optim, train

dataset.dataset = "mine"
dataset.ann_path = {"mine": "data/anns/mine"}  # what `rec prepare --dataset mine` wrote
dataset.vocabulary = "photo-small"  # its words, whose vectors come with its weights
dataset.use_glove = False
model.visual_backbone.pretrained = False
model.language_encoder.use_glove = False

optim.lr = train.base_lr = 1e-3
train.load_weight = "photo-small"
train.fixed_statistics = True
train.ema.alpha = 0.996
train.ema.warmup = False  # what 300 updates on little data unlearn, photo-small's share of the average brings back
train.evaluation.eval_on_start = True  # it may be good enough as it is: best/ is never worse on `val`
train.batch_size = train.epochs = train.evaluation.eval_period = train.save_period = "auto"
train.output_dir = "outputs/mine"
