"""From config nodes to data set, model and optimizer: what is only known at run time is added here."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import IterableDataset

from rec.config import ConfigError, LazyConfig, instantiate, locate, try_get_key
from rec.config.call import parameters
from rec.contracts import ConfigNode, DataSet, Stream, Words, abilities
from rec.data.adapter import as_data_set
from rec.data.loader import (
    OnLostWorker,
    StreamedBatches,
    TrainingBatches,
    evaluation_loader,
    sharing_groups,
    training_loader,
)
from rec.data.sources import find_split
from rec.data.subwords import PREFIX
from rec.data.workers import Loader
from rec.errors import UntrustedError
from rec.evaluation import evaluate
from rec.files import refuse_inputs, user_path
from rec.model_folder.allowed import at_home, checked_config, fill_in, load_config, outward
from rec.model_folder.find import Trained, find_folder
from rec.model_folder.format import (
    VOCABULARY,
    WEIGHTS,
    ModelFolderError,
    checked_file,
    read_folder_config,
)
from rec.model_folder.reader import load_vocabulary
from rec.model_folder.text_encoder import load_published, settle
from rec.models.pretrained_text import text_encoders
from rec.training.keys import check_values
from rec.training.phrase_cache import remember_phrases
from rec.training.schema import check_config, drop_helpers
from rec.training.update import steps_by_itself


def read_training_config(path: str, overrides: Sequence[str], trust_config: bool = False) -> Any:
    """A training config with its overrides, checked: nothing is built.

    Args:
        path: ``.py`` or ``.yaml``.
        overrides: ``key=value`` each.
        trust_config: let a YAML file call any target.

    Raises:
        ConfigError: it cannot be read, lacks a namespace, or has an unknown key or argument.
        InputError: the run would write ``best/`` over the weights it starts from.
        UntrustedError: a YAML file calls what is not in the list, writes outside the current folder or publishes, unless
            an override says the same.
    """
    cfg = load_config(path, overrides, trust_config)
    if not trust_config and (wish := outward(cfg, path, overrides)):
        raise UntrustedError(
            f"{path} asks for {wish}, outside the current folder: say so yourself by adding it to the command, or change it; "
            "for a file of your own, --trust-config takes it as it is"
        )
    missing = [name for name in ("model", "dataset", "optim", "train") if name not in cfg]
    if missing:
        how = f"import it from common/, or write {missing[0]} = {'dict' if missing[0] == 'train' else 'LazyCall(Class)'}(...)"
        raise ConfigError(f"{path} defines no {' and no '.join(missing)}: {how}, see docs/config.md")
    if not isinstance(try_get_key(cfg, "train"), Mapping):
        raise ConfigError(f"{path}: cfg.train is {cfg.train!r}; expected a group, as in configs/common/train.py")
    if problems := check_config(cfg):
        raise ConfigError("; ".join(problems))
    drop_helpers(cfg)
    given = [Path(path) for path in (cfg.train.load_weight, cfg.train.vl_pretrain_weight) if path]
    weights = [path / WEIGHTS if path.is_dir() else path for path in given]
    refuse_inputs([Path(cfg.train.output_dir, "best")], weights)  # it is replaced by each better model
    return cfg


def read_data_config(
    path: str | Path,
    groups: Sequence[str],
    overrides: Sequence[str] = (),
    trust_config: bool = False,
    change: Callable[[Any], None] | None = None,
) -> Any:
    """The config that names the data of an evaluation, with ``change`` and then the overrides applied; nothing is built.

    Args:
        path: ``.py`` or ``.yaml``.
        groups: config paths that it must have.
        overrides: ``key=value`` each.
        trust_config: let a YAML file call any target.
        change: what the model evaluated wants otherwise.

    Raises:
        ConfigError, UntrustedError: as :func:`rec.model_folder.allowed.load_config`; a value that fits no key.
        ModelFolderError: a group is missing.
    """
    load_config(path, trust_config=trust_config)  # before anything in it is looked at
    cfg = fill_in(at_home(LazyConfig.load(path), path))
    for group in groups:
        if not isinstance(try_get_key(cfg, group), Mapping):
            raise ModelFolderError(f"{path} has no group `{group}`, which an evaluation needs")
    if "candidate_transforms" in cfg.dataset:
        cfg.dataset.candidate_transforms = {}  # augmentation is for training; building it would only cost time
    if change is not None:
        change(cfg)
    cfg = checked_config(LazyConfig.apply_overrides(cfg, overrides), path, trust_config)
    if problems := check_values(cfg, ("dataset", "train.data", "train.evaluation")):
        raise ConfigError("; ".join(problems))
    return cfg


def read_run_config(
    trained: Trained, path: str | Path | None, overrides: Sequence[str] = (), trust_config: bool = False
) -> tuple[Any, Words | None]:
    """The config the data of a trained model come from, with the model folder's own input size, and the model's vocabulary.

    Args:
        trained: as :func:`rec.model_folder.find.find_trained` finds it.
        path: by default the config of its run.
        overrides, trust_config: as of :func:`read_data_config`.

    Returns:
        The config, and the words; None for a checkpoint of a run without ``best/``.

    Raises:
        ModelFolderError: there is no config.
        ConfigError, UntrustedError: as :func:`read_data_config`.
    """
    path = path or trained.run_config
    if path is None:
        raise ModelFolderError(
            f"{trained.folder} has no run config beside it; name the data with --config configs/x.py"
        )

    def take_preprocess(cfg: Any) -> None:
        preprocess = read_folder_config(checked_file(trained.folder, "config.yaml"))["preprocess"]
        takes = _taken(cfg.dataset)
        for key in ("input_shape", "max_token_length"):
            if key in cfg.dataset or key in (takes or {}):
                cfg.dataset[key] = preprocess[key]
        cfg.train.data.mean, cfg.train.data.std = preprocess["mean"], preprocess["std"]

    groups = ("dataset", "train", "train.data", "train.evaluation", *(["model"] if trained.is_checkpoint else []))
    change = None if trained.is_checkpoint else take_preprocess
    cfg = read_data_config(path, groups, overrides, trust_config, change)
    places = (trained.folder, trained.folder.parent.parent / "best")
    found = [folder for folder in places if (folder / "vocab.json").exists()]
    tokenizer = cfg.dataset.get("tokenizer", "simrec")
    return cfg, load_vocabulary(found[0], trust_config, tokenizer) if found else None


def instantiate_with(node: ConfigNode, known: Mapping[str, Any]) -> Any:
    """Instantiates a LazyCall with those of ``known`` that its target takes, so that targets from anywhere fit."""
    takes = _taken(node)
    return instantiate(node, **{key: value for key, value in known.items() if takes is None or key in takes})


def _taken(node: ConfigNode) -> Mapping[str, Any] | None:
    """The arguments that a LazyCall's target takes; None where it takes any, or there is no target."""
    target = node.get("_target_")
    return parameters(locate(target) if isinstance(target, str) else target) if target else None


def build_dataset(cfg: Any, split: str, *, training: bool, vocabulary: Words | None = None) -> DataSet:
    """The data set of ``cfg.dataset`` at ``split``; the vocabulary is its own where none is given.

    ``cfg.dataset.vocabulary`` may name a model, whose words it then takes.
    """
    known: dict[str, Any] = {"split": split, "training": training, "seed": cfg.train.seed}
    if training:
        known["share_images"] = bool(try_get_key(cfg, "train.data.share_images", default=False))
    if torch.distributed.is_initialized():
        known |= {"rank": torch.distributed.get_rank(), "processes": torch.distributed.get_world_size()}
    named = cfg.dataset.get("vocabulary")
    if vocabulary is not None:
        known["vocabulary"] = vocabulary
    elif isinstance(named, str) and not named.startswith(PREFIX) and not user_path(named).is_file():
        known["vocabulary"] = str(find_folder(named) / VOCABULARY)
    return as_data_set(instantiate_with(cfg.dataset, known))


def build_datasets(cfg: Any, splits: Sequence[str], vocabulary: Words | None) -> dict[str, DataSet]:
    """:func:`build_dataset` of each split for evaluation, all with one vocabulary: the first one's where none is given. Where the
    config has a model, its size is set. A split that is named in two ways, ``val`` and ``validation``, is there once."""
    datasets: dict[str, DataSet] = {}
    for split in splits:
        same = find_split(split, tuple(datasets)) or ""
        own = getattr(datasets.get(same), "available_splits", (same, split))  # it may have both
        if not same or (same != split and {same, split} <= {*own}):
            datasets[split] = build_dataset(cfg, split, training=False, vocabulary=vocabulary)
            vocabulary = vocabulary or datasets[split].vocabulary
    if "model" in cfg:
        set_vocabulary_size(cfg, vocabulary)
    return datasets


def build_loader(
    cfg: Any,
    accelerator: Accelerator,
    dataset: DataSet,
    per_process: int,
    accumulation: int,
    on_lost_worker: OnLostWorker = None,
) -> Loader:
    """What reads the batches of each update: of a map-style data set or of a stream.

    Args:
        cfg, accelerator, dataset: of the run.
        per_process: samples per process and batch.
        accumulation: batches per update.
        on_lost_worker: as of :class:`rec.data.workers.Loader`.

    Returns:
        The loader; its ``batches`` say which samples meet: ``set_position(epoch, update)`` decides where the next iteration
        begins, ``updates_per_epoch`` how long it is.

    Raises:
        ValueError: the data set cannot be divided as ``cfg.train`` asks.
    """
    data = cfg.train.data
    if isinstance(dataset, IterableDataset):
        if data.share_images:
            raise ValueError("train.data.share_images=true: a stream does not tell which of its samples share an image")
        stream = StreamedBatches(
            cast(Stream, dataset),
            per_process,
            processes=accelerator.num_processes,
            accumulation=accumulation,
            updates=cfg.train.train_iter,
            num_workers=data.num_workers,
        )
        return stream.loader(data.pin_memory, on_lost_worker)
    batches = TrainingBatches(
        len(dataset),
        per_process,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        accumulation=accumulation,
        seed=cfg.train.seed,
        groups=sharing_groups(dataset) if data.share_images else None,
    )
    how = {"num_workers": data.num_workers, "pin_memory": data.pin_memory, "on_lost_worker": on_lost_worker}
    return training_loader(dataset, batches, **how)


def evaluate_split(
    cfg: Any,
    model: nn.Module,
    dataset: DataSet,
    accelerator: Accelerator,
    on_lost_worker: OnLostWorker = None,
    **how: Any,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """:func:`rec.evaluation.evaluate` on a split, with the loader, evaluator and normalisation that ``cfg.train`` names.

    Args:
        cfg, model, dataset, accelerator, on_lost_worker: as of :func:`build_loader`; the model is the bare one.
        how: further arguments of :func:`rec.evaluation.evaluate`.
    """
    data, options = cfg.train.data, cfg.train.evaluation
    loader = evaluation_loader(
        dataset,
        options.eval_batch_size,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        num_workers=data.num_workers,
        pin_memory=data.pin_memory,
        on_lost_worker=on_lost_worker,
    )
    evaluator = instantiate(options.evaluator) if options.get("evaluator") else None
    how |= {"mean": data.mean, "std": data.std, "replay": cfg.train.get("cuda_graphs", {}).get("enabled", False)}
    return evaluate(model, loader, dataset, accelerator, evaluator=evaluator, **how)


def set_vocabulary_size(cfg: Any, vocabulary: Words | None) -> None:
    """Sets ``token_size`` of the text encoder, so that it is saved with the config; one from elsewhere may take none."""
    encoder = cfg.model.get("language_encoder")
    if vocabulary is not None and isinstance(encoder, Mapping):
        takes = _taken(encoder)
        if takes is None or "token_size" in takes:
            cfg.model.language_encoder.token_size = len(vocabulary)


def parameter_groups(
    model: nn.Module,
    lr: float,
    *,
    backbone_lr_factor: float = 1.0,
    text_lr_factor: float = 1.0,
    decay_norms_and_biases: bool = True,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups, for any ``torch.optim`` class.

    Args:
        model: parameters whose name starts with ``visual_backbone.`` are the backbone's, with ``language_encoder.`` the text
            encoder's; of a published one only those with ``language_encoder.text.``, its adapters included.
        lr: the optimizer's rate.
        backbone_lr_factor: multiplies the backbone's rate.
        text_lr_factor: multiplies the text encoder's.
        decay_norms_and_biases: False gives one-dimensional parameters (norms, biases) weight decay 0.

    Returns:
        At most six groups, in a fixed order; empty ones are left out.
    """
    published = any(name.startswith("language_encoder.text.") for name, _ in model.named_parameters())
    text = "language_encoder.text." if published else "language_encoder."
    factors = {"visual_backbone.": backbone_lr_factor, text: text_lr_factor}
    slower = [start for start, factor in factors.items() if factor != 1]
    groups: dict[tuple[int, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = next((number for number, start in enumerate(slower, 1) if name.startswith(start)), 0)
            undecayed = parameter.ndim <= 1 and not decay_norms_and_biases
            groups.setdefault((part, undecayed), []).append(parameter)
    return [
        {"params": parameters}
        | ({"lr": lr * factors[slower[part - 1]]} if part else {})
        | ({"weight_decay": 0.0} if undecayed else {})
        for (part, undecayed), parameters in sorted(groups.items())
    ]


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """``cfg.optim`` over :func:`parameter_groups`, by ``cfg.train.parameter_groups``."""
    rate = cfg.optim.get("lr")
    if rate is None:  # the target's own
        rate = instantiate(cfg.optim, params=[nn.Parameter(torch.zeros(1, 1))]).param_groups[0]["lr"]
    groups = parameter_groups(model, rate, **cfg.train.get("parameter_groups", {}))
    if not groups:
        raise ValueError("the model has no trainable parameter: everything is frozen")
    return steps_by_itself(instantiate(cfg.optim, params=groups))


def _check_pixels(cfg: Any, model: nn.Module) -> None:
    """Raises a ConfigError where pixels are normalised otherwise than a backbone's pretrained weights know them."""
    expects = getattr(getattr(model, "visual_backbone", None), "expects", None)
    if expects is None:
        return
    data = cfg.train.data
    found = (*data.mean, *data.std)
    if not all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(found, sum(expects, ()), strict=True)):
        mean, std = (",".join(f"{value:g}" for value in values) for values in expects)
        raise ConfigError(
            f"the pretrained weights of model.visual_backbone were trained on other pixels than train.data.mean={list(data.mean)} "
            f"and std={list(data.std)} give: set train.data.mean=[{mean}] train.data.std=[{std}]"
        )


def build_model(cfg: Any, dataset: object) -> nn.Module:
    """``cfg.model`` with the weights of a published text encoder, or the word vectors of the data set, where it has any.

    Raises:
        ConfigError: phrases of the data set name none or several objects, and the model cannot learn from that; its rows have
            weights the model does not know; phrases are longer than a published text encoder takes; word vectors are asked
            for that the text encoder does not take; or pixels are normalised otherwise than the backbone's pretrained weights know.
        InputError, UntrustedError: of a published text encoder (:mod:`rec.model_folder.text_encoder`).
    """
    known = as_data_set(dataset)
    settle(cfg.model, known.vocabulary)
    model = instantiate(cfg.model)
    for encoder in text_encoders(model).values():
        if (known.max_token_length or 0) > (most := encoder.text.length):
            raise ConfigError(
                f"dataset.max_token_length is {known.max_token_length}, the text encoder has places for {most} tokens: set "
                f"dataset.max_token_length={most}, or less"
            )
        load_published(encoder, cfg.model.language_encoder, "this run")
        is_graph = cfg.train.compile.enabled or cfg.train.get("cuda_graphs", {}).get("enabled", False)
        if encoder.is_frozen and not is_graph:  # its look-ups are not part of one
            remember_phrases(encoder, cfg.model.language_encoder)
    _check_pixels(cfg, model)
    if known.targets == "any" and (reason := abilities(model).one_only):
        raise ConfigError(
            f"dataset.targets=any, but this {type(model).__name__} cannot learn from phrases that name none or several "
            f"objects: {reason}. Take a model that can, such as SimREC with an REChead, or data with one object for each phrase"
        )
    if known.weighted_rows and not abilities(model).weighted:
        raise ConfigError(
            f"{known.weighted_rows} rows of the data set have a weight, which this {type(model).__name__} does not know: "
            "multiply each phrase's losses by batch['weight'] where there is one and say so with `weighted = True` on the "
            "model, or take `weight` out of the data"
        )
    words, vectors = getattr(model, "language_encoder", None), known.pretrained_emb
    wanted = vectors is not None or (words is not None and cfg.dataset.get("use_glove"))
    if wanted and not hasattr(words, "load_word_vectors"):
        raise ConfigError(
            f"dataset.use_glove=true, but model.language_encoder, a {type(words).__name__}, takes no word vectors: set "
            "dataset.use_glove=false, or give it load_word_vectors(vectors)"
        )
    if vectors is not None:
        cast(Any, words).load_word_vectors(vectors)
    return model
