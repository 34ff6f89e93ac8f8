"""Counts the promises of the manuals: kept, or a deliberate difference of docs/coming_from.md.

python tests/manuals/count.py             runs every case and prints the counts
python tests/manuals/count.py --write     writes the table of refused names into docs/coming_from.md
"""

import collections
import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "scripts")]

from page_tables import fill, table  # noqa: E402
from promises import ROOT, load_all, show  # noqa: E402

from rec.other_names import NAMES  # noqa: E402

PAGE = ROOT / "docs" / "coming_from.md"


def page() -> str:
    """docs/coming_from.md with the table of refused names as the code has it."""
    rows: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, row in NAMES.items():
        rows[row].append(f"`{name}`")
    names = table(
        ["tool", "its names", "here"], [[tool, ", ".join(found), here] for (tool, here), found in rows.items()]
    )
    return fill(PAGE.read_text(encoding="utf-8"), {"names": names})


def main() -> int:
    logging.disable(logging.WARNING)
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for promise in load_all():
        try:
            show(promise)
            counts[promise.manual]["different" if promise.differs else "kept"] += 1
        except Exception as error:
            counts[promise.manual]["BROKEN"] += 1
            print(f"BROKEN {promise.manual}: {promise.sentence}: {type(error).__name__}: {error}")
    for manual, found in counts.items():
        broken = f", {found['BROKEN']} BROKEN" if found["BROKEN"] else ""
        print(
            f"{manual}: {sum(found.values())} promises, {found['kept']} kept, {found['different']} deliberately different{broken}"
        )
    return 1 if any(found["BROKEN"] for found in counts.values()) else 0


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.exit(main())
