"""SimREC on RefCOCO+ from public parts only, otherwise as simrec_timm_refcoco_scratch."""

from .simrec_timm_refcoco_scratch import dataset, model, optim, train

dataset.dataset = "refcoco+"
train.output_dir = "outputs/simrec_timm_refcoco+_scratch"
