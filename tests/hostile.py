"""Every script against strangers' configs, folders, weights and records: nothing runs, nothing outside is touched.

    python tests/hostile.py             every attack on every script that reads such a file, with a table of counts
    python tests/hostile.py evaluate    on one script

Scripts run in this process. After each run: the exit status (2, with one paragraph), the canary (a file that each attack
would make), processes and connections (Python's audit events), the files outside the working folder, and the time.
``tests/test_hostile.py`` runs a part of it.
"""

import collections
import contextlib
import importlib.util
import io
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "inference")]
SECONDS, MEGABYTES = 10, 2000
SECRET = "THE-SECRET-OF-THIS-MACHINE"
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "urllib.Request",
)
events: list[str] = []
_watching: list[bool] = []
sys.addaudithook(lambda event, _: events.append(event) if _watching and event in FORBIDDEN else None)


Content = str | bytes | Callable[[Path], object]


def write_file(path: Path, content: Content) -> None:
    """A text, bytes, or what a function makes at ``path``: a FIFO, a link, a folder."""
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


class Place:
    """A folder with a good model, run and config, what must stay untouched beside them, and ``work`` where scripts run."""

    def __init__(self, root: Path) -> None:
        from inference_toy import SIZE, model_node, new_model, write_folder
        from PIL import Image
        from safetensors.torch import save_file
        from test_pretrained_folder import write as write_published

        from rec.config import LazyConfig, to_native
        from rec.files import DIGEST
        from rec.training.checkpoint_format import WEIGHTS, TrainerState, described, state_text

        self.root, self.work, self.canary = root, root / "work", root / "canary"
        self.work.mkdir(parents=True)
        (root / "secret.txt").write_text(SECRET)
        (root / "victim.txt").write_text("must stay")
        (root / "bomb.pkl").write_bytes(pickle.dumps(Bomb(str(self.canary))))
        (root / "canary_package").mkdir()
        (root / "canary_package" / "__init__.py").write_text(f"open({str(self.canary)!r}, 'w')\ndef load(**_): pass\n")
        installed = root / "canary_package-1.0.dist-info"
        installed.mkdir()
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: canary_package\nVersion: 1.0\n")
        words = ["PAD", "UNK", "CLS", "left"]
        (root / "vocab.json").write_text(json.dumps({"tokenizer": "spacy:canary_package", "words": words}))
        sys.path.insert(0, str(root))

        self.model = write_folder(root / "model")
        self.published = write_published(root / "published", name="user/tiny-text")
        Image.new("RGB", (SIZE, SIZE), (90, 120, 30)).save(root / "photo.png")
        cfg = LazyConfig.load(ROOT / "configs" / "simrec_small_scenes_quickstart.py")
        counts = {"train": 4, "val": 2, "test": 2}
        cfg.dataset.ann_path = {"scenes": {"path": "scenes", "count": counts, "size": SIZE}}
        cfg.dataset.input_shape, cfg.dataset.max_token_length = [SIZE, SIZE], 6
        cfg.model = model_node()
        cfg.train.output_dir, cfg.train.fast_dev_run, cfg.train.batch_size = "out", True, 4
        self.good = to_native(cfg)
        LazyConfig.save(cfg, root / "good.yaml")
        self.checkpoint = root / "run" / "checkpoints" / "step_00000001"
        self.checkpoint.mkdir(parents=True)
        save_file(new_model().state_dict(), self.checkpoint / WEIGHTS)
        others = {
            name: {"bytes": 0, DIGEST: ""} for name in ("optimizer.bin", "random_states_0.pkl")
        }  # to continue only
        state = TrainerState(update=1, files=others | {WEIGHTS: described(self.checkpoint / WEIGHTS)})
        (self.checkpoint / "trainer_state.json").write_text(state_text(state), encoding="utf-8")
        self.untouched = self.outside()

    def outside(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file outside ``work``."""
        files = (path for path in self.root.rglob("*") if not path.is_relative_to(self.work) and path.is_file())
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in files
            if "__pycache__" not in str(path)
        }

    def clear(self) -> None:
        shutil.rmtree(self.work)
        self.work.mkdir()

    def lay_out(self, config: Content, words: list[str]) -> None:
        """A run in ``work`` beside ``config``, as ``hostile.yaml`` where ``words`` name that, else as the run's own."""
        self.clear()
        shutil.copytree(self.root / "run", self.work / "run")
        shutil.copytree(self.model, self.work / "run" / "best")
        write_file(self.work / ("hostile.yaml" if "hostile.yaml" in words else "run/config.yaml"), config)

    def model_copy(self, of: Path | None = None) -> Path:
        """The good model folder (or another) to spoil, as attacks of ``test_untrusted_folders`` expect it: two levels below the
        root."""
        folder = self.work / "outer" / "best"
        shutil.copytree(of or self.model, folder)
        (folder / "digests.json").unlink()  # a stranger's would be right
        for name, source in (("secret.pth", "bomb.pkl"), ("secret.safetensors", "model/model.safetensors")):
            shutil.copyfile(self.root / source, self.work / name)
        return folder


class Bomb:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (self.canary, "w")


# Attacks on a config ---------------------------------------------------------------------------------------------------


def calls(place: Place) -> dict[str, dict]:
    """What a config may ask for that would leave a trace, as the node of a call."""
    touch, code = f"touch {place.canary}", f"open({str(place.canary)!r}, 'w')"
    system = {"_target_": "os.system", "command": touch}
    bomb = str(place.root / "bomb.pkl")
    return {
        "os.system": system,
        "posix.system": {"_target_": "posix.system", "command": touch},
        "subprocess.Popen": {"_target_": "subprocess.Popen", "args": ["touch", str(place.canary)]},
        "subprocess.check_output": {"_target_": "subprocess.check_output", "args": ["touch", str(place.canary)]},
        "builtins.exec": {"_target_": "builtins.exec", "source": code},
        "builtins.eval": {"_target_": "builtins.eval", "source": code},
        "builtins.open": {"_target_": "builtins.open", "file": str(place.canary), "mode": "w"},
        "torch.hub.os.system": {"_target_": "torch.hub.os.system", "command": touch},
        "an allowed module's os": {"_target_": "rec.models.original_weights.torch.hub.os.system", "command": touch},
        "torch.load": {"_target_": "torch.load", "f": bomb, "weights_only": False},
        "numpy.load": {"_target_": "numpy.load", "file": bomb, "allow_pickle": True},
        "importlib.import_module": {"_target_": "importlib.import_module", "name": "canary_package"},
        "a package on the path": {"_target_": "canary_package.load"},
        "pathlib.Path.touch": {"_target_": "pathlib.Path.touch", "self": str(place.canary)},
        "rec.config.instantiate": {"_target_": "rec.config.instantiate", "cfg": system},
        "rec.config.locate": {"_target_": "rec.config.locate", "name": "canary_package.load"},
        "a call as target": {"_target_": {"_target_": "functools.partial", "func": {"_object_": "os.system"}}},
        "_object_": {"_object_": "canary_package.load"},
        "_partial_": system | {"_partial_": True},
        "_args_": {"_target_": "os.system", "_args_": [touch]},
        "_recursive_ off": {"_target_": "rec.models.SimREC", "_recursive_": False, "x": system},
        "an allowed name with a blank": {"_target_": "rec.models.SimREC ", "x": system},
        "removes a file": {"_target_": "os.remove", "path": str(place.root / "victim.txt")},
        "copies a secret": {"_target_": "shutil.copyfile", "src": str(place.root / "secret.txt"), "dst": "stolen.txt"},
        "spacy.load": {"_target_": "spacy.load", "name": "canary_package"},
    }


def put(*path: str | int) -> Callable[[dict, dict], None]:
    """A place in a config: the function that puts a node there."""

    def change(config: dict, node: dict) -> None:
        for step in path[:-1]:
            config = (
                config[step] if isinstance(step, int) or config.get(step) is not None else config.setdefault(step, {})
            )
        config[path[-1]] = node

    return change


def behind_interpolation(config: dict, node: dict) -> None:
    config["evil"] = node
    config["dataset"]["ann_path"] = "${evil}"


def name_by_interpolation(config: dict, node: dict) -> None:
    config["evil"] = dict(node)
    target = config["evil"].pop("_target_", None) or config["evil"].pop("_object_")
    config["names"] = {"a": target}
    config["train"]["evaluation"]["evaluator"] = {"_target_": "${names.a}", **config["evil"]}


PLACES: dict[str, Callable[[dict, dict], None]] = {
    "dataset": put("dataset"),
    "dataset.ann_path": put("dataset", "ann_path", "scenes"),
    "dataset.vocabulary": put("dataset", "vocabulary"),
    "dataset.candidate_transforms": put("dataset", "candidate_transforms", "x"),
    "model": put("model"),
    "model.head": put("model", "head"),
    "model.head.act": put("model", "head", "act"),
    "a list in model": put("model", "fusion_manner", "modules", 0),
    "train.evaluation.evaluator": put("train", "evaluation", "evaluator"),
    "train.scheduler": put("train", "scheduler"),
    "train.trackers": lambda config, node: config["train"].update(trackers=[node]),
    "optim": put("optim"),
    "a tuple in optim": lambda config, node: config["optim"].update(betas={"_tuple_": [node, 0.9]}),
    "a group of its own": put("more"),
    "behind an interpolation": behind_interpolation,
    "its name by interpolation": name_by_interpolation,
}


def texts(place: Place) -> dict[str, Content]:
    """Whole files: YAML that would run something, and YAML, or no YAML, that would take memory, time or a secret."""
    good, touch = (place.root / "good.yaml").read_text(encoding="utf-8"), f"touch {place.canary}"
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    doubled = "a0: xxxxxxxx\n" + "".join(f"a{i}: '${{a{i - 1}}}${{a{i - 1}}}'\n" for i in range(1, 60))
    groups = "a0: [x, x]\n" + "".join(f"a{i}: ['${{a{i - 1}}}', '${{a{i - 1}}}']\n" for i in range(1, 60))
    with_data = lambda **more: yaml.safe_dump(place.good | {"dataset": place.good["dataset"] | more}, sort_keys=False)  # noqa: E731
    return {
        "tag: apply": f"{good}\nx: !!python/object/apply:os.system ['{touch}']\n",
        "tag: new": f"{good}\nx: !!python/object/new:os.system ['{touch}']\n",
        "tag: name": f"{good}\nx: !!python/name:canary_package.load ''\n",
        "tag: module": f"{good}\nx: !!python/module:canary_package ''\n",
        "tag: own": f"{good}\nx: !local {{a: 1}}\n",
        "aliases": good + bomb,
        "interpolated texts": good + doubled,
        "interpolated groups": good + groups,
        "interpolations in a circle": good + "a: ${b}\nb: ${a}\n",
        "the environment": good + "x: ${oc.env:REC_SECRET}\n",
        "the environment, put together": good + "x: '{oc.env:REC_SECRET}'\ny: '$${x}'\n",
        "a call made by a resolver": good + "x: ${oc.create:{_target_:os.system}}\n",
        "a resolver in a resolver": good + "x: ${oc.decode:${oc.env:REC_SECRET}}\n",
        "240,000 numbers": f"{good}\nchannels: [{'1, ' * 240_000}1]\n",
        "deep lists": f"{good}\nx: {'[' * 5000}\n",
        "2 MB": f"{good}\nx: '{'x' * (2 << 20)}'\n",
        "a number of 900,000 digits": f"{good}\nx: 0x{'f' * 900_000}\n",
        "a sexagesimal number": f"{good}\nx: {':'.join(['59'] * 200_000)}\n",
        "no UTF-8": good.encode() + b"x: \xff\xfe\n",
        "control characters": good.encode() + b"x: \x00\x1b\n",
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a secret": lambda path: path.symlink_to(place.root / "secret.txt"),
        "a transform of 10^5 pixels": with_data(
            candidate_transforms={"x": {"_target_": "albumentations.RandomSizedBBoxSafeCrop", "height": 10**5, "width": 10**5}}
        ),
        "tokenizer: a package": with_data(tokenizer="spacy:canary_package"),
        "tokenizer: a folder": with_data(tokenizer="spacy:../canary_package"),
        "word vectors: a package": with_data(use_glove=True, word_vectors="canary_package"),
        "a list": "- {_target_: os.system}\n",
        "a terminal's commands": f"{good}\nx: {{_target_: \"os.system\\e]0;owned\\a\"}}\n",
    }  # fmt: skip


def config_attacks(place: Place, rotate: bool) -> Iterator[tuple[str, Content]]:
    """Name and content of hostile configs: every call at every place (``rotate``: each call and each place once)."""
    found, places = calls(place), list(PLACES)
    for number, (call, node) in enumerate(found.items()):
        for where in [places[number % len(places)]] if rotate else places:
            config = json.loads(json.dumps(place.good, default=list))
            PLACES[where](config, node)
            yield f"{call} in {where}", yaml.safe_dump(config, sort_keys=False)
    yield from texts(place).items()


# Running a script, and what became of it -------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run of a script did: ``problems`` is empty where it was refused as it should be."""

    status: object
    said: str
    error: str
    seconds: float
    problems: list[str] = field(default_factory=list)


_scripts: dict[str, object] = {}


def script(name: str):
    if name not in _scripts:
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
        _scripts[name] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = _scripts[name]
        spec.loader.exec_module(_scripts[name])
    return _scripts[name]


def run(place: Place, name: str, words: list[str], allowed: tuple[object, ...] = (2,)) -> Outcome:
    """Runs a script in this process, in ``place.work``."""
    from rec.command_line import exit_with

    module, out, err = script(name), io.StringIO(), io.StringIO()
    before, status = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "no end"
    old_argv, old_folder = sys.argv, os.getcwd()
    events.clear()
    os.chdir(place.work)
    sys.argv = [f"{name}.py", *map(str, words)]

    def late(*_: object) -> None:
        raise TimeoutError(f"still running after {6 * SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)  # wall clock; a busy machine is slow
    started = time.process_time()
    _watching.append(True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exit_with(module.main)
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException as error:
        status = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        _watching.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(old_folder)
        sys.argv = old_argv
    outcome = Outcome(status, out.getvalue(), err.getvalue(), time.process_time() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    outcome.problems = list(_problems(place, outcome, allowed, grown))
    return outcome


def _problems(place: Place, outcome: Outcome, allowed: tuple[object, ...], grown: int) -> Iterator[str]:
    if outcome.status not in allowed:
        yield f"ended with {outcome.status}: {outcome.error[-300:]}"
    if 2 in allowed and outcome.status == 2:
        paragraph = outcome.error.strip()
        if not paragraph or "Traceback" in paragraph or "\n\n" in paragraph or len(paragraph) > 4000:
            yield f"said no paragraph but {paragraph[:300]!r}"
        if not all(c.isprintable() or c == "\n" for c in paragraph):
            yield "printed control characters"
    if place.canary.exists() or "canary_package" in sys.modules:
        yield "RAN CODE"
        place.canary.unlink(missing_ok=True)
        sys.modules.pop("canary_package", None)
    if events:
        yield f"started {', '.join(sorted(set(events)))}"
    if place.outside() != place.untouched:
        yield "CHANGED A FILE OUTSIDE"
        place.untouched = place.outside()
    written = (path for path in place.work.rglob("*") if path.is_file() and not path.is_symlink())
    small = (path.read_bytes() for path in written if path.stat().st_size < 1 << 20)
    if SECRET in outcome.said + outcome.error or any(SECRET.encode() in data for data in small):
        yield "READ A SECRET"
    if outcome.seconds > SECONDS:
        yield f"took {outcome.seconds:.0f} s"
    if grown > MEGABYTES:
        yield f"took {grown} MB"


# How a stranger's file reaches each script -----------------------------------------------------------------------------

Case = tuple[str, list[str], tuple[object, ...]]


def by_config(*calls_of: list[str], allowed: tuple[object, ...] = (2,)) -> Callable[[Place, bool], Iterator[Case]]:
    """A script that is given ``hostile.yaml``, in each of these calls."""

    def cases(place: Place, rotate: bool) -> Iterator[Case]:
        for number, (attack, content) in enumerate(config_attacks(place, rotate)):
            for words in [calls_of[number % len(calls_of)]] if rotate else calls_of:
                place.lay_out(content, words)
                yield attack, words, allowed

    return cases


def published_attacks(place: Place) -> dict[str, Callable[[Path], object]]:
    """What the folder of a model with a published text encoder (format 2) may hold: functions that spoil a good one."""

    def put_file(name: str, content: Content) -> Callable[[Path], object]:
        return lambda folder: ((folder / name).unlink(missing_ok=True), write_file(folder / name, content))

    def edit(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
        def attack(folder: Path) -> None:
            text = (folder / name).read_text(encoding="utf-8")
            content = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
            change(content)
            write_file(folder / name, json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))

        return attack

    files: dict[str, Content] = {
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a secret": lambda path: path.symlink_to(place.root / "secret.txt"),
        "a link to another folder's": lambda path: path.symlink_to(place.published / path.name),
        "of 2^40 bytes": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
        "a pickle": (place.root / "bomb.pkl").read_bytes(),
        "deep lists": "[" * 100_000,
        "a number of 5,000 digits": f'{{"model_type": "bert", "hidden_size": {"9" * 5000}}}',
        "no UTF-8": b"\xff\xfe{}",
        "nothing": "",
    }  # fmt: skip
    found = {
        f"{name}: {kind}": put_file(name, content)
        for name in ("encoder.json", "tokenizer.json", "digests.json")
        for kind, content in files.items()
    }
    encoder: dict[str, Any] = {
        "code of its own": {"auto_map": {"AutoModel": "stranger/code--evil.Model"}},
        "a kernel from a hub": {"attn_implementation": "stranger/kernel"},
        "a quantizer": {"quantization_config": {"quant_method": "evil"}},
        "another architecture": {"model_type": "gpt2"},
        "an architecture that is a path": {"model_type": "../../canary_package"},
        "an activation that is a name": {"hidden_act": "os.system"},
        "10^9 layers": {"num_hidden_layers": 10**9},
        "a table of 10^12 rows": {"vocab_size": 10**12},
        "heads that do not divide": {"num_attention_heads": 7},
        "not a number": {"layer_norm_eps": float("nan")},
    }
    found |= {
        f"encoder.json: {kind}": edit("encoder.json", lambda c, v=values: c.update(v))
        for kind, values in encoder.items()
    }
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    growth = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    tokenizer: dict[str, Any] = {
        "a step that runs Python": {"pre_tokenizer": {"type": "Custom", "module": "canary_package"}},
        "endless backtracking": {"pre_tokenizer": split},
        "phrases that grow": {"normalizer": {"type": "Sequence", "normalizers": [growth] * 4}},
        "a vocabulary beyond memory": {"model": {"type": "WordLevel", "vocab": {"a": 1 << 40}, "unk_token": "a"}},
        "ids beyond the encoder's table": {"model": {"type": "WordLevel", "vocab": {"a": 900_000}, "unk_token": "a"}},
    }
    found |= {
        f"tokenizer.json: {kind}": edit("tokenizer.json", lambda c, v=values: c.update(v))
        for kind, values in tokenizer.items()
    }
    for name in (
        "transformers:stranger/model",
        "file:../../secret.txt",
        "file:/etc/passwd",
        "file:tokenizer.json/../x",
    ):
        found[f"vocab.json names {name}"] = edit("vocab.json", lambda c, v=name: c.update(tokenizer=v))
    evil = {"_target_": "os.system", "command": f"touch {place.canary}"}
    for name, value in {"name": evil, "pool": evil, "lora": {"rank": 10**9}, "layers": 10**9}.items():
        found[f"language_encoder.{name}"] = edit(
            "config.yaml", lambda c, n=name, v=value: c["model"]["language_encoder"].update({n: v})
        )
    found["a format from the future"] = edit("config.yaml", lambda c: c.update(format=10**30))
    return found


def by_folder(*words: str, every: int, first: int = 0) -> Callable[[Place, bool], Iterator[Case]]:
    """A script that is given a hostile model folder; ``rotate`` takes every so many of them, of those of format 2 every fourth
    from ``first`` on: with the four scripts that read folders, each once."""

    def cases(place: Place, rotate: bool) -> Iterator[Case]:
        from test_untrusted_folders import HOSTILE

        for name in list(HOSTILE)[:: every if rotate else 1]:
            place.clear()
            HOSTILE[name](place.model_copy())
            yield name, list(words), (2,)
        for name, attack in list(published_attacks(place).items())[first if rotate else 0 :: 4 if rotate else 1]:
            place.clear()
            attack(place.model_copy(place.published))
            yield name, list(words), (2,)
        for name, spoil in RUNS.items():
            place.clear()
            spoil(place)
            yield name, ["outer", *words[1:]], (2,)

    return cases


def _last(text: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        (place.work / "outer" / "checkpoints").mkdir(parents=True)
        (place.work / "outer" / "checkpoints" / "last").write_text(text.format(root=place.root))

    return spoil


def _best_is_a_link(place: Place) -> None:
    (place.work / "outer").mkdir()
    (place.work / "outer" / "best").symlink_to(place.model)


RUNS: dict[str, Callable[[Place], None]] = {
    "last checkpoint: elsewhere": _last("../../../model"),
    "last checkpoint: an absolute path": _last("{root}/model"),
    "last checkpoint: itself": _last(".."),
    "last checkpoint: nothing": _last(""),
    "best is a link elsewhere": _best_is_a_link,
}


def by_link_to_publish(place: Place, rotate: bool) -> Iterator[Case]:
    """Files that would be published with a model folder or its checkpoint."""
    yield from by_folder("outer/best", "stranger/model", every=12, first=1)(place, rotate)
    for name in ("README.md", "vocab.json", "config.yaml"):
        place.clear()
        folder = place.model_copy()
        (folder / name).unlink()
        (folder / name).symlink_to(place.root / "secret.txt")
        yield f"{name} is a link to a secret", ["outer/best", "stranger/model"], (2,)
    place.clear()
    shutil.copytree(place.checkpoint, place.work / "step")
    (place.work / "step" / "optimizer.bin").symlink_to(place.root / "secret.txt")
    place.model_copy()
    words = ["outer/best", "stranger/model", "--with-checkpoint", "step"]
    yield "a checkpoint's file is a link to a secret", words, (2,)


def by_weights(place: Place, rotate: bool) -> Iterator[Case]:
    """``.pth``, ``.safetensors`` and Darknet files, and annotations, for convert_weights.py."""
    import torch

    pickles = {"a pickle": pickle.dumps(Bomb(str(place.canary))), "a cut pickle": b"\x80\x02", "nothing": b""}
    for name, content in pickles.items():
        place.clear()
        (place.work / "x.pth").write_bytes(content)
        yield name, ["x.pth", "--out", "out"], (2,)
    for name, content in {
        "objects in a .pth": {"state_dict": {"a": torch.zeros(1)}, "b": Bomb(str(place.canary))},
        "a tensor over one number": {"lang_encoder.embedding.weight": torch.zeros(1).expand(10**12, 300)},
        "another program's": {"weight": torch.zeros(1)},
    }.items():
        place.clear()
        torch.save(content, place.work / "x.pth")
        yield name, ["x.pth", "--out", "out", "--annotations", "a.json"], (2,)
    for name, path, content in (
        ("a header of 2^62 bytes", "x.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
        ("a Darknet file of 20 bytes", "x.weights", bytes(20)),
        ("a FIFO", "x.pth", os.mkfifo),
        ("a FIFO as Darknet file", "x.weights", os.mkfifo),
        ("a device", "x.pth", lambda path: path.symlink_to("/dev/zero")),
        ("a folder", "x.safetensors", Path.mkdir),
    ):
        place.clear()
        write_file(place.work / path, content)
        yield name, [path, "--out", "out.safetensors"], (2,)


def by_records(place: Place, rotate: bool) -> Iterator[Case]:
    """``metrics.jsonl`` of a stranger's run, for plot_metrics.py."""
    line = '{"kind": "train", "update": 1, "loss": 1.0}\n'
    for name, content in {
        "deep lists": "[" * 100_000 + "\n" + line,
        "a number of 5,000 digits": f'{{"kind": "train", "update": {"9" * 5000}}}\n{line}',
        "mappings as values": '{"kind": {}, "update": 1}\n' + line,
        "no UTF-8": b"\xff\xfe\n",
        "a FIFO": os.mkfifo,
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a secret": lambda path: path.symlink_to(place.root / "secret.txt"),
    }.items():
        place.clear()
        (place.work / "run").mkdir()
        write_file(place.work / "run" / "metrics.jsonl", content)
        yield name, ["run", "--out", "out.png"], (2,)
    place.clear()
    (place.work / "run").mkdir()
    (place.work / "run" / "metrics.jsonl").write_text(line)
    (place.work / "run" / "config.yaml").write_text("x: {_target_: os.system}\n")
    yield "a hostile config beside the records", ["run", "--out", "out.png"], (0,)


def by_source(place: Place, rotate: bool) -> Iterator[Case]:
    """A config or a pickle in place of annotations, for prepare_data.py (``tests/data`` has the records themselves)."""
    for name, path, content in (
        ("a config", "x.yaml", "x: {_target_: os.system}\n"),
        ("a pickle", "x.p", (place.root / "bomb.pkl").read_bytes()),
        ("a pickle named as a table", "x.json", (place.root / "bomb.pkl").read_bytes()),
    ):
        place.clear()
        write_file(place.work / path, content)
        yield name, ["--dataset", "mine", "--source", path, "--images", ".", "--output_dir", "out"], (2,)


def reads_nothing(place: Place, rotate: bool) -> Iterator[Case]:
    """A script that reads no file of a stranger's: only its own repository's."""
    yield from ()


def by_training(place: Place, rotate: bool) -> Iterator[Case]:
    """What only training would do: write elsewhere, publish, start from a stranger's weights, start a thousand processes."""
    yield from by_config(["--check", "hostile.yaml"], ["hostile.yaml"])(place, rotate)
    for name, key, value in (
        ("writes elsewhere", "output_dir", str(place.root / "elsewhere")),
        ("writes above", "output_dir", "../elsewhere"),
        ("publishes", "hub", {"repo_id": "stranger/model", "push": "best", "private": False}),
        ("a million processes", "data", place.good["train"]["data"] | {"num_workers": 10**6}),
        ("a batch of a billion", "evaluation", place.good["train"]["evaluation"] | {"eval_batch_size": 10**9}),
        ("starts from a stranger's weights", "load_weight", "stranger"),
        ("starts from a pickle", "load_weight", str(place.root / "bomb.pkl")),
        ("continues a stranger's checkpoint", "resume_path", "stranger"),
    ):
        place.lay_out(yaml.safe_dump(place.good | {"train": place.good["train"] | {key: value}}), ["hostile.yaml"])
        (place.work / "stranger").mkdir()
        (place.work / "stranger" / "model.safetensors").symlink_to("/dev/zero")
        (place.work / "stranger" / "trainer_state.json").symlink_to("/dev/zero")
        yield name, ["hostile.yaml"], (2,)
    for name, change in {
        "10^9 layers": {"num_hidden_layers": 10**9},
        "code of its own": {"auto_map": {"AutoModel": "stranger/code--evil.Model"}},
        "endless weights": {},
    }.items():
        encoder = {"_target_": "rec.models.pretrained_text.PretrainedText", "name": "encoder", "hidden_size": 16}
        model = place.good["model"] | {"language_encoder": encoder}
        place.lay_out(
            yaml.safe_dump(json.loads(json.dumps(place.good | {"model": model}, default=list))), ["hostile.yaml"]
        )
        (place.work / "encoder").mkdir()
        content = json.loads((place.published / "encoder.json").read_text(encoding="utf-8")) | change
        (place.work / "encoder" / "config.json").write_text(json.dumps(content), encoding="utf-8")
        (place.work / "encoder" / "model.safetensors").symlink_to("/dev/zero")
        yield f"starts from a text encoder: {name}", ["hostile.yaml"], (2,)
    for name in (
        "float64 weights that are infinite as float32",
        "a negative variance",
        "weights are a link",
        "NaN weights",
    ):
        from test_untrusted_folders import HOSTILE

        place.lay_out((place.root / "good.yaml").read_text(encoding="utf-8"), ["hostile.yaml"])
        HOSTILE[name](place.model_copy())
        yield f"load_weight: {name}", ["hostile.yaml", "train.load_weight=outer/best"], (2,)


def by_export(place: Place, rotate: bool) -> Iterator[Case]:
    """A folder; and the config of its run, which says on what data ``--int8`` looks."""
    yield from by_folder("outer/best", "--out", "out.onnx", every=12)(place, rotate)
    configs = by_config(["run", "--out", "out.onnx", "--int8"])(place, rotate)  # read as evaluate reads them
    yield from itertools.islice(configs, 0, None, 6 if rotate else 1)


EXTREMES = (-1, 0, 1, 7, 2**31, 10**9, 10**18, 1e308, float("nan"), float("inf"), -0.5, True, None, "x", [], {})
EXTREMES += ([1] * 1000, [10**9] * 3, [8, 16, 32] * 3)


def by_arguments(place: Place, rotate: bool) -> Iterator[Case]:
    """Every argument of every part of a model, each with numbers, texts and lists that nobody expects of it."""
    yield from by_folder("outer/best", "../photo.png", "a circle", every=8, first=2)(place, rotate)
    from inference_toy import folder_config, mcn_node, model_node

    from rec.config import locate, to_native
    from rec.config.call import parameters

    def parts(node: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
        if isinstance(node, dict) and "_target_" in node:
            for name in parameters(locate(node["_target_"])) or {}:
                yield (*path, name)
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            yield from parts(inner, (*path, key))

    for kind, node in (("SimREC", to_native(model_node())), ("MCN", to_native(mcn_node()))):
        places = list(parts(node))
        for number, path in enumerate(places):
            for value in [EXTREMES[number % len(EXTREMES)]] if rotate else EXTREMES:
                if rotate and number % 12:
                    continue
                changed = json.loads(json.dumps(node))
                put(*path)(changed, value)
                place.clear()
                folder = place.model_copy()
                write_file(folder / "config.yaml", yaml.safe_dump(to_native(folder_config() | {"model": changed})))
                yield (
                    f"{kind}: {'.'.join(map(str, path))} = {str(value)[:30]}",
                    ["outer/best", "../photo.png", "a"],
                    (0, 2),
                )


SWEEPS: dict[str, Callable[[Place, bool], Iterator[Case]]] = {
    "train": by_training,
    "evaluate": by_config(
        ["run", "--out", "out"],
        ["run/best", "--config", "hostile.yaml", "--out", "out"],
        ["run/checkpoints/step_00000001", "--out", "out"],
    ),
    "browse_data": by_config(["hostile.yaml", "--out", "out.png"]),
    # It shows what a stranger's config holds, so that one can look before trusting: it may end well, and runs nothing.
    "print_config": by_config(
        ["hostile.yaml"], ["hostile.yaml", "--keys"], ["hostile.yaml", "--diff", "../good.yaml"],
        ["../good.yaml", "--diff", "hostile.yaml"], allowed=(0, 2),
    ),
    "migrate_config": by_config(["hostile.yaml", "--out", "out"], allowed=(0, 2)),  # it writes, and calls nothing
    "benchmark": by_config(["model", "--config", "hostile.yaml", "--out", "out", "--work", "out"]),
    "predict": by_arguments,
    "export": by_export,
    "demo": by_folder("outer/best", every=12, first=3),
    "push_to_hub": by_link_to_publish,
    "convert_weights": by_weights,
    "plot_metrics": by_records,
    "prepare_data": by_source,
    "run_results": reads_nothing,
    "write_results": reads_nothing,
}  # fmt: skip


@contextlib.contextmanager
def prepared(root: Path) -> Iterator[Place]:
    """The place, and meanwhile this process as the scripts expect it: no hub, nothing served, memory as benchmarks keep it."""
    import huggingface_hub.constants

    import rec.inference.demo

    settings = {"REC_SECRET": SECRET, "REC_CANARY": str(root / "canary"), "NO_ALBUMENTATIONS_UPDATE": "1"}
    with (
        mock.patch.dict(os.environ, settings | script("benchmark").ALLOCATOR),
        mock.patch.object(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9"),
        mock.patch.object(rec.inference.demo, "launch", lambda *_, **__: print("served")),
        mock.patch("datasets.config.HF_DATASETS_CACHE", str(root / "work" / "cache")),
        mock.patch.object(sys, "path", [*sys.path]),
    ):
        yield Place(root)


def main() -> int:
    runs = problems = 0
    with tempfile.TemporaryDirectory() as folder, prepared(Path(folder) / "place") as place:
        print(f"{'script':<18}{'runs':>6}{'refused':>9}{'shown':>7}{'problems':>10}{'slowest':>9}", flush=True)
        for name in sys.argv[1:] or SWEEPS:
            found: collections.Counter[str] = collections.Counter()
            slowest = 0.0
            for number, (attack, words, allowed) in enumerate(SWEEPS[name](place, False)):
                if number and number % 100 == 0:
                    print(f"{name:<18}{number:>6} so far", flush=True)
                outcome = run(place, name, words, allowed)
                found[str(outcome.status)] += 1
                slowest = max(slowest, outcome.seconds)
                if outcome.problems:
                    found["problems"] += 1
                    print(f"{name} {' '.join(words)}: {attack}: {'; '.join(outcome.problems)}", flush=True)
            runs, problems = runs + found.total() - found["problems"], problems + found["problems"]
            print(
                f"{name:<18}{found.total() - found['problems']:>6}{found['2']:>9}{found['0']:>7}{found['problems']:>10}"
                f"{slowest:>8.1f}s",
                flush=True,
            )
    print(f"{runs} hostile files and folders, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
