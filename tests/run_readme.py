"""Runs every bash block of README.md, in order, in a fresh clone with an environment of its own.

    python tests/run_readme.py [--keep FOLDER]

A block whose first line is ``# not run: reason`` is left out, and its reason printed. What the checkout has not committed is
copied over the clone, so that a change can be tried before it is committed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def clone(folder: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    listed = ["git", "ls-files", "--modified", "--others", "--exclude-standard", "-z"]
    changed = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for name in filter(None, changed.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        else:
            target.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="clone there and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rec-readme-") as temporary:
        folder = arguments.keep or Path(temporary) / "rec"
        clone(folder)
        for number, block in enumerate(blocks((folder / "README.md").read_text(encoding="utf-8")), 1):
            first = block.splitlines()[0]
            if first.startswith("# not run:"):
                print(f"block {number} {first[2:]}", flush=True)
                continue
            started = time.monotonic()
            print(f"--- block {number}\n{block}", end="", flush=True)
            status = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block], cwd=folder, stdin=subprocess.DEVNULL
            ).returncode
            print(f"--- block {number}: exit status {status}, {time.monotonic() - started:.0f} s", flush=True)
            if status:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
