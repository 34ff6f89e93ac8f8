"""A part of ``tests/hostile.py``: every script, every kind of attack once, and proof that the watch would notice."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hostile

COMMAND = 'if __name__ == "__main__":'  # others in the folder are parts of a script
SCRIPTS = sorted(path.stem for path in (hostile.ROOT / "scripts").glob("*.py") if COMMAND in path.read_text("utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with hostile.prepared(tmp_path_factory.mktemp("hostile") / "place") as place:
        yield place


def test_every_script_has_its_sweep():
    assert sorted(hostile.SWEEPS) == SCRIPTS, (
        "add the new script to SWEEPS in tests/hostile.py: how a stranger's file reaches it"
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_attack_runs_reads_writes_or_hangs(name, place):
    found = []
    for attack, words, allowed in hostile.SWEEPS[name](place, True):
        outcome = hostile.run(place, name, words, allowed)
        found += [f"{attack} ({' '.join(words)}): {problem}" for problem in outcome.problems]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["--check", "hostile.yaml"]),
        ("train", ["hostile.yaml"]),
        ("browse_data", ["hostile.yaml", "--count", "1", "--out", "out.png"]),
        ("print_config", ["hostile.yaml", "--keys"]),
        ("evaluate", ["run", "--out", "out"]),
        ("evaluate", ["run/checkpoints/step_00000001", "--out", "out"]),
        ("predict", ["run/best", "../photo.png", "a circle"]),
    ],
)
def test_the_same_files_without_an_attack_are_taken(name, words, place):
    place.lay_out((place.root / "good.yaml").read_text(encoding="utf-8"), words)
    outcome = hostile.run(place, name, words, (0,))
    assert outcome.status == 0 and not outcome.problems, outcome


@pytest.mark.parametrize(
    "call", ["os.system", "builtins.open", "removes a file", "copies a secret", "a package on the path"]
)
def test_with_trust_the_attack_happens_and_is_noticed(call, place):
    config = {"dataset": hostile.calls(place)[call], "train": {"seed": 0}}
    place.lay_out(hostile.yaml.safe_dump(config), ["hostile.yaml"])
    outcome = hostile.run(place, "browse_data", ["hostile.yaml", "--trust-config", "--out", "out.png"], ())
    (place.root / "victim.txt").write_text("must stay")
    place.untouched = place.outside()
    noticed = {"RAN CODE", "CHANGED A FILE OUTSIDE", "READ A SECRET"} & set(outcome.problems)
    assert noticed, outcome
