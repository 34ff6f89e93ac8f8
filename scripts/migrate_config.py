"""Writes a config of the original SimREC repository, or of its manual, as one of ours; nothing of it is run or imported.

    rec migrate THEIRS/configs/simrec_refcoco_scratch.py
    rec migrate THEIRS/output/config.yaml --out configs/migrated
    rec train --check migrated/simrec_refcoco_scratch.py

Config files it imports are written beside it, as they lie: a common/ of your own stays yours. One that is not there is taken
from ours, SimREC's defaults put back where they differ. A line whose meaning changed ends in "# rec: ...".
"""

import argparse
import ast
import keyword
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# our module | names in SimREC's, detectron2's and LiBai's modules
_HOMES = """
rec.config | LazyCall LazyConfig instantiate get_config try_get_key
rec.models | SimREC MCN
rec.models.backbones | CspDarkNet DarkNet53 ResNet DResNet VGG16
rec.models.heads | REChead MCNhead
rec.models.language_encoders | LSTM_SA LSTM Transformer
rec.models.fusion | SimpleFusion MultiScaleFusion GaranAttention
rec.data.dataset | RefCOCODataSet
rec.data.augment | RandAugment
"""
HOMES = {
    name: home for home, names in (row.split(" | ") for row in _HOMES.strip().splitlines()) for name in names.split()
}
RENAMED_CLASSES = {"REHead": "REChead"}  # as a page of the manual spells it
_CONVERT = "`rec convert` makes one of a .pth"
_VECTORS = '"en_core_web_lg"'
# path, and the value where it matters: {} for any but nothing | new name, "" to leave the line out, = to keep it | what changed
_RULES = f"""
dataset.transforms | | pixels are normalised on the device, by train.data.mean and train.data.std
dataset.candidate_transforms {{}} | = | takes effect in training; there it never did
dataset.flip_lr {{}} | = | takes effect in training, left and right swapped in the phrase; there it never did
dataset.use_glove {{}} | = | en_vectors_web_lg is for spaCy 2 only: dataset.word_vectors names a pipeline or a GloVe file
train.evaluation.eval_batch_size | = | phrases per process; there in total
train.evaluation.sequential | = | without effect: every phrase is evaluated once, in order
train.amp.enabled | = | must agree with the launch profile's precision; None lets it decide
train.multi_scale_training.enabled False | = | this is heeded; there it was not
train.resume_path {{}} | = | a checkpoint folder of this project, which a .pth is not
train.vl_pretrain_weight {{}} | = | a model folder; {_CONVERT}
model.visual_backbone.pretrained False | = | where freeze_backbone is true the backbone is frozen and random, as there
model.head.in_ch | in_channels |
model.head.ignore_thre | ignore_threshold |
model.head.hidden_size | | the head takes its width from in_channels
model.head.arch_mask | | every anchor is used
model.head.layer_no | | every anchor is used
model.head.n_classes | | there are no classes: one object is found
"""
RULES = [[cell.strip() for cell in row.split("|")] for row in _RULES.strip().splitlines()]
# A file of SimREC's common/ that is not there | what is written for the name that is imported from it.
SHIPPED = {
    "train": '{0}.output_dir, {0}.log_period, {0}.data.num_workers = "./test", 1, 8  # rec: SimREC\'s defaults',
    "dataset": f"{{0}}.use_glove, {{0}}.word_vectors = True, {_VECTORS}  # rec: SimREC's default; the vectors have to be named",
    "optim": "",
    "models/simrec": "",
    "models/mcn": "",
}


@dataclass
class File:
    """One config file of theirs, and the changes to its text."""

    path: Path
    source: bytes
    changes: list[tuple[int, int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    end: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from rec.errors import InputError

        try:
            self.tree = ast.parse(self.source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{self.path} is not a Python file that can be read: {error}") from error
        self.lines = [0]
        for line in self.source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        return self.lines[node.lineno - 1] + node.col_offset, self.lines[(node.end_lineno or 1) - 1] + (
            node.end_col_offset or 0
        )

    def note(self, text: str) -> str:
        """A mark in the text; its line will end in the comment."""
        self.notes.append(text)
        return f"\0{len(self.notes) - 1}\0"

    def written(self) -> str:
        """The text with all changes; marks become comments, and lines of which nothing else is left too."""
        text = self.source
        for start, end, new in sorted(self.changes, reverse=True):
            text = text[:start] + new.encode() + text[end:]
        lines = []
        for line in text.decode().splitlines():
            notes = [self.notes[int(number)] for number in re.findall("\0(\\d+)\0", line)]
            rest = re.sub("\0\\d+\0", "", line).rstrip()
            if not notes or notes == [""]:
                lines += [rest] if rest or not notes else []
                continue
            comment = "# rec: " + "; ".join(filter(None, notes))
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{rest}  {comment}" if rest.strip() else f"{indent}{comment}")
        return "\n".join([*lines, *self.end]) + "\n"


def migrate(path: Path, source: bytes, texts: dict[Path, str] | None = None) -> dict[Path, str]:
    """The texts of a config of theirs and of all config files it imports, by their paths; ``texts`` are those done so far."""
    entry, texts = texts is None, {} if texts is None else texts
    file = File(path, source)
    texts[path] = ""  # so that files which import each other end
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            _imports(file, node, texts)
        elif isinstance(node, ast.Assign):
            _assignment(file, node)
    text = file.written()
    if entry:
        said = "Arithmetic is the right one, not the original's: see docs/original_arithmetic.md"
        text = f"# rec: from {path.name}, by `rec migrate`. {said}\n{text}"
        is_mcn = any("LazyCall(MCN)" in one or "common/models/mcn.py" in one for one in [text, *texts.values()])
        if is_mcn and re.search(r"\bdataset\b", text):
            text += "dataset.with_masks = True  # rec: masks are read where they are asked for; there always\n"
    texts[path] = _without_unused(text)
    return texts


def _imports(file: File, node: ast.ImportFrom | ast.Import, texts: dict[Path, str]) -> None:
    """Other tools' modules by ours; config files beside this one are migrated too, or taken from ours."""
    names = ", ".join(alias.name for alias in node.names)
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if getattr(node, "level", 0) == 0 and modules[0].split(".")[0] in ("simrec", "detectron2", "libai"):
        lines: dict[str, list[str]] = {}
        for alias in node.names:
            name = RENAMED_CLASSES.get(alias.name, alias.name)
            as_name = f" as {alias.asname}" if alias.asname else ""
            lines.setdefault(HOMES.get(name, ""), []).append(name + as_name)
        new = [f"from {home} import {', '.join(found)}" for home, found in lines.items() if home]
        if lost := lines.get(""):
            new.append(file.note(f"{', '.join(lost)} of {modules[0]} is not here"))
        file.changes.append((*file.span(node), "\n".join(new)))
    elif isinstance(node, ast.ImportFrom):
        folder = (*file.path.parents, *[file.path.parents[-1]] * node.level)[max(node.level, 1) - 1]
        target = folder.joinpath(*modules[0].split(".")).with_suffix(".py")
        shipped = re.sub(r"^common/", "", modules[0].replace(".", "/"))
        if target.is_file():
            if target not in texts:
                migrate(target, read(target), texts)
            if node.level == 0:
                file.changes.append((*file.span(node), f"from .{modules[0]} import {names}"))
        elif shipped in SHIPPED and shipped != modules[0]:
            lines_of_ours = []
            for alias in node.names:
                own = alias.asname or alias.name
                lines_of_ours += [
                    f'{own} = get_config("common/{shipped}.py").{alias.name}',
                    SHIPPED[shipped].format(own),
                ]
            file.changes.append(
                (*file.span(node), "\n".join(["from rec.config import get_config", *filter(None, lines_of_ours)]))
            )
        elif node.level:
            from rec.errors import InputError

            raise InputError(f"{file.path}:{node.lineno} imports {names} from {target}, which is not there")


def _assignment(file: File, node: ast.Assign) -> None:
    """Applies the rules to what an assignment sets, the arguments in its value included."""
    for target in node.targets:
        for path, part, value in _paths(ast.unparse(target), node, node.value):
            new, text = _rule(path, value)
            start, end = file.span(part)
            name = path.rpartition(".")[2]
            if new == "":  # left out, the comma behind it too
                comma = re.match(rb"\s*,", file.source[end:]) if part is not node else None
                file.changes.append(
                    (start, end + (comma.end() if comma else 0), file.note(f"{name} is left out: {text}"))
                )
            elif new is not None and new != "=":
                text = f"{name} there"
                at = start if part is not node else file.span(target)[1] - len(name)
                file.changes.append((at, at + len(name), new))
            whole = re.fullmatch(r"'(.*(simrec|mcn)\w*)\.pth'", ast.unparse(value), re.IGNORECASE)
            if whole and part is node and path == "model.visual_backbone.pretrained_weight_path":
                text = "a whole model, of which the original's backbone loaded nothing and said nothing"
                file.changes.append((start, end, file.note(text)))
                line = f"train.vl_pretrain_weight, model.visual_backbone.pretrained = {whole[1]!r}, False"
                file.end.append(f"{line}  # rec: a model folder; {_CONVERT}")
            if new:
                file.changes.append((start, start, file.note(text)))
            if path == "dataset.use_glove" and ast.unparse(value) == "True":
                more = f", word_vectors={_VECTORS}" if part is not node else f"; dataset.word_vectors = {_VECTORS}"
                file.changes.append((end, end, more))


def _paths(
    path: str, part: ast.keyword | ast.stmt, value: ast.expr
) -> Iterator[tuple[str, ast.keyword | ast.stmt, ast.expr]]:
    """Each path that an assignment sets, the part of the source that does, and the value."""
    yield path, part, value
    if _rule(path, value)[0] == "":
        return
    for argument in value.keywords if isinstance(value, ast.Call) else ():
        if argument.arg is not None:
            yield from _paths(f"{path}.{argument.arg}", argument, argument.value)


def _rule(path: str, value: ast.expr) -> tuple[str | None, str]:
    """What is to be done with a path, as in the table, and what to say; ``None`` where nothing is."""
    from rec.other_names import NAMES

    for name, (tool, instead) in NAMES.items():
        if f"{path}.".startswith(f"{name}."):
            return "", f"{tool}'s; {instead}"
    for names, new, text in RULES:
        name, _, condition = names.partition(" ")
        nothing = ast.unparse(value) in ("False", "None", "''", "{}")
        if path == name and (not condition or (not nothing if condition == "{}" else ast.unparse(value) == condition)):
            return new, text
    return None, ""


def _without_unused(text: str) -> str:
    """Leaves out absolute imports of which nothing is used any more, and repeated ones."""
    tree = ast.parse(text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines, seen = text.splitlines(keepends=True), set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            own = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            said = ast.unparse(node)
            if said in seen or not own & used:
                for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                    lines[number] = ""
            seen.add(said)
    return "".join(lines)


def read(path: Path) -> bytes:
    from rec.trust import MAX_CONFIG_BYTES, read_text

    return read_text(path, "config", MAX_CONFIG_BYTES).encode()


def from_yaml(path: Path) -> bytes:
    """A run's ``config.yaml`` of theirs as the Python config it might have come from."""
    from rec.config import safe_load_yaml
    from rec.errors import InputError
    from rec.model_folder.allowed import ALLOWED_RUN_TARGETS

    imports: dict[str, None] = {}

    def written(value: object) -> str:
        if isinstance(value, dict) and isinstance(target := value.get("_target_"), str):
            module, _, name = target.rpartition(".")
            theirs = re.fullmatch(
                r"(simrec|detectron2|libai)(\.\w+)+|torchvision\.transforms(\.transforms)?\.\w+", target
            )
            if not (theirs or target in ALLOWED_RUN_TARGETS) or not all(str(key).isidentifier() for key in value):
                # The Python file will be a program: what a stranger's YAML may not call must not get into it.
                raise InputError(
                    f"{path} asks for {target[:100]!r}, which is neither SimREC's nor in the list for .yaml configs"
                )
            imports[f"from {module} import {name}"] = None
            return f"LazyCall({name})({', '.join(f'{k}={written(v)}' for k, v in value.items() if k != '_target_')})"
        if isinstance(value, dict):
            plain = all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value)
            pairs = [f"{key}={written(v)}" if plain else f"{key!r}: {written(v)}" for key, v in value.items()]
            return f"dict({', '.join(pairs)})" if plain else f"{{{', '.join(pairs)}}}"
        if isinstance(value, list | tuple):
            inside = ", ".join(written(item) for item in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if value else "()"
        return repr(value)

    groups = {key: value for key, value in safe_load_yaml(path).items() if re.fullmatch(r"[a-z]\w*", key, re.ASCII)}
    body = "".join(f"{key} = {written(value)}\n" for key, value in groups.items() if not keyword.iskeyword(key))
    return "\n".join(["from simrec.config import LazyCall", *imports, "", body]).encode()


def main() -> int:
    from rec.errors import InputError
    from rec.files import user_path, write_text

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", type=user_path, help="a .py config of theirs, or the config.yaml of one of their runs"
    )
    parser.add_argument("--out", type=user_path, default=Path("migrated"), help="folder; by default migrated/")
    args = parser.parse_args()
    if args.config.suffix not in (".py", ".yaml", ".yml"):
        raise InputError(f"{args.config}: a config is a .py, .yaml or .yml file")
    path = args.config.absolute()
    texts = migrate(path, read(path) if path.suffix == ".py" else from_yaml(path))
    root = Path(os.path.commonpath([one.parent for one in texts]))
    places = {args.out / one.relative_to(root).with_suffix(".py"): text for one, text in texts.items()}
    if there := next((place for place in places if place.exists()), None):
        raise InputError(f"{there} is already there: nothing is written over it; name another folder with --out")
    for place, text in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)
        print(f"written: {place}, {text.count('# rec: ')} lines say what changed")
    print(f"check it: rec train --check {args.out / path.relative_to(root).with_suffix('.py')}")
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
