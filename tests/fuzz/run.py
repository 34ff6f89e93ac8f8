"""Fuzzes the readers of strangers' files: nothing but success or an error of ours, in bounded time and memory.

    python tests/fuzz/run.py READER [--minutes 10] [--seed N]      a reader of readers.py, or all of them in turn

Cases run one after another in a forked process, each in a folder of its own; the process is watched from outside and
replaced when it dies, or after some hundred cases. A finding is an exception that is no RecError, more than 10 s of processor
time, more than 2 GB, or death by a signal. Its files are made small and kept in tests/fuzz/kept/READER, which test_fuzz.py
replays.
"""

import argparse
import contextlib
import datetime
import faulthandler
import importlib
import json
import logging
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
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
CASES = 300  # of one process
KEPT = Path(__file__).parent / "kept"
LARGEST = 128 << 10  # bytes of a file that is kept
TICKS = os.sysconf("SC_CLK_TCK")


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


class Process:
    """A forked process that works through cases, watched."""

    def __init__(self, reader: str, work: Path, cases: list[Path] | range, seed: int = 0) -> None:
        self.log, self.work = work / "log", work
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._run(reader, cases, seed, writing)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writing)
        self.pipe, self.buffer = reading, b""

    def _run(self, reader: str, cases: list[Path] | range, seed: int, pipe: int) -> None:
        with open(self.log, "wb") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1)
        logging.disable(logging.CRITICAL)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # What asks for all of memory is refused, and the machine lives on.
        resource.setrlimit(resource.RLIMIT_AS, (pages + (4 << 30), pages + (4 << 30)))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for count, case in enumerate(cases):
            folder = self.work / f"{os.getpid()}-{count}"  # what is cached by a file's name must not be met again
            lay_out(reader, self.work / "template", folder, case, seed)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            os.write(pipe, b'{"begun": true}\n')
            begun = time.process_time()
            found = outcome(reader, folder)
            seconds = time.process_time() - begun
            shutil.rmtree(folder, ignore_errors=True)
            status = Path("/proc/self/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000  # type: ignore[index]
            result = {"found": found[:600], "seconds": seconds, "megabytes": peak}
            os.write(pipe, json.dumps(result).encode() + b"\n")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def results(self, until: float = math.inf) -> Iterator[dict[str, Any]]:
        """What became of each case, in order; ends with the process, or at a time of the monotonic clock."""
        begun: float | None = None
        wall = time.monotonic()
        while True:
            if time.monotonic() > until:
                self.end()
                return
            if not select.select([self.pipe], [], [], 0.5)[0]:
                with contextlib.suppress(OSError):
                    used = self.cpu() - (begun or 0)
                    if begun is not None and (used > SECONDS or time.monotonic() - wall > WALL):
                        os.kill(self.pid, signal.SIGUSR1)
                        time.sleep(0.5)
                        self.end()
                        yield {"found": f"hang in {self.last_frame()}", "seconds": used, "megabytes": 0}
                        return
                continue
            piece = os.read(self.pipe, 1 << 16)
            self.buffer += piece
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                result = json.loads(line)
                if "begun" in result:
                    begun, wall = self.cpu(), time.monotonic()
                    continue
                begun = None
                if not result["found"] and result["megabytes"] > MEGABYTES:
                    result["found"] = f"memory: {result['megabytes']:.0f} MB"
                if not result["found"] and result["seconds"] > SECONDS:
                    result["found"] = f"slow: {result['seconds']:.1f} s"
                yield result
            if not piece:
                status = os.waitpid(self.pid, 0)[1]
                os.close(self.pipe)
                if begun is not None:
                    yield {
                        "found": f"died by signal {os.WTERMSIG(status)} in {self.last_frame()}",
                        "seconds": 0,
                        "megabytes": 0,
                    }
                elif status:
                    raise SystemExit(f"a case cannot be made: {self.log.read_text(errors='replace')[-2000:]}")
                return

    def last_frame(self) -> str:
        """The innermost line of ours in what the fault handler wrote."""
        text = self.log.read_text(errors="replace")
        frames = re.findall(r'File "[^"]*/rec/(\S+?)", line \d+ in (\w+)', text)
        return ":".join(frames[0]) if frames else "?"

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def signature(found: str) -> str:
    """What makes two findings one: kind and place, without the words that quote the file."""
    return re.sub(r"\d[\d.]*", "", found.partition(": ")[0])


def minimal(reader: str, work: Path, case: Path, found: str) -> Path:
    """The spoilt files of a finding, made as small as some hundred attempts can."""
    wanted, slow = signature(found), found.startswith(("hang", "slow"))
    until = time.monotonic() + 90
    left = 12 if slow else 150
    files = {path.relative_to(case): path.read_bytes() for path in case.rglob("*") if path.is_file()}
    template = work / "template"
    files = {
        name: data
        for name, data in files.items()
        if name.parts[0] not in ("out", "cache", "saved.yaml")
        and not ((template / name).is_file() and (template / name).read_bytes() == data)
    }
    trial = work / "trial"

    def still(changed: dict[Path, bytes]) -> bool:
        nonlocal left
        left -= 1
        write_files(trial, changed)
        results = list(Process(reader, work, [trial]).results())
        return bool(results) and signature(results[0]["found"]) == wanted

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


def make_template(reader: str, work: Path) -> None:
    """The good files, made in a process of their own: what is forked later must not have started threads."""
    pid = os.fork()
    if not pid:
        try:
            (work / "template").mkdir(parents=True)
            datasets.config.HF_DATASETS_CACHE = work / "cache"
            datasets.disable_progress_bars()
            READERS[reader].seed(work / "template")
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"the good files of {reader} cannot be made")


def fuzz(reader: str, minutes: float, seed: int, work: Path) -> dict[str, Any]:
    """Fuzzes one reader; keeps the findings, and returns a row of the table."""
    make_template(reader, work)
    until = time.monotonic() + 60 * minutes
    row: dict[str, Any] = {"reader": reader, "cases": 0, "findings": {}, "slowest": 0.0, "peak": 0.0}
    number = 0
    while time.monotonic() < until:
        process = Process(reader, work, range(number, number + CASES), seed)
        for result in process.results(until):
            number += 1
            row["cases"] += 1
            row["slowest"], row["peak"] = max(row["slowest"], result["seconds"]), max(row["peak"], result["megabytes"])
            if found := result["found"]:
                known = signature(found) in row["findings"]
                row["findings"][signature(found)] = row["findings"].get(signature(found), 0) + 1
                if not known:
                    keep(reader, work, number - 1, seed, found)
    return row


def keep(reader: str, work: Path, number: int, seed: int, found: str) -> None:
    """Writes the smallest files of a finding to ``kept``, and says what it is."""
    spoilt = work / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    pid = os.fork()  # Arrow's threads must not start in this process
    if not pid:
        try:
            lay_out(reader, work / "template", spoilt, number, seed)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    small = minimal(reader, work, spoilt, found)
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
