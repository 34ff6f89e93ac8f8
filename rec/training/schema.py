"""What a whole training config may hold: its groups, the keys of ``train``, calls where calls are expected.

The schema is what there is anyway: ``configs/common/train.py``, the table of :mod:`rec.training.keys` and the signatures of
the targets.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rec.config import check, try_get_key
from rec.config.call import Builder
from rec.config.errors import did_you_mean
from rec.config.nodes import added, children, is_call, join, reads, sources, walk
from rec.config.refused import REFUSED
from rec.training.keys import KEYS, check_values

GROUPS = ("model", "dataset", "optim", "train")
# Arguments that are added when a part is built.
_RATES = ("base_lr", "warmup_lr", "min_lr", "warmup_updates", "total_updates", "updates_per_epoch")
_LATER = {"cfg.optim.params", "cfg.model.language_encoder.token_size"}
_LATER |= {f"cfg.dataset.{name}" for name in ("split", "training", "seed", "rank", "processes", "vocabulary")}
_SCHEDULE = (
    "A schedule is a function of the update, factor = schedule(update), made with those of "
    f"{', '.join(_RATES)} that it takes; write LazyCall(build_schedule)(name='cosine') for the built-in one"
)
_LATER |= {f"cfg.train.scheduler.{name}" for name in _RATES}


def check_config(cfg: Any) -> list[str]:
    """Everything that is wrong with a training config, one line each; nothing is built."""
    found, values = [], check_values(cfg)
    for line in check(cfg, _LATER):
        argument = re.match(r"(cfg\S*) → \S+: '(\w+)' is ", line)
        if argument and any(told.startswith(f"{argument[1]}.{argument[2]} is ") for told in values):
            continue
        if "missing argument" not in line or line.startswith(tuple(f"cfg.{group}" for group in GROUPS)):
            found.append(line)  # a helper may be finished elsewhere
        if line.startswith("cfg.train.scheduler → ") and "missing argument 'optimizer'" in line:
            found[-1] += f". {_SCHEDULE}"
    return [*_unread(cfg), *_no_calls(cfg), *found, *values]


def drop_helpers(cfg: Any) -> None:
    """Leaves the four groups and what they refer to: a config file's own variables are not part of the run it describes."""
    referred = _referred(cfg)
    for key in [key for key in cfg if key not in GROUPS and key not in referred]:
        del cfg[key]


def _referred(cfg: Any) -> set[str]:
    """The paths in all ``${path}`` of a config, and what these paths lie in."""
    texts = [value for _, value in walk(cfg) if isinstance(value, str) and "${" in value]
    return _with_homes(path for text in texts for path in re.findall(r"\$\{([\w.]+)", text))


def _with_homes(paths: Iterable[str]) -> set[str]:
    return {path[:end] for path in paths for end in (*(dot.start() for dot in re.finditer(r"\.", path)), len(path))}


def _unread(cfg: Any) -> Iterator[str]:
    """Names beside the four groups that nothing reads, keys of ``train`` that are in no table, and groups that are none.

    What another value refers to and what was added on purpose (``+key=value``, ``open_dict``) stays.
    """
    plus = _with_homes(name for name, source in sources(cfg).items() if source.startswith("command line: +"))
    wanted = _referred(cfg) | plus | REFUSED.keys()
    lines: list[str] = []
    builder = Builder(cfg, None, lines)

    def visit(group: object, path: str) -> None:
        known = {name[len(path) + 1 :].partition(".")[0] for name in KEYS if name.startswith(f"{path}.")}
        if known and path not in KEYS and not isinstance(group, Mapping):
            builder.fail(TypeError, f"cfg.{path}", f" is {group!r}; expected a group of {', '.join(sorted(known))}")
        for key, value in children(group) if known and isinstance(group, Mapping) and not is_call(group) else ():
            place = join(path, key)
            if key in known:
                visit(value, place)
            elif place not in wanted and key not in added(group):
                hint = did_you_mean(place, [join(path, name) for name in known])
                builder.fail(KeyError, f"cfg.{place}", f": nothing reads this{hint}")

    visit(cfg.train, "train")
    for key in cfg:
        if key not in GROUPS and key not in wanted and key not in reads(cfg):
            homes = [name for name in KEYS if name.endswith(f".{key}")]
            hint = did_you_mean(key, [*GROUPS, *homes]) or (f"; did you mean `{homes[0]}`?" if homes else "")
            if hint or reads(cfg):  # a YAML may hold what the Python config it was saved from has read
                builder.fail(KeyError, f"cfg.{key}", f": nothing reads this{hint}")
    yield from lines


def _no_calls(cfg: Any) -> Iterator[str]:
    """Where a LazyCall is expected and something else stands."""
    for name in ("model", "dataset", "optim"):
        if not is_call(cfg[name]):
            what = "a group without a target" if isinstance(cfg[name], Mapping) else repr(cfg[name])
            yield f"cfg.{name} is {what}; expected a LazyCall: write {name} = LazyCall(Class)(argument=value, ...)"
    if (theirs := try_get_key(cfg, "optim.params")) not in (None, "???"):
        yield (
            f"cfg.optim.params is {str(theirs)[:80]}, which the run would replace by groups of its own: set "
            "train.parameter_groups, or let the target of optim be a function of `params` that returns the optimizer"
        )
    for path in ("model", "optim", "dataset.candidate_transforms"):
        for inner, node in walk(try_get_key(cfg, path)):
            kind = node.get("type") if isinstance(node, Mapping) and not is_call(node) else None
            if isinstance(kind, str):
                place = f"cfg.{path}{inner if inner[:1] == '[' else f'.{inner}' if inner else ''}"
                yield f"{place} is dict(type={kind!r}, ...), which mmdetection builds from a registry: write LazyCall({kind})(...)"
