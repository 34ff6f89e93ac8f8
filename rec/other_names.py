"""Config names of SimREC, LiBai, detectron2 and mmdetection that are refused, and what to use instead.

Importing this module hands them to :mod:`rec.config`; ``rec.data`` and ``rec.models`` do, which every config names parts of.
"""

from rec.config.refused import refuse

# tool | its names | what to do here. docs/coming_from.md repeats the table; a test compares them.
_TABLE = """
SimREC | train.ddp | choose a launch profile in accelerate_configs/; accelerate sets backend and rendezvous
mmdetection | dist_params env_cfg launcher | choose a launch profile in accelerate_configs/
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
mmdetection | data train_dataloader val_dataloader test_dataloader | use dataset, train.batch_size and train.data
detectron2, mmdetection | optimizer optim_wrapper | use optim
detectron2, mmdetection | lr_multiplier param_scheduler | use train.scheduler
detectron2 | train.max_iter | use train.train_iter
detectron2 | train.eval_period | use train.evaluation.eval_period
detectron2 | train.init_checkpoint | use train.load_weight
detectron2 | train.device | choose a launch profile in accelerate_configs/
mmdetection | runner total_epochs train_cfg | use train.epochs or train.train_iter
mmdetection | evaluation val_cfg test_cfg val_evaluator test_evaluator | use train.evaluation
mmdetection | workflow | use train.evaluation.enabled
mmdetection | default_hooks custom_hooks | use train.log_period, train.save_period, train.evaluation and train.checkpointer
mmdetection | visualizer vis_backends | use train.trackers and train.log_image
mmdetection | randomness | use train.seed
mmdetection | log_level log_processor default_scope custom_imports | drop it: a config is Python and imports what it needs
mmdetection | lr_config | use train.scheduler, train.warmup_epochs or train.warmup_ratio
mmdetection | optimizer_config | use train.clip_grad_norm
mmdetection | checkpoint_config | use train.save_period or train.checkpointer
mmdetection | log_config | use train.log_period and train.trackers
mmdetection | load_from | use train.load_weight
mmdetection | resume_from resume | use train.resume_path
mmdetection | work_dir | use train.output_dir
detectron2, LiBai | --eval-only | use rec evaluate RUN_FOLDER --config configs/x.py
detectron2 | --num-gpus --num-machines --machine-rank --dist-url | accelerate launch --num_processes N scripts/train.py configs/x.py
detectron2, LiBai | --resume | drop it: the same command continues from the newest checkpoint in train.output_dir
LiBai | --fast-dev-run | use train.fast_dev_run=true
mmdetection | --launcher --local_rank --local-rank --gpus | accelerate launch --num_processes N scripts/train.py configs/x.py
mmdetection | --work-dir | use train.output_dir=FOLDER
mmdetection | --resume-from --auto-resume | use train.resume_path=CHECKPOINT, or start the same command again
mmdetection | --load-from | use train.load_weight=FOLDER
mmdetection | --no-validate | use train.evaluation.enabled=false
mmdetection | --seed | use train.seed=N
mmdetection | --amp | accelerate launch --mixed_precision bf16 scripts/train.py configs/x.py
"""
_MODULES = {
    "simrec": "SimREC",
    "libai": "LiBai",
    "mmdet": "mmdetection",
    "mmengine": "mmdetection",
    "mmcv": "mmdetection",
    "detectron2": "detectron2",
}
NAMES: dict[str, tuple[str, str]] = {
    name: (tool, instead)
    for tool, names, instead in (row.split(" | ") for row in _TABLE.strip().splitlines())
    for name in names.split()
}
refuse({name: f"`{name}` is {tool}'s name: {instead}" for name, (tool, instead) in NAMES.items()})
refuse(
    {
        f"import {module}": f"`{module}` is {tool}'s module: docs/coming_from.md has the import lines for it, and "
        "`rec migrate FILE` writes a config of SimREC's anew"
        for module, tool in _MODULES.items()
    }
)
