"""What is fuzzed: for each reader good files, how they are spoilt, and everything that reads them."""

import csv
import io
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mutations
import numpy as np
import yaml

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("data", "inference", "training")]


class Nonsense(Exception):
    """What was read is wrong, and nobody said so."""


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        seed: writes good files into a folder.
        spoil: changes some of them, in a copy of that folder.
        read: reads all of it, as far as the scripts would; returns what was skipped, and why.
    """

    seed: Callable[[Path], None]
    spoil: Callable[[Path, Random], None]
    read: Callable[[Path], list[str]]


def spoil(folder: Path, rng: Random) -> None:
    """Changes one or two files, each by its kind."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in KEPT_GOOD)
    rare = (".jpg", ".png", ".u8", ".bin")
    weights = [0.2 if path.suffix in rare else 1.0 for path in files]
    for path in dict.fromkeys(rng.choices(files, weights, k=rng.choice((1, 1, 1, 2)))):
        path.write_bytes(spoilt(path.suffix, path.read_bytes(), rng))


KEPT_GOOD = {"good.jpg", "good.png", "a.jpg"}


def spoilt(suffix: str, data: bytes, rng: Random) -> bytes:
    """The content of a file of some kind, changed."""
    if suffix in (".jpg", ".png", ".arrow", ".parquet", ".u8", ".bin", ".pkl", ".npy") or rng.random() < 0.1:
        data = mutations.change_bytes(data, rng)
        return mutations.mend_png(data) if suffix == ".png" and rng.random() < 0.7 else data
    if suffix == ".safetensors":
        return spoilt_weights(data, rng)
    if suffix == ".p":
        return mutations.change_pickle(data, rng)
    text = data.decode("utf-8")
    if suffix == ".json":
        return mutations.encoded(mutations.to_json(mutations.change(json.loads(text), rng), rng), rng)
    if suffix == ".jsonl":
        rows = mutations.change([json.loads(line) for line in text.splitlines()], rng)
        lines = [mutations.to_json(row, rng).replace("\n", " ") for row in (rows if isinstance(rows, list) else [rows])]
        return mutations.encoded("\n".join(lines), rng)
    if suffix == ".csv":
        rows = mutations.change(list(csv.reader(text.splitlines())), rng)
        stream = io.StringIO()
        kinds = {"quoting": rng.choice((csv.QUOTE_ALL, csv.QUOTE_MINIMAL)), "delimiter": rng.choice(",,,,;")}
        lines = rows if isinstance(rows, list) else [rows]
        csv.writer(stream, **kinds).writerows(line if isinstance(line, list) else [line] for line in lines)
        return mutations.encoded(stream.getvalue(), rng)
    if suffix == ".yaml" and rng.random() < 0.6:
        changed = mutations.change(yaml.load(text, yaml.CSafeLoader), rng)
        try:
            return mutations.encoded(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True), rng)
        except (yaml.YAMLError, UnicodeError):
            return mutations.encoded(mutations.to_json(changed, rng), rng)
    return mutations.encoded(mutations.change_text(text, rng), rng)


def spoilt_weights(data: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, or with numbers that are none."""
    length = int.from_bytes(data[:8], "little")
    header, content = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.6:
        header = mutations.to_json(mutations.change(json.loads(header), rng), rng).encode("utf-8", "surrogatepass")
        length = len(header) if rng.random() < 0.9 else rng.choice((0, 2**62, 2**63, len(header) + 1, 2**32))
    if rng.random() < 0.5:
        content = mutations.change_bytes(content, rng)
    return (length % 2**64).to_bytes(8, "little") + header + content


# Annotations -----------------------------------------------------------------------------------------------------------


def prepared(folder: Path, spec: Any, **places: Any) -> list[str]:
    """Prepares a source and uses what comes of it; stores and ways of refusal by turns, as the content falls."""
    from rec.data.prepare import STORES, prepare, report_of
    from rec.data.tables import open_source

    print_of = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print_of = zlib.crc32(path.read_bytes(), print_of)
    source = open_source(spec, **places)
    options: dict[str, Any] = {
        "store": STORES[print_of % 4],
        "size": 48,
        "parquet": print_of & 4 > 0,
        "progress": False,
    }
    with_masks = print_of & 8 > 0
    way = "raise" if print_of % 5 == 0 else "skip"
    info = prepare(source, folder / "out", with_masks=with_masks, on_bad_record=way, **options)
    for split in info["splits"]:
        if info["splits"][split]["rows"]:
            try:
                report = report_of(info, split)
                targets = "any" if report.none or report.several else "one"
                use_table(folder / "out", split, training=print_of & 16 > 0, targets=targets)
            except Exception as error:
                raise Nonsense(f"preparation is done, and then: {type(error).__name__}: {error}") from error
    return [text for split in info["splits"] for text in report_of(info, split).examples.values()]


def use_table(folder: Path, split: str, training: bool, with_masks: bool = False, targets: str = "one") -> None:
    """Reads samples as training or evaluation would, and looks at them."""
    from rec.data.dataset import RefCOCODataSet
    from rec.data.text import Vocabulary

    options: dict[str, Any] = {"training": training, "flip_lr": training, "with_masks": with_masks, "targets": targets}
    if split != "train":
        options["vocabulary"] = Vocabulary.build(["a red box"])
    data = RefCOCODataSet("mine", str(folder), input_shape=(32, 32), split=split, **options)
    assert data.fingerprint and data.image_groups().shape == (len(data),) and isinstance(data.content, str)
    for number in range(min(len(data), 6)):
        sample = data[(0, number)]
        for x, y, w, h in sample["boxes"].tolist() if targets == "any" else [sample["box"].tolist()]:
            if not (all(map(math.isfinite, (x, y, w, h))) and w > 0 and h > 0):
                raise Nonsense(f"sample {number} of split {split} has the box {x, y, w, h}")
        assert sample["image"].shape == (3, 32, 32)
        data.describe(number)
    data.collate([data[number] for number in range(min(len(data), 2))])


def seed_refer(folder: Path) -> None:
    from data_toys import make_refer

    make_refer(folder, splits=("train", "testAB"))


def read_refer(folder: Path) -> list[str]:
    return prepared(folder, str(folder / "refcoco"), name="refcoco")


def draw(folder: Path, *names: str, size: tuple[int, int] = (60, 40)) -> None:
    from data_toys import write_image

    for number, name in enumerate(names):
        write_image(folder / name, *size, [5, 5, 20, 20], seed=number)


def seed_simrec(folder: Path) -> None:
    images = [f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)]
    draw(folder, *images)
    (folder / "masks").mkdir()
    np.save(folder / "masks" / "5.npy", np.eye(40, 60, dtype=np.uint8))
    item = {"iid": 1, "bbox": [5.0, 5.0, 20.0, 20.0], "cat_id": 3, "refs": ["the red box", "left box"], "mask_id": 5}
    val = [item | {"iid": 2, "refs": [text], "mask_id": 6} for text in item["refs"]]
    items = {"train": [item, item | {"iid": 2, "mask_id": 7}], "val": val}
    (folder / "refcoco.json").write_text(json.dumps(items), encoding="utf-8")
    other = {
        "bbox": [5, 5, 20, 20],
        "refs": ["a box"],
        "iid": "2.jpg",
        "data_source": "coco",
        "url": "http://x/a/1.jpg",
    }
    (folder / "merge.json").write_text(
        json.dumps({"train": [other, other | {"iid": 1}], "val": [other]}), encoding="utf-8"
    )


def read_simrec(folder: Path) -> list[str]:
    places = {"image_path": str(folder), "mask_path": str(folder / "masks")}
    name = "merge" if zlib.crc32((folder / "merge.json").read_bytes()) % 3 else "refcoco"
    return prepared(folder, str(folder / f"{name}.json"), name=name, **places)


def seed_tabular(folder: Path) -> None:
    draw(folder, "good.jpg", "b.jpg")
    mask = [[5, 5, 25, 5, 25, 25]]
    rows: list[Any] = [{"image": "good.jpg", "phrase": "red box", "bbox": [5, 5, 20, 20], "mask": mask, "ref_id": "a"}]
    more = {"image": "b.jpg", "phrase": ["the box", "x"], "bbox": "5 5 20 20", "image_id": 3, "category": "c"}
    rows.append(more | {"split": "val"})
    (folder / "l").mkdir()
    (folder / "l" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = ["image,phrase,bbox,split,mask", "good.jpg,a box,5 5 20 20,train,", 'b.jpg,b,"5,5,20,20",val,']
    (folder / "c.csv").write_text("\n".join(lines))


def read_tabular(folder: Path) -> list[str]:
    odd = zlib.crc32((folder / "c.csv").read_bytes() + (folder / "l" / "train.jsonl").read_bytes())
    path = [folder / "l" / "train.jsonl", folder / "c.csv", folder / "l"][odd % 3]
    spec = {"path": str(path), "bbox_format": ("xywh", "xywh", "xyxy")[odd // 3 % 3]}
    return prepared(folder, spec, name="mine", image_path=str(folder))


def seed_visual_genome(folder: Path) -> None:
    from data_toys import make_visual_genome

    make_visual_genome(folder)


def read_visual_genome(folder: Path) -> list[str]:
    return prepared(folder, str(folder), name="vg")


def seed_flickr30k(folder: Path) -> None:
    from data_toys import make_flickr

    make_flickr(folder)


def read_flickr30k(folder: Path) -> list[str]:
    return prepared(folder, str(folder), name="flickr", image_path=str(folder / "images"))


def seed_coco(folder: Path) -> None:
    from data_toys import coco

    draw(folder, "a.jpg", "b.jpg", size=(120, 90))
    (folder / "x.json").write_text(json.dumps(coco()), encoding="utf-8")


def read_coco(folder: Path) -> list[str]:
    return prepared(folder, {"path": str(folder / "x.json"), "columns": {}}, name="mine", image_path=str(folder))


def seed_label_studio(folder: Path) -> None:
    from data_toys import PERCENT, SIZE, task

    draw(folder, "a.jpg", "b.jpg", size=(120, 90))
    tasks = [task(), task("/data/local-files/?d=b.jpg")]
    tasks[1]["data"]["split"] = "val"
    (folder / "full.json").write_text(json.dumps(tasks), encoding="utf-8")
    boxes = [PERCENT | SIZE] * 2
    least = {"image": "s3://x/a.jpg", "id": 1, "label": boxes, "caption": ["a box", {"text": ["b", "c"]}]}
    records = [least | {"annotation_id": 1}, least | {"annotation_id": 2, "label": boxes[:1], "caption": "box"}]
    (folder / "min.json").write_text(json.dumps(records), encoding="utf-8")


def read_label_studio(folder: Path) -> list[str]:
    name = "full" if zlib.crc32((folder / "full.json").read_bytes()) % 2 else "min"
    return prepared(folder, str(folder / f"{name}.json"), name="mine", image_path=str(folder))


def seed_conversations(folder: Path) -> None:
    from data_toys import ASK, talk

    draw(folder, "good.jpg", "b.jpg")
    turns = [ASK.format("the red box"), "[0.1, 0.125, 0.4, 0.6]", "Where is <ref>a box</ref>?"]
    turns += ['{"bbox_2d": [0.1, 0.1, 0.5, 0.5]}', "And a dog?", "no"]
    asked = [{"type": "image", "image": "b.jpg"}, {"type": "text", "text": "Describe it."}]
    told = ["<ref>A box</ref><box>(0.1,0.2),(0.5,0.9)</box> and <ref>fog</ref>.", "```json\n[]\n```"]
    said = zip(("user", "assistant") * 2, (asked, told[0], "Find the cat now", told[1]), strict=True)
    messages = [{"role": role, "content": content} for role, content in said]
    records = [talk(*turns, image="good.jpg"), {"messages": messages, "split": "val"}]
    (folder / "t.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read_conversations(folder: Path) -> list[str]:
    odd = zlib.crc32((folder / "t.json").read_bytes() + (folder / "t.jsonl").read_bytes())
    spec: dict[str, Any] = {"path": str(folder / ("t.json", "t.jsonl")[odd % 2]), "prompt": "Find {} now"}
    spec["coordinates"] = ("0-1", "0-1", "0-1", "0-1000", "pixel", "florence", "letterboxed:48", "9x7")[odd // 2 % 8]
    return prepared(folder, spec, name="mine", image_path=str(folder))


# Tables ----------------------------------------------------------------------------------------------------------------


def seed_foreign(folder: Path) -> None:
    draw(folder, "good.jpg")


def column(name: str, folder: Path, rng: Random) -> list[Any]:
    """Two values of a column, of one of the types that such a column may have."""
    data = (folder / "good.jpg").read_bytes()
    inside, box = {"path": None, "bytes": data}, [5, 5, 20, 20]
    kinds: dict[str, list[Any]] = {
        "image": ["good.jpg", str(folder / "good.jpg"), data, inside, {"path": "good.jpg", "bytes": None}],
        "bbox": [box, [float(value) for value in box], "5 5 20 20", {"x": 5, "y": 5}, [box[:2], box[2:]]],
        "sentences": ["red box", ["a box", "b"], [{"sent": "red box"}], [{"raw": "red box", "sent": None}], [None]],
        "boxes": [[box, box], [box], [], [[]], "5 5 20 20", [box[:3]]],
        "masks": [[inside], [data, data], ["good.jpg"], [], [{"size": [40, 60], "counts": "0"}]],
        "mask": [data, inside, [5.0, 5.0, 20.0, 5.0, 20.0, 20.0], {"size": [40, 60], "counts": "0"}],
        "ref_id": ["a", 7, 7.5, [1], {"a": 1}],
    }
    first = rng.choice(kinds[name]) if rng.random() < 0.8 else mutations.odd(rng)
    return [first, rng.choice((first, first, None, mutations.change([first], rng, 1)))]


def spoil_foreign(folder: Path, rng: Random) -> None:
    """Draws a table of any columns, saves it in any way, and at times spoils its files too."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import Dataset

    names = ["image", rng.choice(("bbox", "bbox", "boxes")), "sentences"]
    names += rng.sample(["mask", "ref_id", "masks"], rng.randrange(3))
    values = {name: column(name, folder, rng) for name in names}
    if rng.random() < 0.3:  # rows that list objects, flat or in structs
        entries = [{name: values[name][n] for name in names[1:]} for n in range(2)]
        entries = [{"a_info": entry, "ref_info": entry} for entry in entries] if rng.random() < 0.3 else entries
        listed = rng.choice((entries, entries[:1], [], None, [*entries, None], entries[0]))
        names = ["image", rng.choice(("samples", "ref_list"))]
        values[names[1]] = [listed, listed]
    columns: dict[str, Any] = {}
    for name in names:
        try:
            columns[name] = pa.array(values[name])
        except (pa.ArrowException, UnicodeError, OverflowError, ValueError, TypeError, RecursionError):
            columns[name] = pa.array(["x", None])
        if rng.random() < 0.1 and pa.types.is_string(columns[name].type):
            columns[name] = columns[name].dictionary_encode()
    schema = pa.schema({name: array.type for name, array in columns.items()})
    if rng.random() < 0.3:  # the library reads its own types from the file's metadata
        kinds = ["Image", "Audio", "Video", "ClassLabel", "Value", "List", "LargeList", "Array2D", "Json", "Pdf"]
        features: Any = {name: {"_type": rng.choice(kinds)} for name in names}
        features = mutations.change({"info": {"features": features}}, rng, 2)
        schema = schema.with_metadata({"huggingface": mutations.to_json(features, rng).encode("utf-8", "replace")})
    table = pa.table(list(columns.values()), schema=schema)
    if rng.random() < 0.5:
        kinds = {"compression": rng.choice(("snappy", "zstd", "gzip", "none")), "row_group_size": rng.choice((1, 10))}
        try:
            parquet.write_table(table, folder / "t.parquet", **kinds)
        except pa.ArrowException:  # a group without fields
            parquet.write_table(pa.table({"image": ["good.jpg"]}), folder / "t.parquet")
    else:
        try:
            Dataset(table).save_to_disk(str(folder / "t"))
        except Exception:  # not a table that can be saved
            Dataset.from_dict({"image": ["good.jpg"], "x": [1]}).save_to_disk(str(folder / "t"))
    if rng.random() < 0.4:
        spoil(folder, rng)


def read_foreign(folder: Path) -> list[str]:
    path = folder / "t" if (folder / "t").is_dir() else folder / "t.parquet"
    coordinates = (None, None, "0-1", "letterboxed:48")[
        sum(file.stat().st_size for file in path.parent.rglob("t*")) % 4
    ]
    spec = {"path": str(path), "bbox_format": "xywh", "coordinates": coordinates}
    return prepared(folder, spec, name="mine", image_path=str(folder))


def seed_prepared(folder: Path) -> None:
    from rec.data.prepare import prepare
    from rec.data.sources.tabular import open_tabular

    seed_tabular(folder)
    parquet = {"store": "embedded", "parquet": True}
    for name, options in {"arrow": {}, "raw": {"store": "raw", "size": 32}, "parquet": parquet}.items():
        source = open_tabular(folder / "l" / "train.jsonl", "mine", str(folder), "xywh")
        prepare(source, folder / name, progress=False, on_bad_record="skip", **options)


def spoil_prepared(folder: Path, rng: Random) -> None:
    spoil(folder / rng.choice(("arrow", "raw", "parquet")), rng)


def read_prepared(folder: Path) -> list[str]:
    from rec.errors import RecError

    told = []
    for name in ("arrow", "raw", "parquet"):
        for training in (True, False):
            try:
                use_table(folder / name, "train", training, with_masks=training)
            except RecError as error:
                told.append(str(error))
            except ValueError as error:
                if "have no mask" not in str(error):
                    raise
    return told


# Configs, models, checkpoints --------------------------------------------------------------------------------------------


def seed_config(folder: Path) -> None:
    from rec.config import LazyConfig

    cfg = LazyConfig.load(TESTS.parent / "configs" / "simrec_small_scenes_quickstart.py")
    LazyConfig.save(cfg, folder / "x.yaml")
    words = "train.seed=3 dataset.flip_lr=true +a.b=[1,{c:d}] ~optim.weight_decay train.data.mean=[0,0,0] model.head.act=silu"
    (folder / "overrides.txt").write_text(words.replace(" ", "\n"))


def read_yaml_config(folder: Path) -> list[str]:
    """What train.py --check, print_config.py, and the first lines of a training do with it."""
    import torch

    from rec.config import LazyConfig, diff, instantiate, without_interpolations
    from rec.errors import RecError
    from rec.model_folder.allowed import ALLOWED_TARGETS
    from rec.training import build, schedules

    told = []
    words = (folder / "overrides.txt").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    for overrides in ([], words):
        try:
            loaded = LazyConfig.apply_overrides(LazyConfig.load(folder / "x.yaml"), overrides)
            plain = without_interpolations(loaded)
            LazyConfig.to_py(plain)
            diff(plain, LazyConfig.load(folder / "x.yaml"))
            cfg = build.read_training_config(str(folder / "x.yaml"), overrides)
            LazyConfig.save(cfg, folder / "saved.yaml")
            if cfg != LazyConfig.load(folder / "saved.yaml"):
                raise Nonsense("the saved config is another one")
            schedules.from_config(cfg.train, 100, 10)(5)
            build.build_optimizer(cfg, torch.nn.Linear(2, 2))
            with torch.device("meta"):
                instantiate(cfg.model, ALLOWED_TARGETS)
        except RecError as error:
            told.append(str(error))
    return told


def seed_model_folder(folder: Path) -> None:
    from inference_toy import write_folder

    write_folder(folder / "best")
    (folder / "best" / "digests.json").unlink()  # each change would be refused by it, and by nothing else
    draw(folder, "good.jpg")


def spoil_model_folder(folder: Path, rng: Random) -> None:
    spoil(folder / "best", rng)


def read_model_folder(folder: Path) -> list[str]:
    import rec
    from rec.model_folder.card import model_card
    from rec.model_folder.find import find_trained
    from rec.model_folder.format import describe_origin, read_folder_config

    trained = find_trained(folder)
    config = read_folder_config(trained.folder / "config.yaml")
    model_card(config, {}, describe_origin(config), "x")
    answer = rec.from_pretrained(trained.folder)(folder / "good.jpg", "the red circle")
    if not (all(map(math.isfinite, answer.box)) and math.isfinite(answer.score)):
        raise Nonsense(f"the answer is {answer.box}, {answer.score}")
    return []


def seed_checkpoint(folder: Path) -> None:
    from checkpoint_toy import Run

    run = Run(folder / "run", width=4)
    for _ in range(2):
        run.step()
        run.save()
    lines = [
        {"kind": "train", "update": 1, "loss": 1.0},
        {"kind": "evaluation", "update": 2, "split": "val", "mIoU": 0.5},
    ]
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def spoil_checkpoint(folder: Path, rng: Random) -> None:
    """Changes files of the newest checkpoint, and makes the digests right again, so that what is behind them is read."""
    from rec.files import DIGEST, digest
    from rec.training.checkpoint_format import described

    spoil(folder / "run", rng)
    for step in sorted((folder / "run" / "checkpoints").glob("step_*")):
        path = step / "trainer_state.json"
        try:
            state = json.loads(path.read_bytes())
            for name in state["files"]:
                if rng.random() < 0.7 and (step / name).is_file():
                    state["files"][name] = described(step / name)
            text = json.dumps(state | {DIGEST: "0" * 32}, indent=1)
            path.write_text(text.replace("0" * 32, digest(text.encode()), 1), encoding="utf-8")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
            continue  # so spoilt that it has no digests to make right


def read_checkpoint(folder: Path) -> list[str]:
    from checkpoint_toy import Run

    from rec.model_folder.find import find_trained
    from rec.training.run_log import RunLog

    run = Run(folder / "run", width=4)
    state, notes = run.restore()
    RunLog(folder / "run", run.accelerator, {}, state.update).line("on")
    run.step()
    find_trained(folder / "run")
    return notes


# Pictures ----------------------------------------------------------------------------------------------------------------


def pictures() -> Iterator[tuple[str, Callable[[io.BytesIO], None]]]:
    """Suffix, and what writes a small picture of that kind."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (13, 21, 4), np.uint8)
    rgb, rgba, gray = Image.fromarray(noise[..., :3]), Image.fromarray(noise), Image.fromarray(noise[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a"
    turned = {"exif": exif.tobytes()}
    many = {"save_all": True, "append_images": [gray.convert("RGB")]}
    sixteen = Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    floats = Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    kinds: dict[str, list[tuple[Any, dict[str, Any]]]] = {
        "JPEG": [
            (rgb, turned),
            (rgb, {"progressive": True}),
            (rgb.convert("CMYK"), {}),
            (gray, {"xmp": b"<x:xmpmeta/>"}),
        ],
        "PNG": [(rgb, turned), (rgba, {}), (rgb.quantize(5), {}), (sixteen, {}), (gray.convert("1"), {}), (rgb, many)],
        "WEBP": [(rgb, turned), (rgba, {"lossless": True}), (rgb, many)],
        "GIF": [(rgb.quantize(9), {}), (rgb, many)],
        "BMP": [(rgb, {}), (rgb.quantize(4), {})],
        "TIFF": [(rgb, {"compression": f"tiff_{name}"}) for name in ("lzw", "adobe_deflate")]
        + [
            (rgb, {"compression": "jpeg"}),
            (rgb, turned),
            (floats, {}),
            (sixteen, {}),
            (rgb, many),
            (gray.convert("1"), {"compression": "group4"}),
        ],
        "PPM": [(rgb, {}), (gray, {})],
    }
    for kind, variants in kinds.items():
        for image, options in variants:
            yield (
                f".{kind.lower()}",
                lambda file, image=image, kind=kind, options=options: image.save(file, kind, **options),
            )
    yield ".npy", lambda file: np.save(file, noise[..., 0] > 99)
    yield ".npy", lambda file: np.save(file, np.asfortranarray(noise[..., 0].astype(np.float32)))


def spoil_picture(folder: Path, rng: Random) -> None:
    """One file of the folder, of a kind that is drawn."""
    suffix, write = rng.choice(PICTURES)
    stream = io.BytesIO()
    write(stream)
    data = mutations.change_bytes(stream.getvalue(), rng)
    (folder / f"x{suffix}").write_bytes(mutations.mend_png(data) if suffix == ".png" and rng.random() < 0.7 else data)


PICTURES = list(pictures())


def read_pictures(folder: Path) -> list[str]:
    """Every way in: as a picture in Python, its size alone at preparation, as a mask."""
    from rec.data import masks
    from rec.data.images import decode_image, image_size
    from rec.errors import RecError
    from rec.inference.inputs import to_pixels

    told: list[str] = []

    def way(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except RecError as error:
            told.append(str(error))
        except ValueError as error:  # of masks: the caller makes them bad records
            if read not in ways[3:]:
                raise
            told.append(str(error))
        return None

    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        data = path.read_bytes()
        ways: list[Callable[[], Any]] = [
            lambda path=path: decode_image(path),
            lambda path=path: image_size(path),
            lambda data=data: to_pixels(data)[0],
            lambda path=path: masks.encode(masks.read(path, 13, 21)),
            lambda data=data: masks.encode(masks.read(data, 13, 21)),
        ]
        pixels, size, given, *_ = [way(read) for read in ways]
        if pixels is not None and (pixels.dtype != np.uint8 or size != pixels.shape[1::-1]):
            raise Nonsense(f"{path.name}: decoded it is {pixels.shape[1::-1]}, preparation says {size}")
        if (pixels is None) != (given is None) or (pixels is not None and not np.array_equal(pixels, given)):
            raise Nonsense(f"{path.name} is another picture from a file than from bytes")
    return told


def nothing(_: Path) -> None:
    pass


READERS: dict[str, Reader] = {
    "refer": Reader(seed_refer, spoil, read_refer),
    "simrec_json": Reader(seed_simrec, spoil, read_simrec),
    "tabular": Reader(seed_tabular, spoil, read_tabular),
    "foreign": Reader(seed_foreign, spoil_foreign, read_foreign),
    "visual_genome": Reader(seed_visual_genome, spoil, read_visual_genome),
    "flickr30k": Reader(seed_flickr30k, spoil, read_flickr30k),
    "coco": Reader(seed_coco, spoil, read_coco),
    "label_studio": Reader(seed_label_studio, spoil, read_label_studio),
    "conversations": Reader(seed_conversations, spoil, read_conversations),
    "prepared": Reader(seed_prepared, spoil_prepared, read_prepared),
    "config": Reader(seed_config, spoil, read_yaml_config),
    "model_folder": Reader(seed_model_folder, spoil_model_folder, read_model_folder),
    "checkpoint": Reader(seed_checkpoint, spoil_checkpoint, read_checkpoint),
    "pictures": Reader(nothing, spoil_picture, read_pictures),
}
