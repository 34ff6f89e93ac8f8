"""Starting a new run from weights that only partly fit: another data set's vocabulary, another head."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from rec.data.subwords import IN_FILE, Subwords
from rec.data.text import read_vocabulary
from rec.errors import CheckpointError, RecError
from rec.files import user_path
from rec.model_folder.find import find_folder, packaged
from rec.model_folder.format import TOKENIZER, VOCABULARY, check_digests, checked_file
from rec.models.pretrained_text import borrowed_names
from rec.models.soundness import unsound
from rec.training.checkpoint_format import AVERAGED, STATE, WEIGHTS, damage
from rec.trust import regular_file, weight_shapes, weights_of_others

EMBEDDING = "language_encoder.embedding.weight"


def load_matching(model: nn.Module, source: Path, words: Sequence[str] | None) -> str:
    """Copies every tensor of ``source`` whose name and shape the model has; word vectors go word by word.

    Args:
        model: of the new run.
        source: model folder, checkpoint (its EMA weights where it has them) or safetensors file.
        words: the new run's vocabulary, id by id; None for a model without one. With a ``vocab.json`` beside the weights, rows
            of the embedding are taken for the words both know; the others keep their initial values.

    Returns:
        One paragraph: what was loaded, what kept its initial values, what was not used.

    Raises:
        CheckpointError: no weights there, none of them fits, a frozen text encoder's are others than the published ones, or there
            are adapters that the model has not; or they cannot be trusted: not finite, a link out of the folder, not what its
            digests say, beyond the limits of :mod:`rec.trust`.
    """
    own = model.state_dict()
    try:
        folder, file = _weight_file(source)
        shapes = weight_shapes(file)
        old_words = _words_of(folder) if words is not None and EMBEDDING in own else None
    except (RecError, OSError, ValueError) as error:
        raise CheckpointError(f"train.load_weight: {error}") from error

    # What fits by name, shape and kind; word vectors go by their words where the file's are known.
    words_report = ""
    with safe_open(file, "pt") as stored:
        fitting = {name: stored.get_tensor(name) for name in shapes if name in own and shapes[name] == own[name].shape}
        vectors = stored.get_tensor(EMBEDDING) if old_words and EMBEDDING in own and EMBEDDING in shapes else None
    fitting = {n: v for n, v in fitting.items() if v.is_floating_point() == own[n].is_floating_point()}
    if words is not None and old_words is not None and vectors is not None:
        old = {word: row for row, word in reversed(list(enumerate(old_words)))}  # padding before ids that nothing has
        pairs = [(row, old[word]) for row, word in enumerate(words) if word in old]
        fitting.pop(EMBEDDING, None)
        if vectors.is_floating_point() and vectors.shape == (len(old_words), own[EMBEDDING].shape[1]) and pairs:
            here, there = torch.tensor(pairs).T
            fitting[EMBEDDING] = own[EMBEDDING].clone()
            fitting[EMBEDDING][here] = vectors[there].to(own[EMBEDDING])
            words_report = f"; {len(pairs)} of {len(words)} words are known to it"
    elif words is not None and EMBEDDING in fitting:
        words_report = f"; it has no {VOCABULARY} beside it, so its word vectors are taken id by id"

    # Weights that would not be what they are taken for.
    if not any(value.ndim for value in fitting.values()):  # BatchNorm's counters fit every model
        raise CheckpointError(
            f"train.load_weight: none of the {len(shapes)} tensors of {file} fits this model, e.g. {min(shapes, default='')}; "
            "weights of the original SimREC go through `rec convert` (scripts/convert_weights.py) first"
        )
    if adapters := sorted(n for n in shapes.keys() - fitting.keys() if n.endswith((".lora_a", ".lora_b"))):
        raise CheckpointError(
            f"train.load_weight: {file} has adapters that this model has not, such as {adapters[0]}: take best/ of its run, where "
            "they are merged, with model.language_encoder.freeze=none (and lora=null), or the same model.language_encoder.lora"
        )
    still = [n for n in borrowed_names(model) & fitting.keys() if not torch.equal(fitting[n].to(own[n]), own[n])]
    if still:
        raise CheckpointError(
            f"train.load_weight: {file} has other numbers in {len(still)} tensors of the text encoder, such as {min(still)}, than "
            "model.language_encoder.name, from which a run takes what is frozen: set model.language_encoder.freeze=none (and "
            "lora=null) to go on from those of the file"
        )

    model.load_state_dict(fitting, strict=False)
    if trouble := unsound(model):
        raise CheckpointError(f"train.load_weight: {file}: {trouble}; take the weights of another checkpoint")
    report = f"{len(fitting)} of {len(own)} tensors from {file}{words_report}"
    for what, names in (("initial", own.keys() - fitting.keys()), ("not used", shapes.keys() - fitting.keys())):
        if names:
            report += f"; {what}: {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''} ({len(names)})"
    return report


def find_weights(source: str) -> Path:
    """What ``train.load_weight`` names: a safetensors file, a checkpoint, a model folder, or the download of a hub id.

    Raises:
        CheckpointError: weights of another format, or nothing there.
        rec.errors.RecError: as :func:`rec.model_folder.find.find_folder`.
    """
    path = packaged(user_path(source))
    if hint := weights_of_others(path):
        raise CheckpointError(f"train.load_weight: {hint}")
    if path.suffix == ".safetensors" and not path.exists():
        raise CheckpointError(f"train.load_weight: there is no file {path}")
    return path if path.exists() else find_folder(source)


def _words_of(folder: Path) -> Sequence[str] | None:
    """The vocabulary beside weights; of a checkpoint, the one in its run's ``best/``."""
    homes = [folder, folder.parent.parent / "best"] if (folder / STATE).exists() else [folder]
    home = next((home for home in homes if (home / VOCABULARY).exists()), None)
    if home is None:
        return None
    words, tokenizer = read_vocabulary(checked_file(home, VOCABULARY))
    return Subwords.load(checked_file(home, TOKENIZER)).words if tokenizer == IN_FILE else words


def _weight_file(source: Path) -> tuple[Path, Path]:
    """The folder and the safetensors file of what ``train.load_weight`` names."""
    if not source.is_dir():
        return source.parent, regular_file(source, "weights")
    name = next((name for name in (AVERAGED, WEIGHTS) if (source / name).exists()), None)
    if name is None:
        raise CheckpointError(
            f"{source} is neither a model folder, a checkpoint nor a safetensors file; of a run, name its best/"
        )
    if (source / STATE).exists() and (trouble := damage(source, only=[name])):
        raise CheckpointError(f"{trouble}; take another checkpoint")
    check_digests(source)
    return source, checked_file(source, name)
