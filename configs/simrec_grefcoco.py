"""SimREC on gRefCOCO, whose phrases name none, one or several objects; otherwise the recipe of simrec_refcoco_scratch."""

from .simrec_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "grefcoco"
dataset.targets = "any"
train.evaluation.eval_metric = "Pr@F1"  # its threshold is chosen on val, the first split
train.output_dir = "outputs/simrec_grefcoco"
