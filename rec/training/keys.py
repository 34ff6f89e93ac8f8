"""What the values of ``train``, ``dataset`` and ``optim`` may be: one table for ``--check``, for every start, and for the docs.

Names are checked elsewhere (:func:`rec.config.check`); this is about types, ranges and choices, before anything is built.
``docs/keys.md`` is the same table (``python tests/training/test_keys.py`` writes it).
"""

import importlib.util
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rec.config import to_native
from rec.config.call import Builder
from rec.config.refused import KNOWN
from rec.trust import MAX_SIDE

# key | what it may be: alternatives with " or " between them | meaning
_TABLE = """
train.output_dir | text | folder for everything the run writes; a checkpoint found there is continued from
train.epochs | whole number >= 1 or auto | length of training; auto: 300 updates, or 8 epochs where those are more
train.train_iter | whole number >= 1 or null | optimizer updates, in place of epochs
train.warmup_epochs | number >= 0 | warm-up
train.warmup_ratio | number 0..1 or null | warm-up as a share of all updates, in place of warmup_epochs
train.base_lr | number > 0 | where the schedule's factor on optim.lr is 1
train.warmup_lr | number >= 0 | rate at the first update
train.min_lr | number >= 0 | rate at the last one
train.batch_size | whole number >= 1 or auto | samples per update of all processes; auto: 8 to 64, by the data's size
train.num_accumulation_steps | whole number >= 1 | batches per update
train.seed | whole number 0..2147483647 | of everything random
train.clip_grad_norm | number >= 0 or null | total norm; 0 turns clipping off
train.max_skipped_updates | whole number >= 0 | in a row, because of a loss or gradient that is not finite
train.log_period | whole number >= 1 | updates
train.save_period | whole number >= 1 or auto | epochs; auto: a tenth of the run
train.checkpointer.period | whole number >= 1 or null | updates, beside save_period
train.checkpointer.max_to_keep | whole number >= 1 | complete checkpoints that stay
train.evaluation.enabled | true/false | evaluate while training
train.evaluation.splits | list of texts | best/ is decided on the first
train.evaluation.eval_batch_size | whole number 1..4096 | phrases per process
train.evaluation.eval_period | whole number >= 1 or auto | epochs; auto: a tenth of the run
train.evaluation.eval_on_start | true/false | before the first update too: best/ is at least as good as the weights it starts from
train.evaluation.eval_iter | number >= 1 or null | at most this many batches per process
train.evaluation.eval_metric | text | decides best/: Acc@0.5, mIoU, mask_mIoU, … or one of the evaluator's
train.evaluation.eval_mode | max or min | which way eval_metric is better
train.evaluation.sequential | true/false | SimREC's key, without effect
train.evaluation.evaluator | LazyCall or null | replaces the built-in metrics
train.data.num_workers | whole number 0..256 | loader processes; 0 loads in the training process
train.data.pin_memory | true/false | page-locked batches for GPUs
train.data.share_images | true/false | phrases of one image meet in one batch and share its pass through the backbone
train.data.mean | list of 3 numbers | of pixels in 0..1, per channel
train.data.std | list of 3 numbers > 0 | of pixels in 0..1, per channel
train.scheduler | LazyCall or mapping | build_schedule, a LazyCall of your own, or SimREC's plain dict
train.scheduler.name | cosine or step | of build_schedule
train.scheduler.decay_epochs | list of numbers >= 0 or nothing | of the step schedule
train.scheduler.lr_decay_rate | number > 0 | of the step schedule
train.parameter_groups.backbone_lr_factor | number >= 0 | multiplies the rate of visual_backbone
train.parameter_groups.text_lr_factor | number >= 0 | multiplies the text encoder's rate; of a published one not the last layer's
train.parameter_groups.decay_norms_and_biases | true/false | weight decay for one-dimensional parameters
train.amp.enabled | true/false or null | null: as the launch profile says
train.ema.enabled | true/false | average the weights
train.ema.alpha | number 0..1 | decay of the average, below 1
train.ema.warmup | true/false | let the decay rise to alpha; false: the weights it starts from keep a share of alpha ** updates
train.ema.buffer_ema | true/false | average BatchNorm's statistics too
train.sync_bn.enabled | true/false | BatchNorm over all processes; needs GPUs
train.communication.bucket_cap_mb | number > 0 | size of DDP's gradient buckets
train.communication.hook | no or fp16 or bf16 or power_sgd or batched_power_sgd | compresses gradients between processes
train.communication.timeout | number > 0 | seconds after which processes end that wait for one that hangs
train.auto_resume.enabled | true/false | continue from a checkpoint in output_dir
train.resume_path | text or nothing | checkpoint or run folder to continue
train.load_weight | text or nothing | model folder, hub id or safetensors file to start from
train.vl_pretrain_weight | text or nothing | SimREC's name for load_weight
train.multi_scale_training.enabled | true/false | another image size at every update
train.multi_scale_training.img_scales | list of squares | sides in pixels
train.activation_checkpoint.enabled | true/false | compute the backbone's activations again instead of keeping them
train.compile.enabled | true/false | torch.compile
train.compile.dynamic | true/false or null | null: one graph for the first image size, one for all others
train.compile.backend | text | inductor, or any that torch.compile knows
train.cuda_graphs.enabled | true/false | record the work of an update for each image size, replay it; one process on a GPU
train.freeze_schedule | list of mappings or nothing | {modules: [...], from_update: 0, until_update: 2000}
train.fixed_statistics | true/false | BatchNorm keeps the statistics that came with its weights: for fine-tuning on little data
train.trackers | list of trackers or nothing | tensorboard, wandb, … as Accelerate knows them
train.log_image | true/false | draw predictions at every evaluation
train.profile.enabled | true/false | record a trace
train.profile.first_update | whole number >= 0 | updates of the process before the trace
train.profile.updates | whole number >= 1 | updates in the trace
train.hub.repo_id | text or nothing | user/name to push model folders to
train.hub.push | best or every_save or end | when
train.hub.private | true/false | of a repository that is made
train.fast_dev_run | true/false | two batches of everything
dataset.dataset | text or list of texts or mapping | name, names, or names with how often each is seen
dataset.ann_path | text or mapping or null | one source, or name to source
dataset.image_path | text or mapping or null | one folder, or name to folder
dataset.mask_path | text or mapping or null | one folder, or name to folder
dataset.input_shape | square | pixels
dataset.flip_lr | true/false | mirror half of the training samples, left and right swapped in the phrase
dataset.candidate_transforms | mapping or null | name to transform; one is drawn for each training sample
dataset.max_token_length | whole number 1..512 or -1 | words (or subwords) per phrase; -1 takes the longest of the split
dataset.use_glove | true/false | word vectors from word_vectors
dataset.split | text | for training; train+val joins several
dataset.vocabulary | text or null or object | vocab.json, or a model whose words are taken, instead of building one
dataset.vocabulary_from | train or all or vectors | splits whose words are taken; vectors: and those of word_vectors
dataset.tokenizer | text | simrec, spacy:<language or pipeline>, or transformers:<folder or Hub id>
dataset.word_vectors | text or null | spaCy pipeline, its folder, or a GloVe text file
dataset.sentence_sampling | per_object or per_sentence | a random phrase of each object in an epoch, or each phrase
dataset.with_masks | true/false | samples with masks
dataset.label_clip | number 0..1 or null | the original clips box fractions at 0.99
dataset.seed | whole number 0..2147483647 | of everything random; train.seed where training builds the data set
dataset.allow_paths | true/false | records may name masks, and a Hub data set images, outside the folders given
dataset.targets | one or any | objects that a phrase names; any: none, one or several
dataset.hide | phrase or image or null | blind baselines
optim.lr | number >= 0 | the rate that the schedule's factor multiplies
optim.weight_decay | number >= 0 | of the optimizer
"""


@dataclass(frozen=True)
class Key:
    """One row of the table.

    Attributes:
        name: dotted path in a config.
        rule: what it may be, in the table's words.
        meaning: one line.
    """

    name: str
    rule: str
    meaning: str


KEYS = {row[0]: Key(*row) for row in (line.split(" | ") for line in _TABLE.strip().splitlines())}
KNOWN.update(name[:end] for name in KEYS for end in (*(dot.start() for dot in re.finditer(r"\.", name)), len(name)))
# Rules of data sets from elsewhere are their own affair.
_OUR_DATA = ("rec.data.dataset.RefCOCODataSet", "rec.data.RefCOCODataSet", "rec.data.stream.streamed_split")
_OUR_SCHEDULE = "rec.training.schedules.build_schedule"


def check_values(cfg: Any, groups: tuple[str, ...] = ("train", "dataset", "optim")) -> list[str]:
    """What is wrong with the values of ``cfg.train``, ``cfg.dataset`` and ``cfg.optim``, one line each, with file and line.

    Args:
        cfg: a config, or a part of one that has any of the three; keys that are not there are not missed.
        groups: dotted paths of the groups to look at.

    A value of a data set, schedule or evaluator that is not ours is left to it.
    """
    problems: list[str] = []
    builder = Builder(cfg, None, problems)
    for name, key in KEYS.items():
        if name.startswith(groups) and _is_ours(cfg, name) and (found := _find(cfg, name)) is not None:
            value = found[0]
            if not any(_fits(value, rule) for rule in key.rule.split(" or ")):
                shown = "null" if value is None else repr(value)[:80]
                builder.fail(ValueError, f"cfg.{name}", f" is {shown}; expected {_expected(key.rule)}")
    return problems + _together(cfg, training="train" in groups)


def _expected(rule: str) -> str:
    """The rule for a message, its own words explained."""
    if "tracker" in rule:
        rule += f" ({', '.join(_trackers())})"
    if "nothing" not in rule:
        rule = re.sub("list of (?=[a-z])", "non-empty list of ", rule)
    return re.sub("squares?", lambda match: f"{match[0]} [S, S] of 1 to {MAX_SIDE} pixels", rule)


def _fits(value: object, rule: str) -> bool:
    """Whether a value is what one alternative of a rule says."""
    if match := re.fullmatch(r"list of (\d+ )?(\w+?)s( .*)?", rule):
        if not isinstance(value, list | tuple) or len(value) != (int(match[1]) if match[1] else max(1, len(value))):
            return False
        return all(_fits(item, match[2] + (match[3] or "")) for item in value)
    kinds: dict[str, Callable[[Any], bool]] = {
        "text": lambda v: isinstance(v, str) and bool(v.strip()),
        "true/false": lambda v: type(v) is bool,
        "null": lambda v: v is None,
        "nothing": lambda v: v in (None, "", [], ()),
        "mapping": lambda v: isinstance(v, Mapping),
        "LazyCall": lambda v: isinstance(v, Mapping) and not {"_target_", "_object_"}.isdisjoint(v),
        "object": lambda v: not isinstance(v, str | int | float | list | tuple | Mapping | None),
        "square": _is_square,
        "tracker": lambda v: v in _trackers() if isinstance(v, str) else _fits(v, "LazyCall") or _fits(v, "object"),
    }
    if rule in kinds:
        return kinds[rule](value)
    if match := re.fullmatch(r"(whole )?number ?(.*)", rule):
        if isinstance(value, bool) or not isinstance(value, int if match[1] else int | float):
            return False
        return (isinstance(value, int) or math.isfinite(value)) and _within(value, match[2])
    return value is False if rule == "no" and isinstance(value, bool) else str(value) == rule  # YAML reads no as false


def _within(value: float, bounds: str) -> bool:
    if match := re.fullmatch(r"(-?[\d.]+?)\.\.([\d.]+)", bounds):
        return float(match[1]) <= value <= float(match[2])
    sign, _, limit = bounds.partition(" ")
    return not sign or (value > float(limit) if sign == ">" else value >= float(limit))


def _is_square(value: object) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(side) is int for side in value):
        return False
    return value[0] == value[1] and 1 <= value[0] <= MAX_SIDE


def _trackers() -> list[str]:
    from accelerate.utils import LoggerType

    return sorted(str(kind.value) for kind in LoggerType)


def _together(cfg: Any, training: bool) -> list[str]:
    """Values that are right alone and wrong together. An evaluation may ask a model for what it was not trained on."""
    problems = []
    metric = _find(cfg, "train.evaluation.eval_metric")
    own = _find(cfg, "train.evaluation.evaluator")
    if metric is not None and (own is None or own[0] is None) and isinstance(metric[0], str):
        from rec.evaluation.metrics import NAMES, OF_ANY_NUMBER, OF_MASKS

        targets = _find(cfg, "dataset.targets") if training else None
        expected, which = NAMES, "nothing measures"
        if targets is not None and targets[0] == "any" and _is_ours(cfg, "dataset.targets"):
            expected, which = OF_ANY_NUMBER, "is of phrases that name one object, and dataset.targets=any has others"
        if metric[0] not in expected:
            problems.append(
                f"cfg.train.evaluation.eval_metric is {metric[0]!r}, which {which}; expected one of {', '.join(expected)}"
            )
        data, masks = _find(cfg, "dataset._target_"), _find(cfg, "dataset.with_masks")
        without = data is not None and data[0] in _OUR_DATA and (masks is None or masks[0] is False)
        if training and without and metric[0] in OF_MASKS:
            problems.append(
                f"cfg.train.evaluation.eval_metric is {metric[0]!r}, which is of masks: it needs dataset.with_masks=true"
            )
    alpha = _find(cfg, "train.ema.alpha")
    if alpha is not None and alpha[0] == 1:
        problems.append(
            "cfg.train.ema.alpha is 1: the average would never move; expected a number below 1, such as 0.9997"
        )
    splits = _find(cfg, "train.evaluation.splits") if training else None
    if splits is not None and isinstance(splits[0], list | tuple) and len(set(map(str, splits[0]))) < len(splits[0]):
        problems.append(f"cfg.train.evaluation.splits is {splits[0]}, with a split twice: name each once")
    problems += _varying(cfg)
    trackers = _find(cfg, "train.trackers")
    for tracker in trackers[0] if trackers is not None and isinstance(trackers[0], list | tuple) else ():
        if tracker in _trackers() and tracker != "all" and importlib.util.find_spec(str(tracker)) is None:
            problems.append(
                f"cfg.train.trackers names {tracker}, which is not installed: pip install {tracker}, or leave it out"
            )
    return problems


def _varying(cfg: Any) -> list[str]:
    """What a CUDA graph cannot follow: it repeats the very same work, on the memory it was recorded on."""
    enabled = _find(cfg, "train.cuda_graphs.enabled")
    if enabled is None or enabled[0] is not True:
        return []
    wanted: dict[str, object] = {
        "train.activation_checkpoint.enabled": False,  # it reads the state of random numbers back
        "train.compile.enabled": False,
        "train.freeze_schedule": [],
    }
    found = {name: _find(cfg, name) for name in wanted}
    wrong = [name for name, value in found.items() if value is not None and (value[0] or wanted[name]) != wanted[name]]
    needs = " ".join(f"{name}={str(wanted[name]).lower()}" for name in wrong)
    return [f"cfg.train.cuda_graphs.enabled is true, which needs {needs}"] if wrong else []


def _is_ours(cfg: Any, name: str) -> bool:
    if name.startswith("dataset."):
        target = _find(cfg, "dataset._target_")
        return target is None or target[0] in _OUR_DATA
    if name.startswith("train.scheduler."):
        target = _find(cfg, "train.scheduler._target_")
        return target is None or target[0] == _OUR_SCHEDULE
    return True


def _find(cfg: Any, name: str) -> tuple[Any] | None:
    """The native value at a dotted path, in a tuple; None where there is none, or it is ``???`` (which another check says)."""
    node = cfg
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        try:
            node = node[part]
        except Exception:  # a missing value or interpolation, which rec.config.check reports with its place
            return None
    return (to_native(node, path=name),) if not isinstance(node, str) or node != "???" else None
