"""SimREC on Flickr30k Entities from public parts only, otherwise as simrec_timm_refcoco_scratch."""

from .simrec_timm_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "flickr"
train.output_dir = "outputs/simrec_timm_flickr_scratch"
train.evaluation.splits = ["val", "test"]
