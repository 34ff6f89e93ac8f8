"""Fills the tables of ``docs/performance.md`` from the JSON files that the sections leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from page_tables import fill, table

from benchmarks import SECTIONS
from benchmarks.bounds import BOUNDS
from benchmarks.timing import ROOT, Row
from rec.files import write_text

DEVICES = {
    "cpu": "2 CPU cores",
    "cuda": "GPU (H100 class, `--device cuda`; plain in float32 with cuDNN off, as the original runs)",
}


def write_page(folder: Path) -> Path:
    """Fills the tables of ``performance.md`` beside ``folder`` of JSON files; returns its path.

    The prose is the page's own; where there is no page it is that of ``docs/performance.md``.
    """
    found: dict[str, dict[str, Any]] = {device: {} for device in DEVICES}
    for section in SECTIONS:
        file = folder / f"{section}.json"
        if file.exists():
            found["cuda" if section == "gpu" else "cpu"][section] = json.loads(file.read_text(encoding="utf-8"))
    bounds = [f"### {title}\n\n{against_bounds(device, found[device])}" for device, title in DEVICES.items()]
    parts = []
    for section, (_, title, _) in SECTIONS.items():
        tables = [of_section(contents[section]) for contents in found.values() if section in contents]
        parts.append(f"## {title}\n\n" + ("\n\n".join(tables) or "Not run."))
    path = folder.parent / "performance.md"
    prose = path if path.exists() else ROOT / "docs" / "performance.md"
    filled = fill(prose.read_text(encoding="utf-8"), {"bounds": "\n\n".join(bounds), "sections": "\n\n".join(parts)})
    write_text(path, filled)
    return path


def against_bounds(device: str, found: dict[str, Any]) -> str:
    """Every number of a device that has a bound, measured or not."""
    rows = {row.what: row for content in found.values() for row in map(row_of, content["rows"])}
    bounds = {row.what: row.bound for row in rows.values() if row.bound} | BOUNDS[device]
    rows_of_table = []
    for what in [*BOUNDS[device], *(name for name in bounds if name not in BOUNDS[device])]:
        row = rows.get(what)
        kept = None if row is None else replace(row, bound=bounds[what]).kept
        measured = "not run" if row is None else row.cells[1]
        rows_of_table.append([what, bounds[what], measured, {None: "", True: "yes", False: "**no**"}[kept]])
    return table(["what", "bound", "measured", "kept"], rows_of_table)


def of_section(content: dict[str, Any]) -> str:
    """One section's rows, and what they were measured on."""
    machine, options = content["machine"], content["options"]
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    where += f", {machine['threads']} thread(s)" if "threads" in machine else ""
    how = (
        "" if options["clock"] == "wall" else " CPU time of the process, while others used the machine (`--clock cpu`)."
    )
    rows = [row_of(values).cells for values in content["rows"]]
    return (
        f"{where}, torch {machine['torch']}, {options['config']} at {options['size']} px, "
        f"{content['date']} ({content['seconds']:.0f} s).{how}\n\n"
        + table(["what", "value", "seconds of each side", "note"], rows)
    )


def row_of(values: dict[str, Any]) -> Row:
    """A row from its JSON."""
    return Row(**{name: value for name, value in values.items() if name != "kept"})
