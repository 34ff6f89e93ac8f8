"""A configuration of one's own as written for 0.1: a small SimREC with a mask branch on the table beside it."""

from torch import nn
from torch.optim import AdamW

from rec.config import LazyCall, get_config
from rec.data.dataset import RefCOCODataSet
from rec.models import SimREC
from rec.models.backbones import SmallResNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import MaskHead, REChead
from rec.models.language_encoders import LSTM_SA

train = get_config("common/train.py").train

model = LazyCall(SimREC)(
    visual_backbone=LazyCall(SmallResNet)(channels=(4, 4, 6, 8, 8), out_strides=(8, 16, 32)),
    language_encoder=LazyCall(LSTM_SA)(
        depth=1, hidden_size=8, num_heads=2, ffn_size=12, word_embed_size=6, dropout_rate=0.0, freeze_embedding=False, use_glove=False
    ),
    multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(8, 8, 8), hidden_planes=8),
    fusion_manner=LazyCall(nn.ModuleList)(
        modules=[LazyCall(SimpleFusion)(v_planes=planes, out_planes=8, q_planes=8) for planes in (6, 8, 8)]
    ),
    attention_manner=LazyCall(GaranAttention)(d_q=8, d_v=8, dropout_rate=0.0),
    head=LazyCall(REChead)(width=0.03125, strides=[8], in_channels=[8], box_loss="giou", prior_probability=0.01),
    mask_attention=LazyCall(GaranAttention)(d_q=8, d_v=8, dropout_rate=0.0),
    mask_head=LazyCall(MaskHead)(in_channels=8, hidden_channels=4, stride=8, dilations=(2, 4), sub_cells=2),
)
dataset = LazyCall(RefCOCODataSet)(
    dataset="scenes",
    ann_path={"scenes": "tables/scenes"},
    input_shape=[64, 64],
    flip_lr=True,
    max_token_length=8,
    split="train",
    with_masks=True,
)
# An epsilon this large keeps rounding from deciding the direction of a weight that has hardly a gradient.
optim = LazyCall(AdamW)(lr=1e-3, eps=1e-3, weight_decay=0.01)

train.output_dir = "run"
train.train_iter = 2
train.batch_size = 3
train.log_period = 1
train.base_lr, train.warmup_epochs = 1e-3, 0.5
train.data.num_workers = 0
train.evaluation.eval_batch_size = 3
train.multi_scale_training.img_scales = [[64, 64], [96, 96]]
train.trackers = []
train.seed = 11
