"""A real SimREC, small enough to build in a moment, and model folders of it."""

import torch
from torch import nn

from rec import model_folder
from rec.config import LazyCall, instantiate
from rec.data.text import Vocabulary
from rec.models import MCN, SimREC
from rec.models.anchor_head import MCNhead
from rec.models.backbones import CspDarkNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA

SENTENCES = ["the red circle", "small striped triangle left of the big blue square"]
VOCABULARY = Vocabulary.build(SENTENCES)
SIZE = 64


def model_node():
    return LazyCall(SimREC)(
        visual_backbone=LazyCall(CspDarkNet)(
            pretrained=False, pretrained_weight_path="./data/weights/secret.pth", width=0.125, depth=0.34
        ),
        language_encoder=LazyCall(LSTM_SA)(
            depth=1,
            hidden_size=16,
            num_heads=2,
            ffn_size=32,
            flat_glimpses=1,
            word_embed_size=8,
            dropout_rate=0.1,
            freeze_embedding=False,
            use_glove=False,
            token_size=len(VOCABULARY),
        ),
        multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(16, 16, 16), hidden_planes=16, scaled=True),
        fusion_manner=LazyCall(nn.ModuleList)(
            modules=[LazyCall(SimpleFusion)(v_planes=v, out_planes=16, q_planes=16) for v in (32, 64, 128)]
        ),
        attention_manner=LazyCall(GaranAttention)(d_q=16, d_v=16),
        head=LazyCall(REChead)(width=0.0625, strides=[32], in_channels=[16]),
    )


def folder_config(**about):
    return {
        "model": model_node(),
        "preprocess": {
            "input_shape": [SIZE, SIZE],
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "max_token_length": 6,
        },
        "about": {"dataset": "scenes", "split": "train", "sources": ["scenes"], "samples": 8} | about,
    }


def new_model():
    torch.manual_seed(0)
    return instantiate(model_node()).eval()


def write_folder(path, **about):
    model_folder.write(path, new_model().state_dict(), folder_config(**about), VOCABULARY, {"val": {"Acc@0.5": 0.75}})
    return path


def mcn_node():
    fusion = {"out_planes": 128, "q_planes": 16}
    return LazyCall(MCN)(
        visual_backbone=LazyCall(CspDarkNet)(width=0.125, depth=0.34),
        language_encoder=model_node().language_encoder,
        multi_scale_manner=LazyCall(MultiScaleFusion)(v_planes=(32, 64, 128), hidden_planes=16, scaled=True),
        fusion_manner=LazyCall(SimpleFusion)(v_planes=128, **fusion),
        det_attention=LazyCall(GaranAttention)(d_q=16, d_v=16),
        seg_attention=LazyCall(GaranAttention)(d_q=16, d_v=16),
        head=LazyCall(MCNhead)(in_channels=16, hidden_channels=8),
    )


def write_mcn_folder(path):
    torch.manual_seed(0)
    weights = instantiate(mcn_node()).state_dict()
    weights["head.anchors.weight"] *= 10  # apart enough that rounding does not decide between two answers
    model_folder.write(path, weights, folder_config() | {"model": mcn_node()}, VOCABULARY)
    return path


class WithTables(nn.Module):
    """A model with tensors outside its state dict."""

    def __init__(self, rows):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("table", torch.arange(rows), persistent=False)
        self.plain = torch.ones(rows)
