"""Names of SimREC, LiBai, detectron2 and mmdetection that have one canonical name here; using them is refused."""

from collections.abc import Mapping
from typing import Any

_PROFILE = "choose a launch profile in accelerate_configs/"
_RESUME = "nothing: the checkpoint carries it"
_BATCH = "use train.batch_size, the total over all processes and accumulation steps"
# (tool, its name) -> what to do here. docs/coming_from.md repeats this table; a test compares them.
REFUSED: dict[str, tuple[str, str]] = {
    "train.ddp": ("SimREC", f"{_PROFILE}; accelerate sets backend and rendezvous"),
    "train.train_epoch": ("LiBai", "use train.epochs"),
    "train.train_samples": ("LiBai", "use train.epochs or train.train_iter"),
    "train.train_micro_batch_size": ("LiBai", _BATCH),
    "train.global_batch_size": ("LiBai", _BATCH),
    "train.test_micro_batch_size": ("LiBai", "use train.evaluation.eval_batch_size"),
    "train.consumed_train_samples": ("LiBai", _RESUME),
    "train.consumed_valid_samples": ("LiBai", _RESUME),
    "train.start_iter": ("LiBai", _RESUME),
    "train.nccl_fusion_threshold_mb": ("LiBai", f"{_PROFILE}; DDP's bucket size and communication hook are set there"),
    "train.nccl_fusion_max_ops": ("LiBai", f"{_PROFILE}; DDP's bucket size and communication hook are set there"),
    "train.zero_optimization": ("LiBai", f"{_PROFILE}: fsdp2.yaml or deepspeed_zero2.yaml"),
    "train.dist": ("LiBai", f"{_PROFILE}; no tensor or pipeline parallel: the models fit on one device"),
    "train.graph": ("LiBai", "use train.compile.enabled (torch.compile)"),
    "graph": ("LiBai", "use train.compile.enabled (torch.compile)"),
    "tokenization": ("LiBai", "use dataset.max_token_length and dataset.vocabulary"),
    "dataloader": ("LiBai, detectron2", "use dataset, train.batch_size and train.data"),
    "optimizer": ("detectron2, mmdetection", "use optim"),
    "lr_multiplier": ("detectron2", "use train.scheduler"),
    "train.max_iter": ("detectron2", "use train.train_iter"),
    "train.eval_period": ("detectron2", "use train.evaluation.eval_period"),
    "train.init_checkpoint": ("detectron2", "use train.load_weight"),
    "train.device": ("detectron2", _PROFILE),
    "runner": ("mmdetection", "use train.epochs or train.train_iter"),
    "lr_config": ("mmdetection", "use train.scheduler, train.warmup_epochs or train.warmup_ratio"),
    "optimizer_config": ("mmdetection", "use train.clip_grad_norm"),
    "checkpoint_config": ("mmdetection", "use train.save_period or train.checkpointer"),
    "log_config": ("mmdetection", "use train.log_period and train.trackers"),
    "dist_params": ("mmdetection", _PROFILE),
    "load_from": ("mmdetection", "use train.load_weight"),
    "resume_from": ("mmdetection", "use train.resume_path"),
    "work_dir": ("mmdetection", "use train.output_dir"),
}


def canonical_name(path: str) -> str | None:
    """What to use instead of ``path`` if it, or a group it is in, is another tool's name."""
    for name, (tool, instead) in REFUSED.items():
        if path == name or path.startswith(name + "."):
            return f"`{name}` is {tool}'s name; {instead}"
    return None


def refused_names(cfg: Mapping[str, Any]) -> list[str]:
    """One line for each name in ``cfg`` that is another tool's, with what to use instead."""
    found = []
    for name in REFUSED:
        group, _, key = name.rpartition(".")
        place = cfg.get(group) if group else cfg
        if isinstance(place, Mapping) and key in place:
            found.append(f"cfg.{name}: {canonical_name(name)}")
    return found
