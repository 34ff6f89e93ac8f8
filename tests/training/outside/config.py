from own_parts import OwnDataset, OwnModel
from torch.optim import SGD

from rec.config import LazyCall, get_config

train = get_config("common/train.py").train
dataset = LazyCall(OwnDataset)(length=67, delay=0.0)
model = LazyCall(OwnModel)(width=8)
optim = LazyCall(SGD)(lr=0.05, momentum=0.9)

train.base_lr = optim.lr
train.output_dir = "run"
train.epochs, train.batch_size, train.warmup_epochs = 3, 8, 1
train.log_period = 3
train.data.num_workers = 0
train.trackers = []
train.multi_scale_training.enabled = False
train.ema.alpha = 0.9
