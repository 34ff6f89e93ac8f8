"""The command ``rec``: every name runs its own script, from a clone and from an installed package."""

import argparse
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rec
from rec import __main__ as command
from rec.command_line import share

ROOT = Path(__file__).parents[1]
QUICKSTART = "simrec_small_scenes_quickstart.py"


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rec", *words])
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # put back afterwards
        try:
            command.main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_runs_a_script_that_calls_itself_by_the_command(name, call):
    status, text, _ = call(name, "--help")
    assert status == 0 and text.startswith(f"usage: rec {name} ") and f"    rec {name} " in text
    assert "python scripts/" not in text


def test_a_share_is_read_as_python_prints_it_and_nothing_else_is_one():
    for number in (0.0, 1.0, 0.1 + 0.2, 1e-05, 0.3499999940395355):
        assert share(repr(number)) == number
    for text in ("1.5", "1e5", "-0.1", "e3", "nan", "", ".", "1_0", "\u0660"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 0 to 1"):
            share(text)


def test_the_list_of_commands_and_what_a_wrong_one_gives(call):
    status, text, _ = call()
    assert status == 0 and all(f"\n  {name} " in text for name in command.COMMANDS)
    assert call("--version") == (0, f"rec {rec.__version__}\n", "")
    status, _, error = call("trian")
    assert status == 2 and "did you mean train?" in error
    status, _, error = call("prepare_data")
    assert status == 2 and "did you mean prepare?" in error


def test_shipped_configs_are_found_from_anywhere(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (QUICKSTART, f"configs/{QUICKSTART}"):
        assert call("train", "--check", path)[0] == 0
    status, _, error = call("train", "--check", "simrec_small_scenes_quikstart.py")
    assert status == 2 and error.startswith("rec train: error: config") and f"did you mean `{QUICKSTART}`" in error
    (tmp_path / QUICKSTART).write_text("train = dict(epochs=0)", encoding="utf-8")  # a file of one's own wins
    assert "defines no model" in call("train", "--check", QUICKSTART)[2]


def test_an_installed_package_has_scripts_and_configs_inside(tmp_path):
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in told["tool"]["setuptools"]["packages"]:  # laid out as the wheel is
        source = ROOT / told["tool"]["setuptools"]["package-dir"].get(package, package.replace(".", "/"))
        patterns = ["*.py", *told["tool"]["setuptools"]["package-data"].get(package, ())]
        for file in {file for pattern in patterns for file in source.glob(pattern)}:
            target = tmp_path / package.replace(".", "/") / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "rec").rglob("*.py")}
    assert folders <= {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}, (
        "pyproject.toml"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import rec, runpy; from rec.files import shipped\n"
        f"assert shipped('scripts').is_relative_to({str(tmp_path)!r}) and (shipped('scripts').parent / 'py.typed').exists()\n"
        f"sys.argv = ['train', '--check', {QUICKSTART!r}]; runpy.run_module('rec._scripts.train', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0 and "every key and argument is known" in done.stdout, done.stderr


def test_the_package_shows_what_there_is():
    names = set(dir(rec))
    assert {"from_pretrained", "Grounder", "Grounding", "models", "data", "config", "__version__"} <= names
    assert all(getattr(rec, name) is not None for name in names if not name.startswith("_"))
