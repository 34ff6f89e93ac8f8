"""Trains a referring expression model from a lazy config.

    accelerate launch scripts/train.py configs/x.py [key=value ...]
    rec train configs/x.py [key=value ...]
    rec train --check configs/x.py [key=value ...]      checks names and values, builds nothing

Started again with the same command it continues from the newest checkpoint in train.output_dir.
Exit status: 0 finished, 1 training failed, 2 bad config or input, or training that cannot go on; stopped with a checkpoint saved:
129 by SIGHUP, 130 by Ctrl-C, 143 by SIGTERM.

Config keys it reads (configs/common/train.py has every train key, its default and its meaning):

    model      LazyCall of a torch.nn.Module: model(batch) -> {"loss": ..., ...} in training, {"box", "score", ...} in evaluation
    dataset    LazyCall of a map-style data set or a stream (rec.data.stream); receives split, training, vocabulary, seed,
               rank, processes where it takes them
    optim      LazyCall of a torch optimizer class; receives params
    train      output_dir seed epochs | train_iter batch_size num_accumulation_steps
               base_lr warmup_lr min_lr warmup_epochs | warmup_ratio scheduler parameter_groups clip_grad_norm
               amp.enabled ema.{enabled,alpha,buffer_ema,warmup} sync_bn.enabled communication.{bucket_cap_mb,hook,timeout}
               multi_scale_training.{enabled,img_scales} activation_checkpoint.enabled compile.{enabled,dynamic,backend}
               cuda_graphs.enabled freeze_schedule fixed_statistics max_skipped_updates
               data.{num_workers,pin_memory,share_images,mean,std}
               evaluation.{enabled,splits,eval_batch_size,eval_period,eval_on_start,eval_iter,eval_metric,eval_mode,evaluator}
               save_period checkpointer.{period,max_to_keep} auto_resume.enabled resume_path load_weight vl_pretrain_weight
               log_period trackers log_image profile.{enabled,first_update,updates} hub.{repo_id,push,private} fast_dev_run
"""

import argparse
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rec.training.feed import Feed
    from rec.training.run import Run

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import
LAUNCHER = os.getppid()  # read before the launcher can have died during the imports


def train(cfg: Any) -> int:
    """Trains until the configured length, a stop request or an error; returns the exit status."""
    import torch
    from accelerate.utils import set_seed

    from rec.config import to_native
    from rec.training import build, checkpoint, process, resume, schedules, summary
    from rec.training.checkpoint_format import folders
    from rec.training.ema import EMA
    from rec.training.feed import Feed
    from rec.training.freezing import FreezingSchedule
    from rec.training.launch import build_accelerator, prepare_model
    from rec.training.publish import Publisher
    from rec.training.run import Run
    from rec.training.run_log import Profiler, RunLog, Window
    from rec.training.update import Step, recorded
    from rec.training.weights import find_weights, load_matching

    # The process: its memory, its signals, its place among others.
    if not torch.cuda.is_available():
        process.keep_freed_memory()
    output_dir = Path(cfg.train.output_dir)
    stop = process.StopRequest(output_dir, cfg.train.communication.timeout, LAUNCHER)
    accelerator, per_process, accumulation = build_accelerator(cfg)
    set_seed(cfg.train.seed)  # the same on every process while the model is built, different ones from then on

    # Data before the model: the vocabulary gives its embedding its size. Weights to start from are read into it once.
    dataset = build.build_dataset(cfg, cfg.dataset.get("split", "train"), training=True)
    vocabulary = dataset.vocabulary
    build.set_vocabulary_size(cfg, vocabulary)
    splits = cfg.train.evaluation.splits if cfg.train.evaluation.enabled else []
    validation = [(split, build.build_dataset(cfg, split, training=False, vocabulary=vocabulary)) for split in splits]
    model = build.build_model(cfg, dataset)
    # Where it goes on from a checkpoint, that has the weights: those it once started from may be gone.
    goes_on = bool(cfg.train.resume_path or folders(output_dir))
    start_from = "" if goes_on else cfg.train.load_weight or cfg.train.vl_pretrain_weight
    words = None if vocabulary is None else vocabulary.words
    report = load_matching(model, find_weights(start_from), words) if start_from else None
    optimizer = build.build_optimizer(cfg, model)
    base_rates = [group["lr"] for group in optimizer.param_groups]

    # How long it is, in updates: everything periodic is counted in them.
    loader = build.build_loader(cfg, accelerator, dataset, per_process, accumulation, stop.fail)
    updates_per_epoch, total_updates = schedules.length(cfg.train, loader.batches.updates_per_epoch)
    schedule = schedules.from_config(cfg.train, total_updates, updates_per_epoch)

    # From here on the output folder is this run's. The model goes under Accelerate, and state from a checkpoint into both.
    lock = process.lock_output_folder(output_dir) if accelerator.is_main_process else None
    freezing = FreezingSchedule(
        cfg.train.freeze_schedule or (), model, accelerator, cfg.train.get("fixed_statistics", False)
    )
    model, optimizer = prepare_model(cfg, accelerator, model, optimizer)
    bare = accelerator.unwrap_model(model)
    averaged = cfg.train.ema
    ema = EMA(bare, averaged.alpha, averaged.buffer_ema, averaged.get("warmup", True)) if averaged.enabled else None
    state = resume.initial_state(cfg, accelerator, dataset, accumulation)
    set_seed(cfg.train.seed, device_specific=True)
    state, notes = resume.restore(cfg, accelerator, bare, ema, state)
    accelerator.step = 0  # of accumulation; a checkpoint is always taken between two updates

    # What the run writes: the log, checkpoints, model folders, a profile. The first lines say what it is.
    state.due_evaluation &= bool(validation)
    log = RunLog(output_dir, accelerator, to_native(cfg), state.update, state.due_evaluation)
    writer = checkpoint.CheckpointWriter(output_dir, cfg.train.checkpointer.max_to_keep, log.line)
    publisher = Publisher(cfg, bare, vocabulary, dataset, accelerator.is_main_process, log.line)
    profiler = Profiler(cfg.train.profile, output_dir, accelerator, log.line)
    if accelerator.is_main_process:
        resume.keep_config(cfg, state, total_updates)
    for note in [*summary.warnings(cfg), *notes, *([f"started from {report}"] if report else [])]:
        log.line(note)
    every_split = [("train", dataset), *validation]
    lines = summary.beginning(cfg, accelerator, bare, every_split, total_updates, per_process, accumulation)
    log.describe(lines, bare, total_updates, cfg.train.log_period)
    window = Window()
    window.load(state.window, accelerator, state.update)
    compute: Any = partial(forward_and_backward, accelerator, cfg.train.data)
    graphs, weights = cfg.train.cuda_graphs.enabled, list(model.parameters())
    compute = recorded(compute, weights, accumulation) if graphs else compute
    step = Step(accelerator, bare, weights, ema, cfg.train.clip_grad_norm, graphs)
    run = Run(cfg, accelerator, bare, ema, state, stop, log, window, compute, step)
    scales, status, due_save, stopping, finite = cfg.train.multi_scale_training, 0, False, False, True
    model.train()

    def save(improved: bool) -> None:
        state.window, state.ema_updates = window.state(accelerator), ema.updates if ema else 0
        writer.save(accelerator, model, optimizer, ema, state, publisher.after_save(state, improved))
        if writer.diverged:
            raise resume.diverged(state, writer, log)

    if state.due_evaluation:  # eval_on_start, or a stop request cut it short
        improved = evaluate_splits(run, validation)
        if not (stopping := state.due_evaluation):
            save(improved)

    # Epochs, each from where the state says: the first may begin in the middle.
    while state.update < total_updates and not stopping:
        loader.batches.set_position(state.epoch, state.update_in_epoch)
        feed = Feed(iter(loader), accumulation, accelerator.device)
        while state.update_in_epoch < updates_per_epoch and state.update < total_updates:
            # What this update is to be: image size, rates, trained modules, batches.
            size = schedules.image_size(cfg.train.seed, state.update, scales.img_scales) if scales.enabled else None
            factor = float(schedule(state.update))
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            model, optimizer = freezing.apply(model, optimizer, state.update)
            profiler.before_update()
            try:
                window.data_wait += feed.take()
            except Exception:  # the data failed, not the training: one process saves, several would have to agree
                if state.update and not state.skipped_in_a_row and accelerator.num_processes == 1:
                    save(improved=False)
                    writer.wait()
                raise

            # The update. One whose gradient is not finite is skipped, and counts: too many in a row end the run.
            gradient_norm, stopping = one_update(run, model, optimizer, feed, size)
            finite = math.isfinite(gradient_norm)
            state.update += 1
            state.update_in_epoch += 1
            state.skipped_updates += not finite
            state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
            log.advance()
            if state.skipped_in_a_row > cfg.train.max_skipped_updates:
                raise resume.diverged(state, writer, log)

            # What is due after it: log, evaluation, checkpoint.
            epoch_ended = state.update_in_epoch == updates_per_epoch
            finished = state.update == total_updates
            evaluates = finished or (epoch_ended and schedules.due(state.epoch + 1, cfg.train.evaluation.eval_period))
            state.due_evaluation |= evaluates and bool(validation)
            due_save |= finished or schedules.due(state.update, cfg.train.checkpointer.period)
            due_save |= epoch_ended and schedules.due(state.epoch + 1, cfg.train.save_period)
            if epoch_ended:
                state.epoch, state.update_in_epoch = state.epoch + 1, 0
            if finished or schedules.due(state.update, log.period):
                log.update(window, state, total_updates, base_rates[0] * factor, gradient_norm)
            # While updates are skipped, the model may be lost: nothing is measured, saved or pruned until one is finite.
            improved = False
            if state.due_evaluation and finite:
                improved = evaluate_splits(run, validation)
                stopping |= state.due_evaluation  # cut short: it comes first when the run continues
            due_save |= stopping
            if (due_save or improved) and finite:
                due_save = False
                save(improved)
            if epoch_ended or stopping:
                break

    # The end: say why, wait for what is still being written, publish.
    if stopping and (state.update < total_updates or state.due_evaluation):
        status = stop.exit_status
        where = "there" if finite else "the newest checkpoint: since then updates were skipped, which are not saved"
        log.line(f"stopped after update {state.update} ({stop.reason}); the same command continues from {where}")
    profiler.close()
    writer.wait()
    if due_save and status == 0:  # the end falls into updates that were skipped
        raise resume.diverged(state, writer, log)
    if writer.failure is not None:
        raise resume.TrainingError(f"the last checkpoint could not be saved: {writer.failure}")
    publisher.close(state, finished=status == 0)
    log.close(cfg, state, total_updates)
    del lock
    if status and stop.failure is not None:
        raise resume.TrainingError(f"{stop.failure}; saved after update {state.update}, the same command continues")
    return status


def one_update(run: "Run", model: Any, optimizer: Any, feed: "Feed", size: int | None) -> tuple[float, bool]:
    """Forward and backward of every accumulated batch, and the step, which is skipped where the gradient is not finite.

    Returns:
        (total gradient norm before clipping, whether any process was asked to stop). The one read-back of an update.
    """
    for batch in feed.batches:
        with run.accelerator.accumulate(model):
            losses = run.compute(model, batch, size)
        run.window.add(losses, len(batch["image"]))
    return run.step(optimizer, run.stop.requested, feed.ahead)


def forward_and_backward(accelerator: Any, data: Any, model: Any, batch: Any, size: int | None) -> dict[str, Any]:
    """A batch's losses ``()``, their gradients added to those of the weights; waits for nothing."""
    from rec.data.batch import model_input
    from rec.training.launch import refuse_idle_parameters
    from rec.training.update import losses_of

    try:
        with accelerator.autocast():
            losses = losses_of(model(model_input(batch, data.mean, data.std, size)))
    except RuntimeError as error:
        refuse_idle_parameters(error, accelerator.unwrap_model(model))
        raise
    accelerator.backward(losses["loss"])
    return {name: value.detach() for name, value in losses.items()}


def evaluate_splits(run: "Run", validation: list[Any]) -> bool:
    """Evaluates every split with the EMA weights where there are any; True when the first split's metric is the best so far.

    ``state.due_evaluation`` stays True where a stop request cuts it short.
    """
    from rec.evaluation import EvaluationStopped, several
    from rec.training.build import evaluate_split
    from rec.training.ema import as_published
    from rec.training.publish import is_best

    train, accelerator, bare, state, log = run.cfg.train, run.accelerator, run.model, run.state, run.log
    options = train.evaluation
    limit = 2 if train.fast_dev_run else options.eval_iter
    first: dict[str, float] = {}
    try:
        with as_published(bare, run.ema):
            for split, dataset in validation:
                started = time.perf_counter()
                metrics, records = evaluate_split(
                    run.cfg, bare, dataset, accelerator, run.stop.fail, limit=limit,
                    stop=lambda: run.stop.requested, answer=several.chosen(first),  # the first split chose, this one is judged
                )  # fmt: skip
                log.metrics("evaluation", state.update, metrics, split=split, epoch=state.epoch)
                shown = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
                log.line(f"evaluation {split}, update {state.update}: {shown}  ({time.perf_counter() - started:.1f} s)")
                if train.log_image and options.evaluator is None:
                    log.pictures(split, state.update, dataset, records)
                first = first or metrics
    except EvaluationStopped:
        return False
    finally:
        run.window.restart_clock(state.update)
    state.due_evaluation = False
    return is_best(options, state, validation[0][0], first)


def main() -> int:
    import rec.other_names  # noqa: F401 - tells rec.config which options are refused
    from rec.command_line import add_trust_option, announce
    from rec.config import parse_config_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check names and values, build nothing")
    add_trust_option(parser)
    args = parse_config_arguments(parser)
    announce(f"{'checking' if args.check else 'training from'} {args.config}")
    from rec.training import build, memory, summary

    cfg = build.read_training_config(args.config, args.overrides, args.trust_config)
    if args.check:
        print(f"{args.config}: every key and argument is known, the values fit", *summary.warnings(cfg), sep="\n")
        return 0
    with memory.explained_memory(cfg):
        return train(cfg)


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
