"""The rooms of the house: imports go one way only, no circle, no untyped parameters.

``python tests/test_architecture.py`` prints the picture: which room imports which.
"""

import ast
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
REC = REPOSITORY / "rec"

# From the bottom up; rooms of one floor do not import one another, except where the last table says so.
FLOORS = (
    ("errors", "names"),
    ("files", "trust", "boxes", "cores", "cuda_graphs", "console", "command_line", "metric_cells"),
    ("contracts", "conventions"),
    ("config",),
    ("other_names",),
    ("data", "models"),
    ("model_folder", "evaluation"),
    ("inference", "training"),
    ("__main__",),
)
BESIDE = {("command_line", "console"), ("command_line", "files"), ("files", "trust")}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(REC.rglob("*.py"))}


def imports(name: str, at_import_time: bool = False) -> set[str]:
    """Modules of ``rec`` that a module imports, inside functions too unless ``at_import_time``; not for types alone."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    late = {
        inner
        for node in ast.walk(tree)
        if at_import_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in for_types or node in late:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {node.module}
    return {target for target in found if target in MODULES and target not in (name, "rec")}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def wrong_arrows() -> list[str]:
    found = []
    for name in MODULES:
        for target in sorted(imports(name)):
            here, there = room(name), room(target)
            if here and there and here != there and (here, there) not in BESIDE and FLOOR[there] >= FLOOR[here]:
                found.append(f"{name} imports {target}")
    return found


def circles() -> list[list[str]]:
    """Modules that need one another to be imported (Tarjan's strongly connected components)."""
    edges = {name: imports(name) for name in MODULES}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            component = []
            while not component or component[-1] != name:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def annotated() -> list[tuple[str, bool]]:
    """Every annotated parameter of ``rec`` and the scripts, and whether that is ``Any`` alone.

    ``rec.config``, whose subject is untyped, and config nodes (``rec.contracts.ConfigNode``) do not count as that.
    """
    found = []
    for path in (*REC.rglob("*.py"), *(REPOSITORY / "scripts").rglob("*.py")):
        untyped = "config" in path.relative_to(REPOSITORY).parts[1:2]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                    if parameter.annotation is not None:
                        bare = ast.unparse(parameter.annotation) == "Any" and parameter.arg not in ("cfg", "config")
                        place = f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}({parameter.arg})"
                        found.append((place, bare and not untyped))
    return found


def bare_any() -> list[str]:
    """Parameters annotated with ``Any`` alone."""
    return [place for place, bare in annotated() if bare]


def test_imports_go_one_way_only():
    assert wrong_arrows() == []


def test_no_modules_need_one_another():
    assert circles() == []


def test_every_room_has_a_floor():
    assert {room(name) for name in MODULES} - {""} == set(FLOOR)


def test_at_most_one_parameter_in_fifty_is_untyped():
    bare = bare_any()
    assert len(bare) <= len(annotated()) / 50, "\n".join(bare)


def picture() -> str:
    """One line per room, from the bottom up: what it imports."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for name in MODULES:
        arrows[room(name)] |= {room(target) for target in imports(name)} - {room(name), ""}
    rooms = sorted((name for name in arrows if name), key=lambda name: (FLOOR.get(name, 99), name))
    return "\n".join(
        f"{name:<14} <- {', '.join(sorted(arrows[name], key=lambda n: FLOOR.get(n, 99))) or '-'}" for name in rooms
    )


if __name__ == "__main__":
    print(picture())
    print("\nwrong arrows:", *wrong_arrows(), sep="\n  ")
    print("\ncircles:", *circles(), sep="\n  ")
    print(f"\n{len(bare_any())} of {len(annotated())} parameters are bare Any:", *bare_any(), sep="\n  ")
