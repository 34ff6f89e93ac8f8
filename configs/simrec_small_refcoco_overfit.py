"""A check on real photographs: the small SimREC learns the training split of a small sample of RefCOCO by heart."""

from .simrec_small_scenes_quickstart import dataset, model, optim, train

dataset.dataset = "refcoco"
dataset.input_shape = [192, 192]
train.output_dir = "outputs/refcoco_overfit"
train.evaluation.splits = ["train"]
train.batch_size = 32
train.epochs = 75
train.warmup_epochs = 5
train.evaluation.eval_period = train.save_period = 25
train.log_period = 50
train.ema.alpha = 0.98
