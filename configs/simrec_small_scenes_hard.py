"""Hard shape scenes (ordinals, relations in two steps, negation): the quickstart's model, with 12 phrases of each scene."""

from .common.models.simrec_small import model
from .simrec_small_scenes_quickstart import dataset, optim, train

dataset.dataset = "scenes_hard"
# Drawn when the run starts. With the quickstart's 3 phrases of a scene the model learns its phrases by heart.
dataset.ann_path.scenes_hard = {"path": "scenes_hard", "phrases_per_scene": 12}
dataset.max_token_length = 20
train.batch_size = 96  # on eight scenes
train.epochs = train.evaluation.eval_period = 5  # a quarter of an hour on two cores
train.output_dir = "outputs/simrec_small_scenes_hard"
