"""Starting a new run from weights that only partly fit: another data set's vocabulary, another head."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rec.data.text import read_vocabulary
from rec.training.resume import CheckpointError

EMBEDDING = "language_encoder.embedding.weight"


def load_matching(model: nn.Module, source: Path, words: Sequence[str] | None) -> str:
    """Copies every tensor of ``source`` whose name and shape the model has; word vectors go word by word.

    Args:
        model: of the new run.
        source: model folder, checkpoint (its EMA weights where it has them) or safetensors file.
        words: the new run's vocabulary, id by id. With a ``vocab.json`` beside the weights, rows of the embedding are taken
            for the words both know; the others keep their initial values.

    Returns:
        One paragraph: what was loaded, what kept its initial values, what was not used.

    Raises:
        CheckpointError: no weights there, or none of them fits.
    """
    folder = source if source.is_dir() else source.parent
    files = [source / "ema.safetensors", source / "model.safetensors"] if source.is_dir() else [source]
    file = next((candidate for candidate in files if candidate.is_file()), None)
    if file is None:
        raise CheckpointError(
            f"train.load_weight: {source} is neither a model folder, a checkpoint nor a safetensors file"
        )
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"train.load_weight: {file} is no readable safetensors file ({error})") from error
    own = model.state_dict()
    words_report = ""
    if words is not None and EMBEDDING in own and EMBEDDING in weights and (folder / "vocab.json").is_file():
        old = {word: row for row, word in enumerate(read_vocabulary(folder / "vocab.json")[0])}
        pairs = [(row, old[word]) for row, word in enumerate(words) if word in old]
        mapped = own[EMBEDDING].clone()
        if mapped.shape[1] == weights[EMBEDDING].shape[1] and pairs:
            here, there = torch.tensor(pairs).T
            mapped[here] = weights[EMBEDDING][there].to(mapped)
            words_report = f"; {len(pairs)} of {len(words)} words are known to it"
        weights[EMBEDDING] = mapped
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise CheckpointError(
            f"train.load_weight: none of the {len(weights)} tensors of {file} fits this model, e.g. {min(weights)}; "
            "weights of the original SimREC go through scripts/convert_weights.py first"
        )
    model.load_state_dict(fitting, strict=False)
    report = f"{len(fitting)} of {len(own)} tensors from {file}{words_report}"
    for what, names in (("initial", own.keys() - fitting.keys()), ("not used", weights.keys() - fitting.keys())):
        if names:
            report += f"; {what}: {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''} ({len(names)})"
    return report
