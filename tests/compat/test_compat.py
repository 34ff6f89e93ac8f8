"""What version 0.1 wrote still loads, computes the same numbers, and every name it promised still resolves.

``0.1/`` was written once, by the code of commit b87b842, and is never written again: where one of these tests fails, a promise is
broken, and the code is what has to change. ``0.1/README.md`` says what is in it and what "the same" means.
"""

import hashlib
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compat_measures as measure
import compat_names
import pytest
import torch
from compat_measures import CORPUS, PHRASES, TOLERANCE, TOLERANCES, Numbers, Words
from safetensors.torch import load_file

import rec
from rec import model_folder
from rec.config import LazyConfig, check, get_config, instantiate, safe_load_yaml
from rec.data.dataset import RefCOCODataSet
from rec.data.text import Vocabulary
from rec.evaluation.metrics import breakdown, summarize_records
from rec.inference import export

ROOT = Path(__file__).parents[2]
DIGEST = "cb3048656accc33a4b926d901cc1001bc37fe7588308096aba87ee49a34c3def"
PROMISED = json.loads((CORPUS / "names.json").read_text(encoding="utf-8"))
NUMBERS = load_file(CORPUS / "recorded" / "numbers.safetensors")
WORDS = json.loads((CORPUS / "recorded" / "words.json").read_text(encoding="utf-8"))
MODELS = sorted(path.name for path in (CORPUS / "models").iterdir())
TABLES = ("scenes", "plain", "raw", "letterboxed", "embedded")
SAME_MACHINE = measure.machine() == json.loads((CORPUS / "recorded" / "machine.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the corpus, for what writes or names its files relative to the working directory."""
    return Path(shutil.copytree(CORPUS, tmp_path_factory.mktemp("compat") / "corpus"))


@pytest.fixture
def place(copied, monkeypatch):
    monkeypatch.chdir(copied)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(copied / "cache"))
    return copied


def run_script(monkeypatch, name: str, *arguments: Any) -> None:
    """A script as its user runs it, in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    assert not ended.value.code, f"promised command line: scripts/{name} {' '.join(map(str, arguments))}"


def broken(old: Any, new: Any, where: str) -> list[str]:
    """Where ``new`` is not what ``old`` promised; keys may have been added."""
    if isinstance(old, dict) and isinstance(new, dict):
        gone = [f"{where}.{key}: promised, now gone (it was {old[key]!r:.200})" for key in old if key not in new]
        return gone + [line for key in old if key in new for line in broken(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for number, pair in enumerate(zip(old, new, strict=True))
            for line in broken(*pair, f"{where}[{number}]")
        ]
    return [] if old == new else [f"{where}: promised {old!r:.300}, now {new!r:.300}"]


def numbers_broken(old: Numbers, new: Numbers, where: str) -> list[str]:
    """The same for tensors: bit for bit where the corpus was written on this machine type, else within the tolerance."""
    lines = []
    for name, value in old.items():
        if name not in new:
            lines.append(f"{where}: {name} was promised and is gone")
        elif new[name].shape != value.shape or new[name].dtype != value.dtype:
            lines.append(
                f"{where}: {name} is {new[name].dtype} {tuple(new[name].shape)}, it was {value.dtype} {tuple(value.shape)}"
            )
        elif SAME_MACHINE and not torch.equal(new[name], value):
            lines.append(f"{where}: {name} differs in its bits, by up to {(new[name] - value).abs().max().item():.3g}")
        elif not SAME_MACHINE and value.numel():
            allowed = next((share for start, share in TOLERANCES.items() if name.startswith(start)), TOLERANCE)
            allowed *= max(1.0, value.abs().max().item())
            difference = (new[name].double() - value.double()).abs().max().item()
            if not difference <= allowed:
                lines.append(f"{where}: {name} differs by {difference:.3g}, allowed is {allowed:.3g}")
    return lines


def assert_kept(subject: str, found: tuple[Numbers, Words], numbers: Numbers | None = None) -> None:
    """What a function of :mod:`compat_measures` finds now is what it found on the code of 0.1."""
    if numbers is None:
        numbers = {
            name.removeprefix(f"{subject}/"): value for name, value in NUMBERS.items() if name.startswith(f"{subject}/")
        }
    words = {key: value for key, value in WORDS[subject].items() if SAME_MACHINE or not key.startswith("bits:")}
    lines = numbers_broken(numbers, found[0], subject) + broken(words, found[1], subject)
    assert not lines, f"tests/compat/0.1 promises otherwise, {len(lines)} differences:\n" + "\n".join(lines[:20])


def test_the_corpus_is_as_it_was_written():
    found = hashlib.sha256()
    for path in sorted(path for path in CORPUS.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        found.update(
            f"{path.relative_to(CORPUS).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    assert found.hexdigest() == DIGEST, (
        "tests/compat/0.1 was changed. It is what released code wrote, and is never written again: restore it with"
        " `git checkout tests/compat/0.1`, and make what fails in this file work on it"
    )


# ---- models


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_answers_predicts_and_learns_as_it_did(name):
    for measured in (measure.answers, measure.outputs, measure.updates):
        assert_kept(f"models/{name}/{measured.__name__}", measured(CORPUS / "models" / name))


@pytest.mark.parametrize("name", MODELS)
def test_the_names_in_a_weights_file_are_those_of_the_model(name):
    model, _, _ = model_folder.read(CORPUS / "models" / name)
    saved = {key: list(value.shape) for key, value in load_file(CORPUS / "models" / name / "model.safetensors").items()}
    now = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert not (lines := broken(saved, now, "state dict")), lines
    assert not (added := sorted(now.keys() - saved.keys())), f"old weights lack {added}"


@pytest.mark.parametrize("name", sorted(path.stem for path in (CORPUS / "backbones").iterdir()))
def test_a_backbone_has_the_names_and_maps_it_had(name):
    config = LazyConfig.load(str(CORPUS / "backbones" / f"{name}.yaml")).backbone
    assert_kept(f"backbones/{name}", measure.backbone(config))


@pytest.mark.parametrize("name", ["simrec_published", "simrec_timm", "mcn_small"])
def test_the_long_spelling_of_a_name_may_be_called_by_a_folder_of_a_strangers(tmp_path, name):
    folder = Path(shutil.copytree(CORPUS / "models" / name, tmp_path / name))
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    spellings = {
        "rec.models.SimREC": "rec.models.simrec.SimREC",
        "rec.models.MCN": "rec.models.mcn.MCN",
        "rec.models.backbones.CspDarkNet": "rec.models.backbones.cspdarknet.CspDarkNet",
        "rec.models.backbones.SmallResNet": "rec.models.backbones.small_resnet.SmallResNet",
        "rec.models.backbones.TimmBackbone": "rec.models.backbones.timm_backbone.TimmBackbone",
        "torch.nn.ModuleList": "torch.nn.modules.container.ModuleList",
    }
    for short, long in spellings.items():
        text = re.sub(rf"{re.escape(short)}\b", long, text)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    assert_kept(f"models/{name}/outputs", measure.outputs(folder))


# ---- data


@pytest.mark.parametrize("training", [True, False], ids=["train", "val"])
@pytest.mark.parametrize("table", TABLES)
def test_a_prepared_table_gives_the_batches_it_gave(place, table, training):
    dataset = measure.dataset_of(table, training)
    assert_kept(f"tables/{table}/{'train' if training else 'val'}", measure.batches(dataset))
    missing = [name for name in PROMISED["attributes"]["data set"] if not hasattr(dataset, name)]
    assert not missing, f"promised attributes of a data set are gone: {missing}"
    sides = {"B": 2, "S": 32, "L": 6}
    batch = dataset.collate([dataset[0], dataset[1]])
    for key, (dtype, shape) in PROMISED["batch"].items():
        expected = dtype, tuple(sides.get(side) or int(side) for side in shape.split())
        assert (str(batch[key].dtype), tuple(batch[key].shape)) == expected, f"batch[{key!r}]"


def test_a_stream_of_old_shards_gives_the_samples_it_gave(place):
    assert_kept("stream", measure.stream_batch())


def test_a_mixture_of_tables_is_sampled_as_it_was(place):
    assert_kept("mixture", measure.batches(measure.mixture()))


def test_a_saved_config_with_simrecs_transforms_gives_samples(place):
    cfg = LazyConfig.load("own_augmented.yaml")
    assert check(cfg) == []
    dataset = instantiate(cfg.dataset, split="train", training=True, seed=3)
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        assert sample["image"].dtype == torch.uint8 and (sample["box"] > 0).all() and (sample["box"] < 1).all()


def test_annotation_lines_are_read_as_they_were(place):
    source = {"own": {"path": "own/boxes.jsonl", "bbox_format": "xywh"}}
    given: dict[str, Any] = {
        "input_shape": (32, 32),
        "with_masks": True,
        "split": "val",
        "training": False,
        "flip_lr": True,
    }
    assert_kept("source", measure.batches(RefCOCODataSet("own", source, "own/pictures", **given)))


@pytest.mark.parametrize(
    ("table", "options"),
    [("scenes", ["--count", "4", "--splits", "train", "val"]), ("raw", ["--store", "raw", "--size", "32"]),
     ("embedded", ["--store", "embedded", "--format", "parquet"])],
)  # fmt: skip
def test_a_table_prepared_now_has_the_files_and_the_samples_of_then(place, tmp_path, monkeypatch, table, options):
    if table != "scenes":
        options = [*options, "--source", "own/boxes.jsonl", "--images", "own/pictures", "--bbox-format", "xywh"]
    run_script(
        monkeypatch, "prepare_data.py", "--dataset", table, "--output_dir", tmp_path, "--generate_mask", *options
    )
    old, new = place / "tables" / table, tmp_path / "anns" / table
    files = {str(path.relative_to(old)): True for path in old.rglob("*") if path.is_file()}
    now = {str(path.relative_to(new)): True for path in new.rglob("*") if path.is_file()}
    infos = [json.loads((folder / "prepared.json").read_text(encoding="utf-8")) for folder in (old, new)]
    for info in infos:
        info["identity"] = info["image_root"] = ""  # a digest of paths and file times, and a path
        for split in info["splits"].values():  # what warnings are made of
            split.pop("boxes_outside", None)
            split.pop("boxes_not_xyxy", None)
    lines = broken(files, now, f"files of {table}") + broken(*infos, f"{table}/prepared.json")
    assert not lines, lines
    if SAME_MACHINE:
        dataset = RefCOCODataSet(
            table, {table: str(new)}, input_shape=(32, 32), max_token_length=6, with_masks=True, seed=5, split="train"
        )
        old_words, new_words = WORDS[f"tables/{table}/train"], measure.batches(dataset)[1]
        kept = ("bits:pixels", "tokens", "box", "fingerprint")
        assert not (lines := broken(*({key: words[key] for key in kept} for words in (old_words, new_words)), table)), (
            lines
        )


@pytest.mark.parametrize(
    ("sentence", "ours", "spacys"),
    [
        (
            "The man's left-hand/right side, (no. 2)!",
            "the mans left hand right side no 2",
            "the man 's left - hand / right side , ( no . 2 ) !",
        ),
        (
            'Ünder "the"  #1 tree; half-dressed*?',
            "ünder the 1 tree half dressed",
            'ünder " the " # 1 tree ; half - dressed * ?',
        ),
        ("...", "", "..."),
        ("人 on left: it ' s", "人 on left it s", "人 on left : it ' s"),
    ],
)
def test_phrases_are_split_into_the_words_they_were(sentence, ours, spacys):
    for tokenizer, words in (("simrec", ours.split()), ("spacy:en", spacys.split())):
        vocabulary = Vocabulary(("PAD", "UNK", "CLS", "the"), tokenizer)
        assert vocabulary.tokens(sentence) == words
        ids = [3 if word == "the" else 1 for word in words[:4]]
        assert vocabulary.encode(sentence, 4) == ids + [0] * (4 - len(ids))


def test_rows_have_the_promised_columns():
    from rec.data.schema import FEATURES

    assert not (lines := broken(PROMISED["row"], {name: str(kind) for name, kind in FEATURES.items()}, "row")), lines


# ---- runs


def train(place: Path, *arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    environment |= {"HF_DATASETS_CACHE": str(place / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"scripts/train.py {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_a_config_of_then_trains_two_updates_to_the_weights_and_losses_of_then(place):
    numbers, _ = measure.run_content(CORPUS / "run", "step_00000002")
    train(place, "own_config.py", "train.output_dir=fresh")
    assert_kept("run/step_00000002", measure.run_content(place / "fresh", "step_00000002"), numbers)


def test_a_run_of_then_is_continued_to_the_weights_and_losses_of_then(place):
    assert_kept("run/step_00000002", measure.run_content(place / "run", "step_00000002"))
    shutil.copytree(place / "run", place / "continued" / "run")
    (place / "continued" / "tables").symlink_to(place / "tables")
    train(place / "continued", "run/config.yaml", "train.train_iter=4")
    assert_kept("run/step_00000004", measure.run_content(place / "continued" / "run", "step_00000004"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run", ["run", "--splits", "val", "train"]),
        ("checkpoint", ["run/checkpoints/step_00000002", "--splits", "val"]),
        ("trained", ["models/simrec_trained", "--config", "own_config.py", "--splits", "train"]),
        ("boxes_alone", ["models/simrec_lstm", "--config", "own_config.py", "--splits", "val", "dataset.with_masks=false"]),
        ("raw", ["models/mcn_original_arithmetic", "--config", "own_config.py", "--splits", "val", "dataset.dataset=raw",
                 "+dataset.ann_path.raw=tables/raw"]),
    ],
)  # fmt: skip
def test_an_evaluation_gives_the_predictions_and_metrics_it_gave(place, monkeypatch, tmp_path, name, arguments):
    run_script(monkeypatch, "evaluate.py", *arguments, "--out", tmp_path)
    old, new = place / "predictions" / name, tmp_path
    lines = records_broken(old / "predictions.jsonl", new / "predictions.jsonl")
    lines += broken(
        *(rounded(json.loads((at / "metrics.json").read_text(encoding="utf-8"))) for at in (old, new)), "metrics"
    )
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:20])


@pytest.mark.parametrize("name", ["run", "checkpoint", "trained", "boxes_alone", "raw"])
def test_old_predictions_have_their_keys_and_the_metrics_that_were_computed_from_them(name):
    lines = (CORPUS / "predictions" / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    metrics = json.loads((CORPUS / "predictions" / name / "metrics.json").read_text(encoding="utf-8"))
    splits = {record.get("split") or next(iter(metrics)) for record in records}
    kinds = measured_kinds()
    for split in splits:
        of_split = [record for record in records if record.get("split", split) == split]
        found = {split: summarize_records(of_split)}
        if name != "raw":
            found |= {f"{split}/{kind}": row for kind, row in breakdown(of_split, kinds).items()}
        old = {key: row for key, row in metrics.items() if key.partition("/")[0] == split}
        assert not (differences := broken(rounded(old), rounded(found), name)), differences
    if name == "run":
        gone = set(PROMISED["prediction"]) - set(records[0]) or set(PROMISED["metrics"]) - set(metrics["val"])
        assert not gone, f"promised keys are gone: {gone}"


def measured_kinds():
    from rec.data.scenes import phrase_kind

    return lambda record: phrase_kind(record["sentence"])


def test_predictions_on_pictures_are_those_of_then(place, monkeypatch, tmp_path):
    images = [f"images/{name}" for name in measure.IMAGES]
    run_script(
        monkeypatch,
        "predict.py",
        "models/mcn_small",
        *images,
        *PHRASES,
        "--jsonl",
        tmp_path / "answers.jsonl",
        "--device",
        "cpu",
    )
    lines = records_broken(place / "predictions" / "answers.jsonl", tmp_path / "answers.jsonl")
    assert not lines, lines
    answer = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(PROMISED["answer"]) <= set(answer)


def test_curves_are_drawn_from_an_old_run(place, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    run_script(monkeypatch, "plot_metrics.py", "run", "--out", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_an_exported_file_says_of_itself_what_was_promised(tmp_path):
    model, config, vocabulary = model_folder.read(CORPUS / "models" / "simrec_one_scale")
    export.export(model, config, vocabulary, tmp_path / "model.pt2", kind="torch")
    run, about = export.load(tmp_path / "model.pt2")
    assert not (gone := set(PROMISED["export"]) - set(about)), f"an exported file no longer says its {gone}"
    image, tokens = export.example_inputs(64, 6, len(vocabulary), 2)
    assert {"box", "score"} <= run(image.numpy(), tokens.numpy()).keys()


def records_broken(old: Path, new: Path) -> list[str]:
    """Two files of predictions: numbers within the tolerance, masks on the same machine type, all else exactly."""
    loose = ("box", "target", "iou", "score")
    masks = () if SAME_MACHINE else ("mask", "mask_intersection", "mask_union")
    sides = [[json.loads(line) for line in at.read_text(encoding="utf-8").splitlines()] for at in (old, new)]
    if len(sides[0]) != len(sides[1]):
        return [f"{new.name}: {len(sides[1])} lines, promised {len(sides[0])}"]
    lines = []
    for number, (was, now) in enumerate(zip(*sides, strict=True)):
        where = f"{new.name}, line {number + 1}"
        plain = {key: value for key, value in was.items() if key not in (*loose, *masks)}
        lines += broken(plain, now, where)
        given = {key: tensor(was[key]) for key in loose if key in was}
        lines += numbers_broken(given, {key: tensor(now[key]) for key in loose if key in now}, where)
    return lines


def tensor(value: Any) -> torch.Tensor:
    return torch.empty(0) if value is None else torch.tensor(value, dtype=torch.float64)


def rounded(value: Any) -> Any:
    """Sums may be taken in another order elsewhere; a count, or a share of a few dozen, is not to change."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value if SAME_MACHINE or not isinstance(value, float) else round(value, 4)


# ---- configs


@pytest.mark.parametrize("path", sorted((CORPUS / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_saved_config_loads_and_passes_the_check(path, monkeypatch):
    run_script(monkeypatch, "train.py", "--check", path)
    old = safe_load_yaml(path)
    assert check(LazyConfig.load(str(path))) == []
    assert set(old) == {"model", "dataset", "optim", "train"}


def test_saved_configs_describe_the_models_and_schedules_they_did():
    assert_kept("configs", measure.config_content())


def test_a_config_of_ones_own_says_what_it_said(place, tmp_path):
    cfg = LazyConfig.load("own_config.py")
    cfg.model.language_encoder.token_size = len(json.loads((place / "vocab.json").read_text(encoding="utf-8"))["words"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    lines = broken(
        safe_load_yaml(place / "run" / "config.yaml"), safe_load_yaml(tmp_path / "config.yaml"), "own_config.py"
    )
    assert not lines, lines


@pytest.mark.parametrize("namespace", PROMISED["config"])
def test_common_config_keys_and_their_defaults_stay(namespace, tmp_path):
    LazyConfig.save(get_config(f"common/{namespace}.py"), str(tmp_path / "config.yaml"))
    now = compat_names.keys(safe_load_yaml(tmp_path / "config.yaml")[namespace])
    old = PROMISED["config"][namespace]
    assert not (lines := broken(old, now, f"configs/common/{namespace}.py")), "\n".join(lines)


@pytest.mark.parametrize("name", PROMISED["configs"])
def test_shipped_configs_keep_their_names(name):
    assert get_config(name)


def test_launch_profiles_keep_their_names():
    gone = [name for name in PROMISED["launch profiles"] if not (ROOT / "accelerate_configs" / name).is_file()]
    assert not gone, f"accelerate_configs/ no longer has {gone}"


# ---- names


def signature_broken(old: dict[str, list[Any]], new: dict[str, list[Any]], where: str) -> list[str]:
    """Promised parameters are there, in their order, with their defaults; what is new is optional and stands behind."""
    lines = []
    for name, (how, default) in old.items():
        if name not in new:
            lines.append(f"{where}: parameter {name!r} is gone")
            continue
        if new[name][0] not in (how, "any"):
            lines.append(
                f"{where}: parameter {name!r} can no longer be given by {'keyword' if how != 'position' else 'position'}"
            )
        if new[name][1] != default:
            lines.append(f"{where}: the default of {name!r} was {default!r} and is {new[name][1]!r}")
    before, after = ([name for name, (how, _) in side.items() if how != "keyword"] for side in (old, new))
    if after[: len(before)] != before and not lines:
        lines.append(f"{where}: parameters by position were {before}, they are {after}")
    added = [name for name in new if name not in old and new[name][1] == compat_names.REQUIRED]
    return lines + ([f"{where}: new parameters without a default: {added}"] if added else [])


def without_self(target: Any) -> dict[str, list[Any]]:
    return {name: value for name, value in compat_names.parameters(target).items() if name != "self"}


@pytest.mark.parametrize("module", PROMISED["python"])
def test_promised_names_resolve_and_take_what_they_took(module):
    found = importlib.import_module(module)
    lines = []
    for name, promise in PROMISED["python"][module].items():
        where, value = f"{module}.{name}", getattr(found, name, None)
        if value is None:
            lines.append(
                f"{where} is gone; where it moved, its old name is to keep working (with a DeprecationWarning)"
            )
            continue
        if "parameters" in promise:
            lines += signature_broken(promise["parameters"], without_self(value), where)
            # The same through a config: a saved one holds the dotted name.
            if not where.startswith("rec.evaluation.evaluate") and instantiate({"_object_": where}) is not value:
                lines.append(f"{where} means something else in a config")
        for method, parameters in promise.get("methods", {}).items():
            if getattr(value, method, None) is None:
                lines.append(f"{where}.{method} is gone")
            else:
                lines += signature_broken(parameters, without_self(getattr(value, method)), f"{where}.{method}")
        if "value" in promise:
            lines += broken(promise["value"], compat_names.plain(value), where)
        if "exception" in promise and not (isinstance(value, type) and issubclass(value, Exception)):
            lines.append(f"{where} is no exception any more")
    assert not lines, "\n".join(lines)


def test_objects_have_their_promised_attributes(place):
    promised = PROMISED["attributes"]
    grounder = rec.from_pretrained(CORPUS / "models" / "mcn_small", device="cpu")
    objects = {
        "grounder": grounder,
        "answer": grounder(CORPUS / "images" / "wide.png", "the circle"),
        "vocabulary": grounder.vocabulary,
        "backbone": grounder.model.visual_backbone,
        "stream": measure.streamed_split("tables/embedded", vocabulary="vocab.json"),
    }
    gone = [f"{what}.{name}" for what, value in objects.items() for name in promised[what] if not hasattr(value, name)]
    assert not gone, f"promised attributes are gone: {gone}"


@pytest.mark.parametrize("script", PROMISED["scripts"])
def test_scripts_take_the_options_they_took(script):
    old, new = PROMISED["scripts"][script], compat_names.options(script)
    lines = []
    for name, promise in old.items():
        where = f"scripts/{script} {name}"
        if name not in new:
            lines.append(f"{where} is gone")
            continue
        now = new[name]
        for key in ("takes", "default"):
            optional_now = key == "takes" and name.startswith("(") and (promise[key], now[key]) == (None, "?")
            if now[key] != promise[key] and not optional_now:
                lines.append(f"{where}: {key} was {promise[key]!r} and is {now[key]!r}")
        if gone := set(promise["choices"] or ()) - set(now["choices"] or promise["choices"] or ()):
            lines.append(f"{where} no longer takes {sorted(gone)}")
        if now["choices"] and not promise["choices"]:
            lines.append(f"{where} took anything, now only {now['choices']}")
        if now["required"] and not promise["required"]:
            lines.append(f"{where} has become required")
    lines += [
        f"scripts/{script} {name} is new and required" for name in new if name not in old and new[name]["required"]
    ]
    positional = [[name for name in side if name.startswith("(")] for side in (old, new)]
    if positional[1][: len(positional[0])] != positional[0]:
        lines.append(f"scripts/{script}: arguments by position were {positional[0]}, they are {positional[1]}")
    assert not lines, "\n".join(lines)
