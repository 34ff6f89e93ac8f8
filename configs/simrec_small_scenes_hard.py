"""Hard shape scenes (ordinals, relations in two steps, negation): the small SimREC with an attention that reads the words."""

from rec.config import LazyCall
from rec.models.word_attention import WordAttention

from .common.models.simrec_small import WIDTH, model
from .simrec_small_scenes_quickstart import dataset, optim, train

dataset.dataset = "scenes_hard"  # drawn when the run starts
dataset.max_token_length = 20
model.attention_manner = LazyCall(WordAttention)(d_q=WIDTH, d_v=WIDTH)
train.epochs = train.evaluation.eval_period = 9
train.output_dir = "outputs/simrec_small_scenes_hard"
