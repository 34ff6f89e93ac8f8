"""SimREC on Flickr30k Entities, otherwise as simrec_refcoco_scratch."""

from .simrec_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "flickr"
train.output_dir = "outputs/simrec_flickr_scratch"
train.evaluation.splits = ["val", "test"]
