"""A single bit that has changed in a checkpoint is noticed, and the checkpoint before it is taken.

``python tests/training/test_flips.py 300`` spreads that many flips over all files and prints a table; CI flips fewer.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from checkpoint_toy import Run, same

# file, and what is in it
FILES = {
    "model.safetensors": "weights",
    "ema.safetensors": "EMA",
    "optimizer.bin": "optimizer",
    "random_states_0.pkl": "random states",
    "trainer_state.json": "state file",
}


def flip(path: Path, rng: random.Random) -> None:
    """Changes one bit of a file, and neither its size nor its times."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flips(folder: Path, count: int, seed: int) -> dict[str, list[int]]:
    """Flips ``count`` bits, one at a time, each followed by a start of the run.

    Returns:
        Of each file: flips, how many were noticed, how many starts ended at exactly the checkpoint before.
    """
    rng = random.Random(seed)
    run = Run(folder / "run", width=64)
    run.step()
    first, before = run.save(), run.values()
    run.step()
    second = run.save()
    kept = {name: (second / name).read_bytes() for name in FILES}
    counts = {name: [0, 0, 0] for name in FILES}
    continued = Run(run.folder, seed=1, width=64)
    for number in range(count):
        name = list(FILES)[number % len(FILES)]
        flip(second / name, rng)
        state, notes = continued.restore()
        counts[name][0] += 1
        counts[name][1] += "is damaged and passed over" in notes[0] and f"{second / name}" in notes[0]
        counts[name][2] += (
            state.update == 1 and notes[1:] == [f"continuing from {first}"] and same(continued.values(), before)
        )
        second.with_name(second.name + ".damaged").rename(second)
        (second / name).write_bytes(kept[name])
    state, _ = continued.restore()
    assert state.update == 2 and same(continued.values(), run.values()), "undamaged, it is loaded"
    return counts


def test_every_flipped_bit_is_noticed(tmp_path):
    for name, (done, noticed, fell_back) in flips(tmp_path, 60, seed=0).items():
        assert done == noticed == fell_back == 12, name


def report(total: int) -> None:
    """Flips ``total`` bits and prints what was counted."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = flips(Path(folder), total, seed=total)
    print(f"{'file':24}{'':16}{'flips':>7}{'noticed':>9}{'went back by one':>18}")
    for name, numbers in [*counts.items(), ("all", [sum(column) for column in zip(*counts.values(), strict=True)])]:
        print(f"{name:24}{FILES.get(name, ''):16}{numbers[0]:>7}{numbers[1]:>9}{numbers[2]:>18}")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    report(int(sys.argv[1]))
