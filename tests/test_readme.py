"""The pages are true: docs/architecture.md lists every file, links lead somewhere, README's blocks run or say why not.

The blocks themselves are run by ``tests/run_readme.py`` in a fresh clone. ``python tests/test_readme.py`` writes the file tree.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from run_readme import blocks

from rec.__main__ import COMMANDS

REPOSITORY = Path(__file__).parents[1]
README, ARCHITECTURE = REPOSITORY / "README.md", REPOSITORY / "docs" / "architecture.md"
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
TREE = re.compile(r"(<!-- file tree[^\n]*-->\n).*?(<!-- end of file tree -->)", re.DOTALL)


def first_line(path: Path) -> str:
    """What a file is: the first line of its docstring, comment or heading."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
        return " ".join(summary.split())
    if path.suffix == ".md":
        return text.partition("\n")[0].lstrip("# ")
    comments = [line.partition("# ")[2].strip() for line in text.splitlines() if "# " in line]
    return comments[1] if path.suffix == ".yaml" else comments[0]


def file_tree() -> str:
    listed = subprocess.run(
        ["git", "ls-files", "rec/*.py", "configs/*.py", "scripts/*.py", "accelerate_configs/*", "docs/*.md"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    lines, folder = ["```"], ""
    for name in sorted(listed, key=lambda name: (Path(name).parent.as_posix(), name)):
        path = Path(name)
        if path.name == "__init__.py" and not first_line(REPOSITORY / path):
            continue
        if path.parent.as_posix() != folder:
            folder = path.parent.as_posix()
            lines.append(f"{folder}/")
        lines.append(f"  {path.name:<26} {first_line(REPOSITORY / path)}".rstrip())
    return "\n".join([*lines, "```"]) + "\n"


def test_the_file_tree_has_every_file_with_its_own_first_line():
    written = TREE.search(ARCHITECTURE.read_text(encoding="utf-8"))
    assert written is not None and file_tree() in written.group(0), "run: python tests/test_readme.py"


def test_every_python_file_says_what_it_is():
    silent = [line for line in file_tree().splitlines() if line.startswith("  ") and len(line.split()) < 2]
    assert not silent


def anchors(page: Path) -> set[str]:
    """The places of a page that a link can name: its headings, as they are turned into addresses."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_of_it(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, place = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not place or place in anchors(target), f"{page.name}: {link}: it has {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_pages_exists(page):
    text = page.read_text(encoding="utf-8")
    scripts = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}
    typed = re.findall(r"^\s*(?:\.venv/bin/)?rec (\w+) |`rec (\w+)[ `]", text, re.MULTILINE)
    assert {first or second for first, second in typed} <= COMMANDS.keys() | {"COMMAND"}
    assert set(re.findall(r"\bscripts/(\w+)\.py", text)) <= scripts
    assert not re.search(r"pip install '?rec\b", text.replace("**`pip install rec` gave me regular expressions.**", ""))


def test_every_page_is_named_on_the_front_page():
    assert {page.name for page in PAGES} - set(re.findall(r"([\w.]+\.md)\)", README.read_text(encoding="utf-8"))) == {
        "README.md"
    }


def test_blocks_that_are_not_run_give_a_reason():
    skipped = [block.splitlines()[0] for block in blocks(README.read_text(encoding="utf-8")) if "not run" in block]
    assert skipped and all(re.match(r"# not run: \w.{10,}", line) for line in skipped)


if __name__ == "__main__":
    text = ARCHITECTURE.read_text(encoding="utf-8")
    ARCHITECTURE.write_text(
        TREE.sub(lambda match: match.group(1) + file_tree() + match.group(2), text), encoding="utf-8"
    )
