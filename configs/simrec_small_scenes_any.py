"""Phrases of none, one or several objects on shape scenes: the quickstart's model, trained on a third of each."""

from torch.optim import AdamW

from .common.models.simrec_small import model
from .simrec_small_scenes_quickstart import dataset, optim, train

# Twice the width for the words than for the picture: N-acc of relations gains most.
model.language_encoder.hidden_size, model.language_encoder.ffn_size = 128, 256
model.attention_manner.d_q, model.attention_manner.num_heads = 128, 4
for _fusion in model.fusion_manner.modules:
    _fusion.q_planes = 128
# Drawn when the run starts. Phrases of one scene share its image half: many of them make updates worth more.
dataset.ann_path.scenes = {"path": "scenes", "targets": "any", "phrases_per_scene": 24}
dataset.targets = "any"
optim._target_, optim.weight_decay = AdamW, 0.05
# Faster, colours' words fall into two to four groups that the model cannot tell apart.
train.parameter_groups.text_lr_factor = 0.067
train.batch_size = 96  # on five scenes
train.epochs = train.evaluation.eval_period = 2
train.train_iter = 4850  # in ten minutes on two cores, in bfloat16
train.evaluation.eval_metric = "Pr@F1"
train.output_dir = "outputs/simrec_small_scenes_any"
