"""SimREC's configs as its manual and the issue threads describe them, written to a folder: common/ and the four leaf configs."""

from pathlib import Path

MODEL = """
import torch.nn as nn

from simrec.config import LazyCall
from simrec.models.simrec import SimREC
from simrec.models.backbones import CspDarkNet
from simrec.models.heads import REChead
from simrec.models.language_encoders import LSTM_SA
from simrec.layers.fusion_layer import SimpleFusion, MultiScaleFusion, GaranAttention

model = LazyCall(SimREC)(
    visual_backbone=LazyCall(CspDarkNet)(
        pretrained=False,
        pretrained_weight_path="./data/weights/cspdarknet_coco.pth",
        freeze_backbone=True,
        multi_scale_outputs=True,
    ),
    language_encoder=LazyCall(LSTM_SA)(
        depth=1,
        hidden_size=512,
        num_heads=8,
        ffn_size=2048,
        flat_glimpses=1,
        word_embed_size=300,
        dropout_rate=0.1,
        # language_encoder.pretrained_emb and language.token_size is meant to be set
        # before instantiating
        freeze_embedding=True,
        use_glove=True,
    ),
    multi_scale_manner=LazyCall(MultiScaleFusion)(
        v_planes=(512, 512, 512),
        scaled=True
    ),
    fusion_manner=LazyCall(nn.ModuleList)(
        modules = [
            LazyCall(SimpleFusion)(v_planes=256, out_planes=512, q_planes=512),
            LazyCall(SimpleFusion)(v_planes=512, out_planes=512, q_planes=512),
            LazyCall(SimpleFusion)(v_planes=1024, out_planes=512, q_planes=512),
        ]
    ),
    attention_manner=LazyCall(GaranAttention)(
        d_q=512,
        d_v=512
    ),
    head=LazyCall(REChead)(
        label_smooth=0.,
        num_classes=0,
        width=1.0,
        strides=[32,],
        in_channels=[512,],
        act="silu",
        depthwise=False
    )
)
"""

TRAIN = """
# Basic training-related configs.

train = dict(
    # Directory where to save the output files.
    output_dir = "./test",
    # Warmup epochs and total epochs for training.
    warmup_epochs=3,
    epochs = 25,
    # Learning rate settings for lr-scheduler.
    base_lr=1e-4,
    warmup_lr=1e-7,
    min_lr=1e-6,
    # Total batch size, if you run SimREC on 4 GPUs,
    # each gpu will handle only (batch / 4) samples.
    batch_size=8,
    evaluation=dict(
        eval_batch_size=8,
        sequential=False
    ),
    log_period=1,
    save_period=1,
    data=dict(
        pin_memory=True,
        num_workers=8,
        mean=[0., 0., 0.],
        std=[1., 1., 1.],
    ),
    scheduler=dict(
        name="cosine",
        decay_epochs=[30, 35, 37],
        lr_decay_rate=0.2,
    ),
    amp=dict(enabled=False),
    # Distributed training settings.
    ddp=dict(
        backend="nccl",
        init_method="env://",
    ),
    ema=dict(enabled=True, alpha=0.9997, buffer_ema=True),
    sync_bn=dict(enabled=False),
    clip_grad_norm=0.15,
    auto_resume=dict(enabled=True),
    resume_path="",
    vl_pretrain_weight="",
    multi_scale_training=dict(
        enabled=True,
        img_scales=[[224,224],[256,256],[288,288],[320,320],[352,352],
                    [384,384],[416,416],[448,448],[480,480],[512,512],
                    [544,544],[576,576],[608,608]]
    ),
    log_image=False,
    seed = 123456,
)
"""

OPTIM = """
from torch.optim import Adam

from simrec.config import LazyCall

optim = LazyCall(Adam)(
    # optim.params is meant to be set before instantiating
    lr=0.0001,
    betas=(0.9, 0.98),
    eps=1e-9
)
"""

DATASET = """
import albumentations as A
from torchvision.transforms import transforms

from simrec.config import LazyCall
from simrec.datasets.dataset import RefCOCODataSet
from simrec.datasets.transforms.randaug import RandAugment

from .train import train

dataset = LazyCall(RefCOCODataSet)(
    # choose from ["refcoco", "refcoco+", "refcocog", "referit", "vg", "merge"]
    dataset = "refcoco",
    ann_path = {
        'refcoco': './data/anns/refcoco.json',
        'refcoco+': './data/anns/refcoco+.json',
        'refcocog': './data/anns/refcocog.json',
        'referit': './data/anns/refclef.json',
        'flickr': './data/anns/flickr.json',
        'vg': './data/anns/vg.json',
        'merge': './data/anns/merge.json'
    },
    image_path = {
        'refcoco': './data/images/coco',
        'refcoco+': './data/images/coco',
        'refcocog': './data/images/coco',
        'referit': './data/images/refclef',
        'flickr': './data/images/flickr',
        'vg': './data/images/VG',
        'merge': './data/images/'
    },
    mask_path = {
        'refcoco': './data/masks/refcoco',
        'refcoco+': './data/masks/refcoco+',
        'refcocog': './data/masks/refcocog',
        'referit': './data/masks/refclef'
    },
    input_shape = [416, 416],
    flip_lr = False,
    # basic transforms
    transforms=LazyCall(transforms.Compose)(
        transforms = [
            LazyCall(transforms.ToTensor)(),
            LazyCall(transforms.Normalize)(
                mean=train.data.mean,
                std=train.data.std,
            )
        ]
    ),
    # candidate transforms
    candidate_transforms = {
        # "RandAugment": RandAugment(2, 9),
        # "ElasticTransform": A.ElasticTransform(p=0.5),
        # "GridDistortion": A.GridDistortion(p=0.5),
    },
    # the max truncated length for language tokens
    max_token_length = 15,
    # use glove pretrained embeddings or not
    use_glove = True,
    split = "train",
)
"""

# MCN's own part of common/: DarkNet53, three attention blocks, one fusion, two attentions, the head under its first names.
MCN = (
    MODEL.replace("import torch.nn as nn\n", "")
    .replace("simrec.models.simrec import SimREC", "simrec.models.mcn import MCN")
    .replace("SimREC)", "MCN)")
    .replace("CspDarkNet", "DarkNet53")
    .replace("cspdarknet_coco", "darknet53_coco")
    .replace("import REChead", "import MCNhead")
    .replace("depth=1", "depth=3")
    .replace("(512, 512, 512)", "(256, 512, 1024)")
)
MCN = (
    MCN[: MCN.index("    fusion_manner=")]
    + """\
    fusion_manner=LazyCall(SimpleFusion)(v_planes=1024, out_planes=1024, q_planes=512),
    det_attention=LazyCall(GaranAttention)(d_q=512, d_v=512),
    seg_attention=LazyCall(GaranAttention)(d_q=512, d_v=512),
    head=LazyCall(MCNhead)(
        hidden_size=512,
        anchors=[[137, 256], [248, 272], [386, 271]],
        arch_mask=[[0, 1, 2]],
        layer_no=0,
        in_ch=512,
        n_classes=0,
        ignore_thre=0.5,
    )
)
"""
)

_IMPORTS = """\
from simrec.config import LazyCall
from .common.dataset import dataset
from .common.train import train
from .common.optim import optim
from .common.models.{} import model

"""
_PATHS = """\
dataset.ann_path["refcoco"] = "/home/somebody/dataset/anns/refcoco.json"
dataset.image_path["refcoco"] = "/home/somebody/dataset/images/train2014"
dataset.mask_path["refcoco"] = "/home/somebody/dataset/masks/refcoco"
"""
LEAVES = {
    "simrec_refcoco_scratch": _IMPORTS.format("simrec") + _PATHS + """
train.output_dir = "./output/simrec_refcoco_scratch"
train.batch_size = 32
train.save_period = 1
train.log_period = 10
train.evaluation.eval_batch_size = 32
train.sync_bn.enabled = False
optim.lr = train.base_lr
model.visual_backbone.pretrained = True
model.visual_backbone.pretrained_weight_path="./data/weights/cspdarknet_coco.pth"
""",
    "simrec_refcoco_finetune": _IMPORTS.format("simrec") + """
train.batch_size = 4
train.output_dir = "./output/simrec_refcoco_finetune"
optim.lr = train.base_lr
model.visual_backbone.pretrained = True
model.visual_backbone.pretrained_weight_path = "./data/weights/SimREC_pretrain_merge.pth"
""",
    "simrec_pretrain": _IMPORTS.format("simrec") + """
train.epochs = 15
train.batch_size = 32
train.output_dir = "./output/simrec_pretrain"
dataset.dataset = "merge"
dataset.max_token_length = 15
model.visual_backbone.pretrained = True
model.visual_backbone.freeze_backbone = False
""",
    "mcn_refcoco_scratch": _IMPORTS.format("mcn") + _PATHS + """
train.output_dir = "./output/mcn_refcoco_scratch"
train.batch_size = 32
train.epochs = 39
train.scheduler.name = "step"
train.ema.enabled = False
train.multi_scale_training.enabled = False
optim.lr = train.base_lr
model.visual_backbone.pretrained = False
model.visual_backbone.pretrained_weight_path="./data/weights/darknet_coco.pth"
""",
}  # fmt: skip
COMMON = {"train": TRAIN, "optim": OPTIM, "dataset": DATASET, "models/simrec": MODEL, "models/mcn": MCN}


def write(folder: Path, common: bool = True) -> Path:
    """Writes the configs to ``folder``, which is returned; ``common=False`` leaves SimREC's own defaults out."""
    texts = {f"common/{name}": text for name, text in COMMON.items()} if common else {}
    for name, text in (texts | LEAVES).items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
