"""Boxes and masks on shape scenes: the quickstart's recipe and model, with a mask branch."""

from .common.models.simrec_small_mask import model
from .simrec_small_scenes_quickstart import dataset, optim, train

dataset.ann_path.scenes = "scenes"  # drawn when the run starts, with masks
dataset.with_masks = True
train.epochs = train.evaluation.eval_period = 3
train.output_dir = "outputs/simrec_small_scenes_mask"
