"""SimREC for photographs with a published text encoder, a frozen MiniLM-L6, in place of GloVe and a GRU.

Where it lies is told by the environment variable REC_MINILM: a folder, or an id on the Hub.
"""

import os

from rec.config import LazyCall
from rec.models.pretrained_text import PretrainedText

from .common.models.simrec_photos import WIDTH, model
from .common.photos import dataset, optim, train

MINILM = os.environ.get("REC_MINILM", "sentence-transformers/all-MiniLM-L6-v2")
dataset.dataset = "flickr"
dataset.ann_path.flickr = "data/anns/flickr"
dataset.tokenizer = f"transformers:{MINILM}"
dataset.use_glove = False
dataset.vocabulary_from = "train"
dataset.max_token_length = 20
model.language_encoder = LazyCall(PretrainedText)(name=MINILM, hidden_size=WIDTH)
train.epochs = 20
train.evaluation.eval_period = 5
train.output_dir = "outputs/photos_minilm"
