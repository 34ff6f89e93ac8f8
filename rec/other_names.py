"""Config names of SimREC, LiBai, detectron2 and mmdetection that are refused, and what to use instead.

Importing this module hands them to :mod:`rec.config`; ``rec.data`` and ``rec.models`` do, which every config names parts of.
"""

from rec.config.refused import refuse

# tool | its names | what to do here. docs/coming_from.md repeats the table; a test compares them.
_TABLE = """
SimREC | train.ddp | choose a launch profile in accelerate_configs/; accelerate sets backend and rendezvous
LiBai | train.train_epoch | use train.epochs
LiBai | train.train_samples | use train.epochs or train.train_iter
LiBai | train.train_micro_batch_size train.global_batch_size | use train.batch_size, the total of all processes
LiBai | train.test_micro_batch_size | use train.evaluation.eval_batch_size
LiBai | train.start_iter train.consumed_train_samples train.consumed_valid_samples | drop it: the checkpoint carries it
LiBai | train.nccl_fusion_threshold_mb train.nccl_fusion_max_ops | use train.communication.{bucket_cap_mb,hook}
LiBai | train.zero_optimization | choose accelerate_configs/fsdp2.yaml or deepspeed_zero2.yaml
LiBai | train.dist | choose a launch profile; no tensor or pipeline parallel, because the models fit on one device
LiBai | graph train.graph | use train.compile.enabled (torch.compile)
LiBai | tokenization | use dataset.max_token_length and dataset.vocabulary
LiBai, detectron2 | dataloader | use dataset, train.batch_size and train.data
detectron2, mmdetection | optimizer | use optim
detectron2 | lr_multiplier | use train.scheduler
detectron2 | train.max_iter | use train.train_iter
detectron2 | train.eval_period | use train.evaluation.eval_period
detectron2 | train.init_checkpoint | use train.load_weight
detectron2 | train.device | choose a launch profile in accelerate_configs/
mmdetection | runner | use train.epochs or train.train_iter
mmdetection | lr_config | use train.scheduler, train.warmup_epochs or train.warmup_ratio
mmdetection | optimizer_config | use train.clip_grad_norm
mmdetection | checkpoint_config | use train.save_period or train.checkpointer
mmdetection | log_config | use train.log_period and train.trackers
mmdetection | dist_params | choose a launch profile in accelerate_configs/
mmdetection | load_from | use train.load_weight
mmdetection | resume_from | use train.resume_path
mmdetection | work_dir | use train.output_dir
"""
NAMES: dict[str, tuple[str, str]] = {
    name: (tool, instead)
    for tool, names, instead in (row.split(" | ") for row in _TABLE.strip().splitlines())
    for name in names.split()
}
refuse({name: f"`{name}` is {tool}'s name: {instead}" for name, (tool, instead) in NAMES.items()})
