"""Shows a config as readable Python, with overrides applied and interpolations resolved.

    rec config configs/x.py [key=value ...]
    rec config configs/x.py --diff configs/y.py     what differs from x (with overrides) to y
    rec config configs/x.py --keys                  every key, and what targets take by default

Nothing that a .yaml config names is imported, but for --keys the targets in the list of names that such a config may use.
Coloured on a terminal, unless NO_COLOR is set. Exit status: 0, or 2 for a config or override that cannot be used.
"""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Container
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


def list_keys(cfg: Any, importable: Container[str] | None) -> str:
    """Every key with its value; after a LazyCall's target, the parameters that the config leaves at its defaults.

    Targets that are not ``importable`` (None: all are) are not looked up.
    """
    from rec.config import locate
    from rec.config.call import parameters
    from rec.config.nodes import join
    from rec.config.printing import flatten

    found, lines = flatten(cfg), []
    for key, value in found.items():
        lines.append(f"{key} = {value}\n")
        group, _, last = key.rpartition(".")
        target = value.strip('"') if last == "_target_" else ""
        if target and importable is not None and target not in importable:
            lines.append(f"{join(group, '...')}: defaults unknown, the target is not imported without --trust-config\n")
            target = ""
        for name, parameter in (parameters(locate(target)) or {}).items() if target else ():
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

    from rec.command_line import add_trust_option
    from rec.config import LazyConfig, diff, parse_config_arguments, without_interpolations
    from rec.console import require_output
    from rec.model_folder.allowed import ALLOWED_RUN_TARGETS

    require_output()
    add_trust_option(parser)
    args = parse_config_arguments(parser, argv)
    careful = not args.trust_config and not args.config.endswith(".py")
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config), args.overrides)
    if args.diff:
        text = "".join(f"{line}\n" for line in diff(cfg, LazyConfig.load(args.diff)))
    elif args.keys:
        text = list_keys(cfg, ALLOWED_RUN_TARGETS if careful else None)
    else:
        text = LazyConfig.to_py(without_interpolations(cfg) if careful else cfg)
    print(coloured(text) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text, end="")
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
