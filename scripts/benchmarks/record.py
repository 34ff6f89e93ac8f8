"""Runs a section, prints its rows, writes them as JSON with what they were measured on."""

import argparse
import importlib
import os
import platform
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks import SECTIONS
from benchmarks.bounds import BOUNDS
from benchmarks.inputs import Options
from rec.cores import usable_cores
from rec.files import user_path, write_json


def measure(section: str, args: argparse.Namespace) -> None:
    """Runs one section with the command line's choices; writes ``<args.out>/<section>.json``."""
    choices = {field.name: getattr(args, field.name) for field in fields(Options)}
    lists = {"overrides": tuple(args.overrides), "batches": tuple(args.batches), "work": user_path(args.work)}
    options = Options(**(choices | lists))
    print(f"{section}", flush=True)
    started = time.perf_counter()
    module: Any = importlib.import_module(f"benchmarks.{SECTIONS[section].module}")
    as_bound = (options.config, options.overrides, options.size) == (Options.config, (), Options.size)
    file, rows = user_path(args.out) / f"{section}.json", list[dict[str, Any]]()
    content: dict[str, Any] = {
        "section": section,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(options.device),
        "options": {
            "config": options.config, "overrides": list(options.overrides), "size": options.size,
            "rounds": options.rounds, "device": options.device, "clock": args.clock,
        },
        "seconds": 0.0,
        "rows": rows,
    }  # fmt: skip
    for row in getattr(module, section)(options):
        if as_bound and not row.bound:
            row.bound = BOUNDS[options.device].get(row.what, "")
        print(row.line(), flush=True)
        rows.append(row.to_json())
        content["seconds"] = round(time.perf_counter() - started, 1)
        write_json(file, content)  # what is there is there, should the rest be cut off
    print(f"written      {file}  ({content['seconds']} s)", flush=True)


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, versions, and the accelerator where one was used."""
    import torch

    model = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    found = {
        "cpu": model,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "allocator": "pinned" if os.environ.get("MALLOC_MMAP_MAX_") == "0" else "default",
        "bf16": bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device == "cuda" else {})
