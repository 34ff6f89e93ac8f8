"""Links packages of this environment into another one, where a lock file wants them at the very same version.

    python tests/link_packages.py LOCK ENVIRONMENT

A second environment then holds torch and what comes with it, gigabytes, without another download and another copy.
pip takes the linked packages for installed. Their commands in ``bin`` are not linked: they would start this Python.
"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from sysconfig import get_path

from run_versions import locked


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def main() -> None:
    lock, environment = Path(sys.argv[1]), Path(sys.argv[2])
    here = Path(get_path("purelib"))
    there, wanted = environment / here.relative_to(sys.prefix), locked(lock)
    for package in metadata.distributions(path=[str(here)]):
        if wanted.get(package.name.lower().replace("_", "-")) == package.version:
            for file in package.files or []:
                if ".." not in file.parts and (here / file).is_file() and not (there / file).exists():
                    link(here / file, there / file)


if __name__ == "__main__":
    main()
