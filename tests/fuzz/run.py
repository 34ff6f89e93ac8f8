"""Fuzzes the readers of strangers' files: nothing but success or an error of ours, in bounded time and memory.

    python tests/fuzz/run.py READER [--minutes 10] [--seed N]      a reader of readers.py, or all of them in turn

Each case runs in a forked process of its own, in a folder of its own, within limits that the kernel holds. A finding is an
exception that is not a RecError, more than 10 s of processor time, more than 2 GB, or death by a signal. Its files are made small
and kept in tests/fuzz/kept/READER, which test_fuzz.py replays.
"""

import argparse
import datetime
import faulthandler
import importlib
import itertools
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import datasets.config
import readers
from readers import READERS

from rec.errors import RecError

# What cases need is imported here, once, and not in every forked process.
for module in (
    "checkpoint_toy",
    "data_toys",
    "inference_toy",
    "rec.training.build",
    "pycocotools.mask",
    "torch._dynamo",
):
    importlib.import_module(module)

SECONDS, MEGABYTES, WALL = 10, 2000, 300
KEPT = Path(__file__).parent / "kept"
LARGEST = 128 << 10  # bytes of a file that is kept


def outcome(reader: str, folder: Path) -> str:
    """What reading a folder comes to: "" where that is as it should be, else what and where."""
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    try:
        told = READERS[reader].read(folder)
        text = next((text for text in told if "MemoryError" in text), "")
        return f"MemoryError: {text[:300]}" if text else ""
    except BaseException as error:
        chain: list[BaseException] = [error]
        while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(inner)
        memory = next((one for one in chain if isinstance(one, MemoryError)), None)
        if isinstance(error, RecError) and memory is None:
            return ""
        frames = traceback.extract_tb((chain[-1] if isinstance(error, readers.Nonsense) else error).__traceback__)
        ours = [f"{Path(f.filename).name}:{f.name}" for f in frames if "/rec/" in f.filename] or ["?"]
        return f"{type(memory or chain[0]).__name__} in {ours[-1]}: {str(error)[:300]}"


def lay_out(reader: str, template: Path, folder: Path, changed: Path | int, seed: int = 0) -> None:
    """The files of a case: the good ones, some of them spoilt, or replaced by those of a kept case."""
    shutil.copytree(template, folder)
    if isinstance(changed, Path):
        shutil.copytree(changed, folder, dirs_exist_ok=True)
    else:
        READERS[reader].spoil(folder, random.Random(f"{reader}/{seed}/{changed}"))


def forked(action: Callable[[], object], log: Path) -> tuple[int, resource.struct_rusage]:
    """Status and use of a process of its own, whose output goes to ``log``: a process that has started threads is not forked."""
    pid = os.fork()
    if not pid:
        try:
            with open(log, "wb") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status, used = os.wait4(pid, 0)
    return status, used


def limited(reader: str, folder: Path, found: Path) -> None:
    """Reads a folder, within limits; ``found`` says what came of it."""
    faulthandler.enable()
    for late in (signal.SIGXCPU, signal.SIGALRM):
        faulthandler.register(late, chain=True)
    logging.disable(logging.CRITICAL)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # What asks for all of memory is refused, and the machine lives on.
    resource.setrlimit(resource.RLIMIT_AS, (pages + (4 << 30), pages + (4 << 30)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    signal.alarm(WALL)
    found.write_text(outcome(reader, folder)[:600], encoding="utf-8", errors="replace")


def run_case(reader: str, work: Path, case: Path | int, seed: int = 0) -> dict[str, Any]:
    """What reading a case comes to, its processor time and its peak memory; its files are in ``spoilt`` as they were read."""
    log, found, folder = work / "log", work / "found", work / f"case-{next(NUMBERS)}"  # names that a cache has not met
    shutil.rmtree(work / "spoilt", ignore_errors=True)
    status, _ = forked(lambda: lay_out(reader, work / "template", work / "spoilt", case, seed), log)
    if status:
        raise SystemExit(f"a case cannot be made: {log.read_text(errors='replace')[-2000:]}")
    shutil.copytree(work / "spoilt", folder)
    found.unlink(missing_ok=True)
    status, used = forked(lambda: limited(reader, folder, found), log)
    shutil.rmtree(folder, ignore_errors=True)
    frames = re.findall(r'File "[^"]*/rec/(\S+?)", line \d+ in (\w+)', log.read_text(errors="replace"))
    place, megabytes = ":".join(frames[0]) if frames else "?", used.ru_maxrss / 1000
    if os.WIFSIGNALED(status):
        late = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM)
        text = f"hang in {place}" if late else f"died by signal {os.WTERMSIG(status)} in {place}"
    else:
        text = found.read_text(encoding="utf-8") if found.exists() else f"ended with status {status} in {place}"
    if not text and megabytes > MEGABYTES:
        text = f"memory: {megabytes:.0f} MB"
    return {"found": text, "seconds": used.ru_utime + used.ru_stime, "megabytes": megabytes}


NUMBERS = itertools.count()


def signature(found: str) -> str:
    """What makes two findings one: kind and place, without the words that quote the file."""
    return re.sub(r"\d[\d.]*", "", found.partition(": ")[0])


def minimal(reader: str, work: Path, case: Path, found: str) -> Path:
    """The spoilt files of a finding, made as small as some hundred attempts can."""
    wanted, slow = signature(found), found.startswith("hang")
    until = time.monotonic() + 90
    left = 12 if slow else 150
    files = {path.relative_to(case): path.read_bytes() for path in case.rglob("*") if path.is_file()}
    template = work / "template"
    files = {
        name: data
        for name, data in files.items()
        if not ((template / name).is_file() and (template / name).read_bytes() == data)
    }
    trial = work / "trial"

    def still(changed: dict[Path, bytes]) -> bool:
        nonlocal left
        left -= 1
        write_files(trial, changed)
        return signature(run_case(reader, work, trial)["found"]) == wanted

    for name in list(files):
        rest = {other: data for other, data in files.items() if other != name}
        if rest and left > 0 and still(rest):
            files = rest
    for name in files:
        size = len(files[name]) // 2
        while size and left > 0 and time.monotonic() < until:
            place = 0
            while place < len(files[name]) and left > 0 and time.monotonic() < until:
                shorter = files | {name: files[name][:place] + files[name][place + size :]}
                if still(shorter):
                    files = shorter
                else:
                    place += size
            size //= 2
    write_files(trial, files)
    return trial


def write_files(folder: Path, files: dict[Path, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def fuzz(reader: str, minutes: float, seed: int, work: Path) -> dict[str, Any]:
    """Fuzzes one reader; keeps the findings, and returns a row of the table."""
    until = time.monotonic() + 60 * minutes
    row: dict[str, Any] = {"reader": reader, "cases": 0, "findings": {}, "slowest": 0.0, "peak": 0.0}

    def make_template() -> None:
        datasets.config.HF_DATASETS_CACHE = work / "cache"
        datasets.disable_progress_bars()
        (work / "template").mkdir()
        READERS[reader].seed(work / "template")

    if forked(make_template, work / "log")[0]:
        raise SystemExit(f"the good files of {reader} cannot be made: {(work / 'log').read_text(errors='replace')}")
    while time.monotonic() < until:
        result = run_case(reader, work, row["cases"], seed)
        row["cases"] += 1
        row["slowest"], row["peak"] = max(row["slowest"], result["seconds"]), max(row["peak"], result["megabytes"])
        if found := result["found"]:
            known = signature(found) in row["findings"]
            row["findings"][signature(found)] = row["findings"].get(signature(found), 0) + 1
            if not known:
                keep(reader, work, row["cases"] - 1, seed, found)
    return row


def keep(reader: str, work: Path, number: int, seed: int, found: str) -> None:
    """Writes the smallest files of a finding to ``kept``, and says what it is."""
    case = (work / "spoilt").rename(work / "case")
    small = minimal(reader, work, case, found)
    shutil.rmtree(case)
    place = KEPT / reader / (re.sub(r"\W+", "_", signature(found)).strip("_").lower()[:60])
    size = max((path.stat().st_size for path in small.rglob("*") if path.is_file()), default=0)
    if size <= LARGEST and not place.exists():
        shutil.copytree(small, place)
    told = place if size <= LARGEST else f"case {number} of seed {seed}, too large to keep"
    print(f"{reader}: FOUND {found}\n    {told}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("--minutes", type=float, default=10, help="of each reader (default: 10)")
    parser.add_argument("--seed", type=int, default=datetime.date.today().toordinal(), help="default: today's")
    args = parser.parse_args()
    rows = []
    for reader in READERS if args.reader == "all" else [args.reader]:
        with tempfile.TemporaryDirectory() as work:
            rows.append(fuzz(reader, args.minutes, args.seed, Path(work)))
    print(f"{'reader':<15}{'cases':>8}{'minutes':>9}{'findings':>10}{'slowest':>10}{'peak':>9}   seed {args.seed}")
    for row in rows:
        count = len(row["findings"])
        print(
            f"{row['reader']:<15}{row['cases']:>8}{args.minutes:>9g}{count:>10}{row['slowest']:>8.1f} s{row['peak']:>6.0f} MB"
        )
    return 1 if any(row["findings"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
