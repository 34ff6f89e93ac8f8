"""What a user does first, run on other versions of the packages than the locked ones.

    python tests/run_versions.py [--lock FILE]

Imports all of ``rec``, draws scenes, trains, evaluates and predicts with the scripts, then runs the tests of configs,
export and hub. Uses the packages of the Python that runs it. With ``--lock`` these must be exactly the file's.
"""

import argparse
import importlib
import pkgutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
CONFIG = "configs/simrec_small_scenes_quickstart.py"
TESTS = ["tests/config", "tests/inference/test_export.py", "tests/inference/test_hub.py"]


def requirements(lock: Path) -> list[Requirement]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def locked(lock: Path) -> dict[str, str]:
    """Package to version, for this Python on this system."""
    here = [one for one in requirements(lock) if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): next(iter(one.specifier)).version for one in here}


def installed() -> dict[str, str]:
    found = {canonicalize_name(package.name): package.version for package in metadata.distributions()}
    return {name: version for name, version in found.items() if name not in ("pip", "refexp")}


def import_everything() -> None:
    import rec

    for module in pkgutil.walk_packages(rec.__path__, "rec."):
        if not module.name.startswith(("rec._configs", "rec._scripts")):  # files that are run, by LazyConfig and `rec`
            importlib.import_module(module.name)


def run(*command: object) -> None:
    started = time.monotonic()
    print("---", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, stdin=subprocess.DEVNULL, check=True)
    print(f"--- {time.monotonic() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, help="the installed versions must be those of this file")
    arguments = parser.parse_args()

    versions = installed()
    print("Python", sys.version.split()[0], *(f"{name}=={version}" for name, version in sorted(versions.items())))
    if arguments.lock:
        expected = locked(arguments.lock)
        differing = sorted(dict(versions.items() ^ expected.items()))
        assert not differing, f"not as {arguments.lock} has them: {', '.join(differing)}"
    import_everything()

    with tempfile.TemporaryDirectory(prefix="rec-versions-") as temporary:
        folder = Path(temporary)
        scenes = f"dataset.ann_path.scenes={folder}/anns/scenes"
        run("scripts/prepare_data.py", "--dataset", "scenes", "--count", 96, "--output_dir", folder)
        launch = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/one_device.yaml"]
        train = ["scripts/train.py", CONFIG, scenes, f"train.output_dir={folder}/run", "train.train_iter=6"]
        run(*launch, *train, "train.trackers=[tensorboard]")
        evaluate = ["scripts/evaluate.py", folder / "run", "--out", folder / "test", "--splits", "test"]
        run(*evaluate, "--pictures", folder / "grid.png", "--report", folder / "report.html")
        run("scripts/predict.py", folder / "run/best", "docs/scene.png", "the circle", "--out", folder / "marked.png")
        for name in ("test/metrics.json", "grid.png", "report.html", "marked.png"):
            assert (folder / name).stat().st_size > 0, name
    run("-m", "pytest", "-p", "no:cacheprovider", *TESTS)


if __name__ == "__main__":
    main()
