"""A small MCN on shape scenes, boxes and masks, with the quickstart's recipe."""

from .common.models.mcn_small import model
from .simrec_small_scenes_quickstart import dataset, optim, train

dataset.ann_path.scenes = "scenes"  # drawn when the run starts, with masks
dataset.with_masks = True
dataset.flip_lr = True
train.epochs = train.evaluation.eval_period = 6
train.train_iter = 3800  # within a quarter of an hour on two CPU cores
train.output_dir = "outputs/mcn_small_scenes"
