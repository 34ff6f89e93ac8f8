"""Started by a launch profile: writes what it finds from the inside, one JSON file per process."""

import json
import os
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.distributed.tensor import DTensor

from rec.config import get_config
from rec.training.launch import build_accelerator
from rec.training.process import _user_chose_threads, end_together

train = get_config("common/train.py").train
train.trackers = []
accelerator, per_process, _ = build_accelerator(OmegaConf.create({"train": train}))
model = accelerator.prepare(torch.nn.Sequential(torch.nn.Linear(4, 4)))
computed = []
accelerator.unwrap_model(model)[0].register_forward_hook(lambda *parts: computed.append(str(parts[-1].dtype)))
model(torch.ones(1, 4, device=accelerator.device))
found = {
    "distributed_type": accelerator.distributed_type.value,
    "num_processes": accelerator.num_processes,
    "mixed_precision": accelerator.mixed_precision,
    "device": accelerator.device.type,
    "wrapped": type(model).__name__,
    "sharded": any(isinstance(parameter, DTensor) for parameter in model.parameters()),
    "per_process": per_process,
    "computed_in": computed[0],
    "threads": torch.get_num_threads(),
    "user_chose_threads": _user_chose_threads(),
    "threads_of_launcher": os.environ.get("OMP_NUM_THREADS"),
}
Path(f"{sys.argv[1]}.{accelerator.process_index}.json").write_text(json.dumps(found), encoding="utf-8")
end_together(accelerator)
