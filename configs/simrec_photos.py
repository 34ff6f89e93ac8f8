"""SimREC for photographs: Flickr30k Entities on the photographs that are also in Flickr8k; photo-small was trained by it."""

from .common.models.simrec_photos import model
from .common.photos import dataset, optim, train

dataset.dataset = "flickr"
dataset.ann_path.flickr = "data/anns/flickr"
train.epochs = 10
train.output_dir = "outputs/photos"
