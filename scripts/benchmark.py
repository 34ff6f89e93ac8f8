"""Measures this code against a plain implementation of the same mathematics, in one process, A/B/A/B.

    python scripts/benchmark.py model          training step and prediction latency
    python scripts/benchmark.py all            every section of the CPU
    python scripts/benchmark.py --device cuda  section gpu: what matters on a GPU, in under two minutes
    python scripts/benchmark.py page           writes docs/performance.md from the results, measures nothing

Sections: model, loss, data, loop, eval, checkpoint, startup, growth, predict, time_to_accuracy (half an hour), gpu. Each
prints ratios with their spread and the bounds they are to keep, writes docs/performance/SECTION.json and
docs/performance.md. It starts itself anew with glibc's allocator set as `scripts/train.py` sets it, so that both sides keep
the memory of freed tensors.

key=value words override the config, e.g. for a quick look at a smaller network:

    python scripts/benchmark.py model --size 224 --batches 2 --rounds 2 model.visual_backbone.depth=0.33
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import SECTIONS

# Both sides keep the memory of freed tensors: glibc reads these once, before the process starts.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
}
ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import device, whole

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", choices=[*SECTIONS, "all", "page"])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", default="configs/simrec_refcoco_scratch.py", help="whose model is measured")
    parser.add_argument("--size", type=whole(32, 4096), default=416, help="side of the images in pixels")
    parser.add_argument("--batches", type=whole(1), nargs="+", default=[8, 32], metavar="N")
    parser.add_argument(
        "--rounds",
        type=whole(1),
        default=5,
        help="how often each side is timed; of gpu 3; of time_to_accuracy its seeds, 3",
    )
    parser.add_argument(
        "--images",
        type=whole(1),
        default=200,
        help="generated photographs of data and eval; of gpu 64; of time_to_accuracy 11,000 scenes",
    )
    parser.add_argument("--refs", type=whole(1), default=50_000, help="objects of the generated REFER files of data")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall",
                        help="cpu: CPU time of this process, for machines that others use meanwhile")  # fmt: skip
    parser.add_argument(
        "--device", type=device, choices=["cpu", "cuda"], default="cpu", help="cuda: section gpu; it runs on a CPU too"
    )
    parser.add_argument("--work", default="outputs/benchmark", help="folder for generated data")
    parser.add_argument("--out", default=str(ROOT / "docs" / "performance"), help="folder for the JSON files")
    args = parser.parse_intermixed_args()
    args.section = args.section or ("gpu" if args.device == "cuda" else None)
    if args.section is None or (args.device == "cuda" and args.section not in ("gpu", "page")):
        parser.error("name a section; on a GPU there is one, gpu")
    return args


def of_section(section: str, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the section's own defaults."""
    given = {word.partition("=")[0] for word in sys.argv}
    own = {name: value for name, value in SECTIONS[section].options.items() if f"--{name}" not in given}
    return argparse.Namespace(**vars(args) | own)


def main() -> int:
    args = parse_arguments()
    if args.section != "page":
        pin_allocator()
        os.environ["REC_BENCHMARK_CLOCK"] = args.clock
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        from benchmarks.record import measure

        for section in [name for name in SECTIONS if name != "gpu"] if args.section == "all" else [args.section]:
            measure(section, of_section(section, args))
    from benchmarks.page import write_page

    from rec.files import user_path

    print(f"page         {write_page(user_path(args.out))}")
    return 0


def pin_allocator() -> None:
    """Starts this process anew where glibc's allocator is not set as in training."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
