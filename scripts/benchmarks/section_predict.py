"""Section ``predict``: batch prediction against the model's bare forward pass, and the cold start of predict.py."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.inputs import VOCABULARY_SIZE, Options, batch_of, build, config, our_batch, photographs
from benchmarks.timing import Row, interleave, ratio, single

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = "configs/simrec_small_scenes_quickstart.py"
PHRASE = "the red circle on the left"


def run(options: Options) -> list[Row]:
    import torch

    from rec.data.text import CLS, PAD, UNK, Vocabulary
    from rec.inference.grounder import Grounder

    words = dict.fromkeys([PAD, UNK, CLS, *PHRASE.split(), *(f"word{n}" for n in range(VOCABULARY_SIZE))])
    vocabulary = Vocabulary(list(words)[:VOCABULARY_SIZE])
    cfg = config(options)
    grounder = Grounder(build(options), _folder_config(cfg), vocabulary, device=options.device)
    files = photographs(options.work / "photographs", min(64, options.images))
    size = 8
    batch = our_batch(batch_of(size, options, length=15))
    batch["image"] = batch["image"].to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(0, len(files), size):
            grounder.model(batch)

    def predict() -> None:
        assert len(grounder(files, PHRASE, batch_size=size)) == len(files)

    rows = [
        ratio(
            f"batch prediction from {len(files)} JPEG files, images/s, over the bare forward pass, batches of {size}",
            interleave({"forward": bare, "prediction": predict}, options.rounds, grounder.device),
            "forward",
            "prediction",
        )
    ]
    return [*rows, _cold_start(options, files[0], vocabulary)]


def _folder_config(cfg: Any) -> dict[str, Any]:
    from rec.config import to_native

    preprocess: dict[str, Any] = {"input_shape": list(cfg.dataset.input_shape), "mean": [0.0] * 3, "std": [1.0] * 3}
    preprocess["max_token_length"] = 15
    return {"model": to_native(cfg.model), "preprocess": preprocess, "about": {"sources": ["generated"]}}


def _cold_start(options: Options, image: Path, vocabulary: Any) -> Row:
    """Whole run time of predict.py on one image with the quickstart's model, less that of ``import torch``."""
    from rec.config import LazyConfig, instantiate
    from rec.inference import model_folder

    cfg = LazyConfig.load(str(ROOT / QUICKSTART))
    cfg.model.language_encoder.token_size = VOCABULARY_SIZE
    folder = options.work / "quickstart_model"
    model_folder.write(folder, instantiate(cfg.model).state_dict(), _folder_config(cfg), vocabulary)
    answer = [
        str(ROOT / "scripts/predict.py"),
        str(folder),
        str(image),
        PHRASE,
        "--out",
        str(options.work / "marked.png"),
    ]
    started, imported = _fastest(answer, options.rounds), _fastest(["-c", "import torch"], options.rounds)
    note = f"{started:.2f} s in all, import torch {imported:.2f} s"
    return single("cold start of predict.py, quickstart model, beyond importing torch", started - imported, "s", note)


def _fastest(arguments: list[str], rounds: int) -> float:
    """Wall-clock seconds of the fastest of a few starts of Python, the first one not counted."""
    seconds = []
    for _ in range(max(3, rounds)):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
