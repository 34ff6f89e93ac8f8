"""The one place that builds the Accelerator and puts a model under it."""

import os
import re
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import DDPCommunicationHookType, parse_flag_from_env
from torch import nn

from rec.command_line import announce
from rec.config import instantiate, solve_batch_size
from rec.errors import TrainingError
from rec.models.layers import channels_last
from rec.models.pretrained_text import borrowed_names
from rec.training.checkpoint_loading import SHARDED
from rec.training.process import fork_safely, use_all_cores
from rec.training.schedules import settle_sizes


def build_accelerator(cfg: Any) -> tuple[Accelerator, int, int]:
    """Accelerator as the launch profile says, and the split of the total batch.

    Returns:
        (accelerator, samples per process and batch, batches per update).

    Raises:
        ConfigError: ``train.batch_size`` does not divide.
        TrainingError: ``train.amp.enabled`` disagrees with the launch profile; or as :func:`check_devices`.
    """
    check_devices()
    train = cfg.train
    accumulation = train.num_accumulation_steps
    accelerator = Accelerator(
        gradient_accumulation_steps=accumulation,
        log_with=instantiate(train.trackers or ()) or None,
        project_dir=train.output_dir,
        # Gradients are views of the reduced buckets: one copy less. Static architecture: nothing is searched for unused.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True,
                bucket_cap_mb=train.communication.bucket_cap_mb,
                comm_hook=DDPCommunicationHookType(train.communication.hook),
            ),
            InitProcessGroupKwargs(timeout=timedelta(seconds=train.communication.timeout)),
        ],
    )
    if accelerator.device.type == "cpu":
        use_all_cores(accelerator.num_processes)
    if accelerator.num_processes > 1:
        fork_safely()
    precision = accelerator.mixed_precision
    if train.amp.enabled is not None and train.amp.enabled != (precision != "no"):
        raise TrainingError(
            f"train.amp.enabled={train.amp.enabled} disagrees with the launch profile's mixed_precision={precision!r}: leave "
            f"train.amp.enabled=null, or launch with --mixed_precision {'bf16' if train.amp.enabled else 'no'}"
        )
    settle_sizes(cfg, accelerator.num_processes)
    _, per_process, accumulation = solve_batch_size(
        total=train.batch_size, processes=accelerator.num_processes, accumulation=accumulation
    )
    return accelerator, per_process, accumulation


def check_devices() -> None:
    """Makes sure that this machine has what the launch profile asks for, before Accelerate or CUDA fail in words of their own.

    Several processes without any GPU share the CPU, which is said; so is one process where several were asked for.

    Raises:
        TrainingError: more processes than GPUs; float16 or FSDP without a GPU.
    """
    environment, gpus = os.environ, torch.cuda.device_count()
    processes = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    there = f"this machine has {gpus} CUDA GPUs" if gpus else "no CUDA GPU is visible here"
    remedy = (
        "; where there should be more, see nvidia-smi, CUDA_VISIBLE_DEVICES and whether torch was installed for CUDA"
    )
    # What `accelerate launch` gives to a process that it starts alone, told of several; Kubernetes gives WORLD_SIZE too.
    if "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        announce(
            "warning: several processes were asked for, and `accelerate launch` has started one, as it does without several GPUs; "
            "two on a CPU: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py …"
        )
    if parse_flag_from_env("ACCELERATE_USE_CPU") or (
        not gpus and (torch.backends.mps.is_available() or torch.xpu.is_available())
    ):
        return
    if 0 < gpus < processes:
        raise TrainingError(
            f"the launch profile asks for {processes} processes with a GPU each, and {there}: launch with --num_processes {gpus}"
            f"{remedy}"
        )
    if gpus:
        return
    if environment.get("ACCELERATE_MIXED_PRECISION") == "fp16":
        raise TrainingError(
            f"the launch profile asks for float16, which needs a GPU, and {there}: on a CPU take --mixed_precision bf16 or no"
            f"{remedy}"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise TrainingError(
            f"the launch profile divides the model over GPUs (FSDP), and {there}: take accelerate_configs/one_device.yaml{remedy}"
        )
    if processes > 1:
        environment["ACCELERATE_USE_CPU"] = "true"  # without it, each process would take itself for the only one
        announce(
            f"warning: the launch profile asks for {processes} processes with a GPU each, and {there}: they share the CPU, which "
            f"one process does as well (`rec train`, accelerate_configs/one_device.yaml){remedy}"
        )


def prepare_model(
    cfg: Any, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any]:
    """Applies the switches of ``cfg.train`` (SyncBN, activation checkpointing, compile) and ``accelerator.prepare``.

    Raises:
        TrainingError: a switch that cannot work here, with the override that turns it off.
    """
    train = cfg.train
    if train.cuda_graphs.enabled and (
        accelerator.device.type != "cuda" or accelerator.num_processes > 1 or accelerator.scaler is not None
    ):
        raise TrainingError(
            "CUDA graphs are for one process on a GPU, in float32 or bfloat16: here use train.cuda_graphs.enabled=false"
        )
    if train.sync_bn.enabled:
        if accelerator.device.type == "cpu":
            raise TrainingError("SyncBatchNorm needs GPUs: on CPU use train.sync_bn.enabled=false")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if accelerator.distributed_type in SHARDED and train.ema.enabled:
        raise TrainingError(
            f"EMA keeps whole weights on every process, which {accelerator.distributed_type.value} avoids: "
            "use train.ema.enabled=false"
        )
    if accelerator.distributed_type in SHARDED and borrowed_names(model):
        raise TrainingError(
            f"checkpoints leave out what is frozen of a published text encoder, which {accelerator.distributed_type.value} "
            "divides: use model.language_encoder.freeze=none, or processes without it"
        )
    if train.activation_checkpoint.enabled:
        if not hasattr(model, "enable_activation_checkpointing"):
            raise TrainingError(
                f"{type(model).__name__} has no enable_activation_checkpointing(): use train.activation_checkpoint.enabled=false"
            )
        model.enable_activation_checkpointing()  # type: ignore[operator]
    if accelerator.is_fsdp2:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # It divides contiguous weights alone. They stay float32, as BatchNorm's statistics are: autocast computes in bfloat16.
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
    else:
        model = channels_last(model)
    if train.compile.enabled:
        if train.compile.backend not in torch._dynamo.list_backends(None):
            known = ", ".join(torch._dynamo.list_backends())
            raise TrainingError(f"train.compile.backend is {train.compile.backend!r}; expected one of {known}")
        # More image sizes than the default of 8 graphs would silently run uncompiled.
        torch._dynamo.config.recompile_limit = 2 * max(8, len(train.multi_scale_training.img_scales))
        # In place: state-dict names stay.
        model.compile(dynamic=train.compile.dynamic, backend=train.compile.backend)
    return accelerator.prepare(model, optimizer)


def refuse_idle_parameters(error: RuntimeError, model: nn.Module) -> None:
    """Names the parameters of ``model`` where ``error`` is DDP's about some that the losses of the last update did not depend on.

    Raises:
        TrainingError: it is. (DDP's own remedy is a search for them in every update.)
    """
    if "Expected to have finished reduction" not in str(error):
        return
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    numbers = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
    idle = [trained[int(number)] for number in numbers[1].split()] if numbers else ["some parameters"]
    raise TrainingError(
        f"the losses did not depend on {', '.join(idle[:5])}{' …' if len(idle) > 5 else ''}: on several processes every "
        "parameter that is trained takes part in every update. Take them out of the model, freeze them "
        "(requires_grad_(False), train.freeze_schedule), or add 0 * their sum to the loss"
    ) from error
