"""The ``train`` namespace: every key ``scripts/train.py`` reads, with SimREC's names and defaults."""

from rec.config import LazyCall
from rec.training.schedules import build_schedule

train = dict(
    # Where everything the run writes goes. A checkpoint found there is continued from.
    output_dir="outputs/run",
    # Length: epochs, or train_iter optimizer updates where that is set.
    epochs=25,
    train_iter=None,
    # Warm-up in epochs; warmup_ratio (a fraction of all updates) replaces it where set.
    warmup_epochs=3,
    warmup_ratio=None,
    # Rates of the schedule, as factors base_lr -> 1 on the optimizer's own lr.
    base_lr=1e-4,
    warmup_lr=1e-7,
    min_lr=1e-6,
    # Samples per optimizer update over all processes and accumulation steps: total = per process x processes x accumulation.
    batch_size=8,
    num_accumulation_steps=1,
    evaluation=dict(
        enabled=True,
        splits=["val"],  # best/ is decided on the first
        eval_batch_size=8,  # (object, sentence) pairs per process
        eval_period=1,  # epochs
        eval_on_start=False,  # before the first update too: best/ is at least as good as the weights of load_weight
        eval_iter=None,  # at most this many batches per process
        eval_metric="Acc@0.5",
        eval_mode="max",
        sequential=True,  # SimREC's key, without effect: evaluation always visits every pair once, image by image
        evaluator=None,  # a LazyCall replaces the built-in metrics
    ),
    log_period=10,  # updates
    save_period=1,  # epochs
    checkpointer=dict(period=None, max_to_keep=2),  # period in updates, beside save_period
    # share_images: phrases of one image meet in one batch and share its pass through the backbone
    data=dict(pin_memory=True, num_workers=4, share_images=False, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),
    scheduler=LazyCall(build_schedule)(name="cosine", decay_epochs=[30, 35, 37], lr_decay_rate=0.2),
    parameter_groups=dict(backbone_lr_factor=1.0, text_lr_factor=1.0, decay_norms_and_biases=True),
    # null: the launch profile decides the precision. true or false must agree with it.
    amp=dict(enabled=None),
    # warmup=False: the weights of load_weight keep a share of alpha ** updates in the average
    ema=dict(enabled=True, alpha=0.9997, buffer_ema=True, warmup=True),
    sync_bn=dict(enabled=False),
    # DDP: gradients travel in buckets of this many MB; hook compresses them: no, fp16, bf16 or power_sgd.
    # timeout: seconds after which processes end that wait for one that hangs, or have lost their launcher
    communication=dict(bucket_cap_mb=25, hook="no", timeout=600),
    clip_grad_norm=0.15,  # total norm; 0 turns clipping off
    max_skipped_updates=10,  # in a row, because of a loss or gradient that is not finite
    auto_resume=dict(enabled=True),
    resume_path="",  # checkpoint or run folder to continue exactly, in this output_dir; for a model folder: load_weight
    load_weight="",  # model folder, hub id or safetensors file: start from the weights that fit
    vl_pretrain_weight="",  # SimREC's name for the same
    multi_scale_training=dict(enabled=True, img_scales=[[size, size] for size in range(224, 609, 32)]),
    activation_checkpoint=dict(enabled=False),
    # dynamic=null: one graph for the first image size and one for all others; false: one for each size (faster, more to
    # compile). backend: inductor, or any name torch.compile knows.
    compile=dict(enabled=False, dynamic=None, backend="inductor"),
    # The work of an update recorded once for each image size and replayed: for steps in which the GPU waits for Python
    cuda_graphs=dict(enabled=False),
    # [{modules: [visual_backbone.stages.0, ...], from_update: 0, until_update: 2000}, ...]: frozen in those updates
    freeze_schedule=[],
    # BatchNorm of the whole model keeps the statistics that came with its weights: for fine-tuning on little data
    fixed_statistics=False,
    trackers=["tensorboard"],
    log_image=False,  # draw predictions at every evaluation: pictures/ in the run folder, and the trackers
    # A trace of this many updates, after the first ones of the process: profile/ in the run folder
    profile=dict(enabled=False, first_update=5, updates=3),
    # repo_id "user/name": push model folders there in the background. push: best (each better one), every_save, or end
    hub=dict(repo_id="", push="best", private=True),
    fast_dev_run=False,
    seed=123456,
)
