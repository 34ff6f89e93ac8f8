"""A visit to a GPU, in parts that can be run alone and are not run twice: tests, benchmark, quickstart, photographs, archive.

    make gpu OUT=folder                    every part, then folder/gpu.tar.gz with what they left (docs/gpu.md)
    make gpu-tests OUT=folder              one part; gpu-benchmark, gpu-quickstart, gpu-photographs, gpu-archive alike
    make gpu OUT=folder DEVICE=cpu         the rehearsal: every part, short, without a GPU
    make gpu-pack SOURCE=folder            photographs with boxes (JSONL and images/) into .gpu/photographs.tar, at most 36 MiB

It needs no network and installs nothing: packages that Python lacks come from .whl/, where that folder is there.
"""

import argparse
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from rec.files import unpack  # noqa: E402

PACKED = ROOT / ".gpu" / "photographs.tar"
MOST = 36 * 2**20  # bytes of the packed photographs
LARGEST = 4 * 2**20  # bytes of a file of the archive: records and pictures, no weights
KEPT = ("*.log", "*.json", "performance.md", "performance/*", "work/*/*.jsonl", "work/*/train.log", "work/*/config.yaml",
        "work/*/metrics.json", "work/*/*.png")  # fmt: skip
QUICKSTART = "configs/simrec_small_scenes_quickstart.py"
SECONDS = {"tests": 240, "benchmark": 240, "quickstart": 300, "photographs": 180}  # after which a part is ended
# On a CPU a network of the same parts, a few images.
SMALL_MODEL = (
    "model.visual_backbone.width=0.125", "model.visual_backbone.depth=0.33",
    *(f"model.fusion_manner.modules.{number}.v_planes=null" for number in range(3)),
)  # fmt: skip
Commands = list[list[str]]


def tests(work: Path, out: Path, device: str) -> Commands:
    return [
        [
            "-m",
            "pytest",
            "tests/gpu",
            "-vv",
            "-n",
            "8",
            "-rs",
            "-s",
            "-p",
            "no:cacheprovider",
            "-k",
            f"{device} or not cpu and not cuda",
        ]
    ]


def benchmark(work: Path, out: Path, device: str) -> Commands:
    short = (
        ["--size", "64", "--batches", "2", "--rounds", "1", "--images", "16", *SMALL_MODEL] if device == "cpu" else []
    )
    where = ["--work", str(work / "benchmark"), "--out", str(out / "performance")]
    return [["scripts/benchmark.py", "gpu", "--device", device, *where, *short]]


def quickstart(work: Path, out: Path, device: str) -> Commands:
    data, run = work / "scenes", work / "quickstart"
    short = device == "cpu"
    words = [
        f"dataset.ann_path.scenes={data}/anns/scenes",
        f"train.output_dir={run}",
        f"train.fast_dev_run={short}".lower(),
        *([] if short else ["train.cuda_graphs.enabled=true", "train.data.num_workers=8"]),
    ]
    return [
        ["scripts/prepare_data.py", "--dataset", "scenes", "--output_dir", str(data), *(["--count", "30"] if short else [])],
        ["scripts/train.py", QUICKSTART, *words],
        ["scripts/evaluate.py", str(run / "best"), "--config", QUICKSTART, "--splits", "val", *words[:1],
         "--out", str(run), "--pictures", str(run / "grid.png")],
    ]  # fmt: skip


def photographs(work: Path, out: Path, device: str) -> Commands:
    data, run = work / "photographs_data", work / "photographs"
    short = device == "cpu"
    with tarfile.open(PACKED) as packed:
        unpack(packed, data)
    size = 64 if short else 224
    words = [
        "dataset.dataset=flickr", f"+dataset.ann_path.flickr={data}/anns/flickr", f"dataset.input_shape=[{size},{size}]",
        f"train.output_dir={run}", "train.epochs=1", "train.log_period=20", "optim.lr=1e-3", "train.base_lr=1e-3",
        *(["train.fast_dev_run=true"] if short else ["train.train_iter=600", "train.batch_size=64", "train.data.num_workers=12"]),
    ]  # fmt: skip
    source = ["--dataset", "flickr", "--source", str(data), "--images", str(data / "images"), "--bbox-format", "xywh"]
    return [
        ["scripts/prepare_data.py", *source, "--output_dir", str(data)],
        ["scripts/train.py", QUICKSTART, *words],
        [
            "scripts/evaluate.py",
            str(run / "best"),
            "--config",
            QUICKSTART,
            "--splits",
            "val",
            *words[:3],
            "--out",
            str(run),
        ],
    ]


PARTS = {"tests": tests, "benchmark": benchmark, "quickstart": quickstart, "photographs": photographs}


def run(part: str, out: Path, device: str) -> bool:
    """Runs a part that was not run to its end before, its output in ``<part>.log``; whether it has been, then."""
    done, log = out / f"{part}.json", out / f"{part}.log"
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) | {"seconds": 0} == _ended(device, 0):
        print(f"{part:12} done before", flush=True)
        return True
    done.unlink(missing_ok=True)
    if part == "photographs" and not PACKED.exists():
        print(
            f"{part:12} left out: no {PACKED.relative_to(ROOT)} (make gpu-pack SOURCE=folder, where the photographs are)"
        )
        return True
    started, status = time.monotonic(), 0
    with log.open("w", encoding="utf-8") as file:
        for words in PARTS[part](out / "work", out, device):
            print(f"$ python {' '.join(words)}", file=file, flush=True)
            left = SECONDS[part] * (5 if device == "cpu" else 1) - (time.monotonic() - started)
            try:
                command = [sys.executable, *words]
                ran = subprocess.run(command, cwd=ROOT, env=_environment(out, device), stdout=file, stderr=subprocess.STDOUT,
                                     timeout=max(1.0, left))  # fmt: skip
                status = ran.returncode
            except subprocess.TimeoutExpired:
                status = 124
            if status:
                break
    seconds = round(time.monotonic() - started, 1)
    if status == 0:
        done.write_text(json.dumps(_ended(device, seconds)) + "\n", encoding="utf-8")
    print(f"{part:12} {'done' if status == 0 else f'FAILED with status {status}'} in {seconds} s  {log}", flush=True)
    return status == 0


def _ended(device: str, seconds: float) -> dict[str, str | float]:
    return {"device": device, "status": 0, "seconds": seconds}


def _environment(out: Path, device: str) -> dict[str, str]:
    paths = [str(ROOT), *([str(out / "site")] if (out / "site").exists() else []), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "REC_GPU_REHEARSAL": "1", "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        return os.environ | own | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own | {"ACCELERATE_MIXED_PRECISION": "bf16"}


def install(out: Path) -> None:
    """Unpacks the wheels of ``.whl/`` where this Python lacks what they hold."""
    wheels = sorted(map(str, (ROOT / ".whl").glob("*.whl")))
    if wheels and importlib.util.find_spec("omegaconf") is None and not (out / "site").exists():
        options = [
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--no-cache-dir",
            "--target",
            str(out / "site"),
        ]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *wheels], check=True)


def archive(out: Path) -> Path:
    """What the parts left, without data and weights, in one file."""
    target = out / "gpu.tar.gz"
    found = sorted({path for pattern in KEPT for path in out.glob(pattern) if path.is_file()})
    with tarfile.open(target, "w:gz") as packed:
        for path in found:
            if path.stat().st_size <= LARGEST:
                packed.add(path, path.relative_to(out))
    print(f"{'archive':12} {target}  ({target.stat().st_size / 1e6:.1f} MB)")
    return target


def pack(source: Path, target: Path, most: int = MOST) -> int:
    """The validation split and as much of the training split as fit in ``most`` bytes, as a tar file; counts its images."""
    target.parent.mkdir(parents=True, exist_ok=True)
    images = 0
    with tarfile.open(target, "w") as packed:
        for split in ("val", "train"):
            lines, texts = list[str](), 4096 + tarfile.RECORDSIZE  # the heads of two files, and the archive's end
            for name, objects in _by_image(source / f"{split}.jsonl"):
                texts += sum(len(line.encode()) for line in objects)
                image = source / "images" / name
                if packed.offset + texts + image.stat().st_size + 1024 > most:
                    break
                packed.add(image, f"images/{name}")
                lines += objects
                images += 1
            content = "".join(lines).encode()
            entry = tarfile.TarInfo(f"{split}.jsonl")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    print(f"{target}: {images} images, {target.stat().st_size / 2**20:.1f} MiB")
    return images


def _by_image(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a JSONL file, those of an image together."""
    grouped: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        grouped.setdefault(json.loads(line)["image"], []).append(line)
    yield from grouped.items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["all", *PARTS, "archive", "pack"])
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--source", type=Path, help="of pack: train.jsonl, val.jsonl and images/")
    args = parser.parse_args()
    if args.part == "pack":
        if args.source is None:
            parser.error("pack needs SOURCE=folder")
        return 0 if pack(args.source, PACKED) else 1
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    complete = True
    if args.part != "archive":
        install(out)
        ended = [run(part, out, args.device) for part in (PARTS if args.part == "all" else [args.part])]
        complete = all(ended)
    if args.part in ("all", "archive"):
        archive(out)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
