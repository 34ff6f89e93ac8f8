"""The command ``rec`` (or ``python -m rec``): ``rec train …`` runs the very file ``scripts/train.py``, and so on."""

import ast
import difflib
import sys
import types
from pathlib import Path

from rec.files import shipped

# Command to script. In a clone the scripts are in scripts/, in an installed package in rec._scripts.
COMMANDS = {
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "prepare": "prepare_data",
    "demo": "demo",
    "export": "export",
    "push": "push_to_hub",
    "config": "print_config",
    "browse": "browse_data",
    "plot": "plot_metrics",
    "convert": "convert_weights",
    "migrate": "migrate_config",
}


def overview() -> str:
    """Every command with the first line of its script."""
    lines = ["usage: rec COMMAND [arguments]      rec COMMAND --help tells what a command takes\n"]
    for command, script in COMMANDS.items():
        summary = ast.get_docstring(ast.parse(_file(script).read_text(encoding="utf-8"))) or ""
        lines.append(f"  {command:<10}{summary.partition(chr(10))[0]}")
    lines.append(
        "\nOn several devices: accelerate launch -m rec._scripts.train CONFIG, or scripts/train.py of a clone."
    )
    return "\n".join(lines)


def _file(script: str) -> Path:
    return shipped("scripts") / f"{script}.py"


def main() -> None:
    """Runs the command that ``sys.argv`` names, as ``python scripts/NAME.py`` would; ends with its exit status."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(overview())
    elif command == "--version":
        from rec import __version__

        print(f"rec {__version__}")
    elif command in COMMANDS:
        sys.argv = [f"rec {command}", *words]  # what the script calls itself in its messages
        script = types.ModuleType("__main__")
        script.__file__ = str(_file(COMMANDS[command]))
        sys.modules["__main__"] = script
        exec(compile(Path(script.__file__).read_text(encoding="utf-8"), script.__file__, "exec"), script.__dict__)
    else:
        near = difflib.get_close_matches(command, [*COMMANDS, *COMMANDS.values()], n=1)
        hint = f"; did you mean {next(c for c, s in COMMANDS.items() if near[0] in (c, s))}?" if near else "."
        print(f"rec: there is no command {command!r}{hint} There are {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
