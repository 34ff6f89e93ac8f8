"""SimREC with a mask branch on RefCOCO: boxes and masks (referring expression segmentation)."""

from .common.models.simrec_res import model
from .simrec_refcoco_scratch import dataset, optim, train

dataset.with_masks = True
model.visual_backbone.pretrained = True
train.output_dir = "outputs/simrec_res_refcoco_scratch"
