"""Pages whose prose is written by hand and whose tables are generated: ``<!-- table NAME -->`` … ``<!-- end of NAME -->``."""

import re
from collections.abc import Mapping, Sequence


def fill(page: str, tables: Mapping[str, str]) -> str:
    """The page with what stands between the marks of each table replaced.

    Args:
        page: Markdown text.
        tables: name to Markdown.

    Raises:
        ValueError: the page has no marks for a table, or marks for one that is not given.
    """
    marked = set(re.findall(r"<!-- table ([\w-]+) -->", page))
    if marked != set(tables):
        raise ValueError(f"the page marks {sorted(marked)}, the tables are {sorted(tables)}")
    for name, text in tables.items():
        before, opening, rest = page.partition(f"<!-- table {name} -->\n")
        closing = f"<!-- end of {name} -->"
        page = f"{before}{opening}\n{text.strip()}\n\n{closing}{rest.partition(closing)[2]}"
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
