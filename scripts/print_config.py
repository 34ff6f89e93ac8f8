"""Shows a config as readable Python, with overrides applied and interpolations resolved.

    python scripts/print_config.py configs/x.py [key=value ...]
    python scripts/print_config.py configs/x.py --diff configs/y.py     what differs from x (with overrides) to y
    python scripts/print_config.py configs/x.py --keys                  every key, and what targets take by default

Coloured on a terminal, unless NO_COLOR is set. Exit status: 0, or 2 for a config or override that cannot be used.
"""

import argparse
import inspect
import os
import re
import sys
from typing import Any

_COLOURS = {"text": "32", "key": "36", "word": "35", "number": "33", "gone": "31", "new": "32"}
_PARTS = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<gone>^- .*)|(?P<new>^\+ .*)"""
    r"""|(?P<key>^(?:~ )?[\w.\[\]+'-]+(?=[ :]))"""
    r"""|(?P<word>\b(?:None|True|False)\b)|(?P<number>(?<![\w.])-?\d[\d.e+-]*)""",
    re.MULTILINE,
)


def coloured(text: str) -> str:
    """``text`` with terminal colours on strings, numbers, constants, keys and differences."""
    return _PARTS.sub(lambda part: f"\033[{_COLOURS[part.lastgroup or '']}m{part[0]}\033[0m", text)


def list_keys(cfg: Any) -> str:
    """Every key with its value; after a LazyCall's target, the parameters that the config leaves at its defaults."""
    from rec.config import locate
    from rec.config.call import parameters
    from rec.config.nodes import join
    from rec.config.printing import flatten

    found, lines = flatten(cfg), []
    for key, value in found.items():
        lines.append(f"{key} = {value}\n")
        group, _, last = key.rpartition(".")
        for name, parameter in (parameters(locate(value.strip('"'))) or {}).items() if last == "_target_" else ():
            path = join(group, name)
            if not any(known == path or known.startswith((f"{path}.", f"{path}[")) for known in found):
                default = f'"{parameter.default}"' if isinstance(parameter.default, str) else repr(parameter.default)
                required = parameter.default is inspect.Parameter.empty
                lines.append(f"{path}: {'required' if required else f'{default} by default'}\n")
    return "".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--diff", metavar="OTHER", help="show what differs from the config to this one")
    parser.add_argument("--keys", action="store_true", help="list every key, with the defaults of LazyCall targets")

    from rec.config import LazyConfig, diff, parse_config_arguments
    from rec.console import require_output

    require_output()
    args = parse_config_arguments(parser, argv)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config), args.overrides)
    if args.diff:
        text = "".join(f"{line}\n" for line in diff(cfg, LazyConfig.load(args.diff)))
    else:
        text = list_keys(cfg) if args.keys else LazyConfig.to_py(cfg)
    print(coloured(text) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text, end="")
    return 0


if __name__ == "__main__":
    from rec.inference.command_line import exit_with

    exit_with(main)
