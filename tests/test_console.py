"""A program whose console is closed, full or gone goes on, unless its output is what it makes."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from rec import command_line

REPOSITORY = Path(__file__).parents[1]
PROGRAM = """
import sys
from pathlib import Path
from rec.console import require_output
from rec.command_line import exit_with

def main():
    if "required" in sys.argv:
        require_output()
    for number in range(9000):
        print(f"line {number} …")
        print(f"warning {number} …", file=sys.stderr)
    sys.stdout.flush()
    other = open("other", "w")
    Path("done").write_text(f"{other.fileno() > 2}")
    print("the end")
    return 7

exit_with(main)
"""


@pytest.fixture
def start(tmp_path):
    def start(shell, *arguments, **variables):
        """Runs the program by a line of shell in which ``$P`` stands for it."""
        words = " ".join([f"{sys.executable} -c '{PROGRAM}'", *arguments])
        return subprocess.run(
            ["bash", "-c", shell.replace("$P", words)],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables, capture_output=True, text=True,
        )  # fmt: skip

    return start


@pytest.mark.parametrize(
    "console",
    [
        "$P | head -1; exit ${PIPESTATUS[0]}", "$P 2>&1 | head -1; exit ${PIPESTATUS[0]}", "$P > /dev/full",
        "$P 2> /dev/full", "$P > /dev/full 2>&1", "$P >&-", "$P 2>&-", "$P <&- >&- 2>&-",
    ],
)  # fmt: skip
def test_a_program_outlasts_its_console_and_keeps_its_status(console, start, tmp_path):
    assert start(console).returncode == 7
    assert (tmp_path / "done").read_text() == "True", "and no file takes the place of a closed stream"


def test_nothing_is_lost_on_a_console_that_works_or_is_in_ascii(start):
    done = start("$P", PYTHONIOENCODING="ascii")
    assert done.stdout == "".join(f"line {number} \\u2026\n" for number in range(9000)) + "the end\n"
    assert done.stderr == "".join(f"warning {number} \\u2026\n" for number in range(9000))


def test_a_console_that_another_program_set_non_blocking_is_waited_for(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=writing, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)  # 9000 lines do not fit into a pipe
    with open(reading, encoding="utf-8") as lines:
        assert len(lines.readlines()) == 9001
    assert process.wait() == 7


def test_a_terminal_that_goes_away_ends_nothing(tmp_path):
    outer, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    os.read(outer, 100)
    os.close(outer)
    assert process.wait(60) == 7 and (tmp_path / "done").exists()


def test_a_console_that_stands_still_holds_nothing_up_and_is_written_to_again(tmp_path):
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import rec.console; rec.console.PATIENCE = 0.5\n{PROGRAM}"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=writing, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    assert process.wait(30) == 7 and (tmp_path / "done").exists()
    with open(reading, encoding="utf-8") as lines:
        read = lines.read().splitlines()
    assert 1000 < len(read) < 9000 and read[:1000] == [f"line {number} …" for number in range(1000)]


@pytest.mark.parametrize(
    ("console", "status", "told"),
    [
        ("$P | head -1; exit ${PIPESTATUS[0]}", 141, ""),
        ("$P > /dev/full", 2, "error: the standard output cannot be written ([Errno 28] No space left on device)"),
    ],
)
def test_output_that_is_what_the_program_makes_ends_it_when_it_is_lost(console, status, told, start, tmp_path):
    done = start(console.replace("$P", "$P required"))
    assert done.returncode == status and not (tmp_path / "done").exists()
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning")]
    assert " ".join(errors).removeprefix("-c: ") == told


def test_processes_of_one_launch_say_the_same_once(tmp_path, monkeypatch, capsys):
    for rank, text in enumerate(("bad batch", "bad batch", "lost a worker")):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        assert command_line._failed(text, ValueError(), 2) == 2
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["bad batch", "lost a worker"]
