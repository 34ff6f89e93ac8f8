"""Phrases of none, one or several objects on shape scenes: the quickstart's model, trained on a third of each."""

from .common.models.simrec_small import model
from .simrec_small_scenes_quickstart import dataset, optim, train

dataset.ann_path.scenes = {"path": "scenes", "targets": "any"}  # drawn when the run starts
dataset.targets = "any"
train.epochs = train.evaluation.eval_period = 8  # ten minutes on two cores
train.evaluation.eval_metric = "Pr@F1"
train.output_dir = "outputs/simrec_small_scenes_any"
