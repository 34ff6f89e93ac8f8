"""The tables of docs/results.md are what scripts/write_results.py makes of the records, and the records are whole."""

import dataclasses
import importlib.util
import json
import re
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
RECORDS = [path for path in sorted((REPOSITORY / "docs" / "results").glob("*.json")) if path.stem != "published"]


sys.path.insert(0, str(REPOSITORY / "scripts"))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_records_give():
    written, writer = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8"), script("write_results")
    filled = writer.fill(written, writer.tables(REPOSITORY / "docs" / "results"))
    assert written == filled, "run: python scripts/write_results.py"
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert readme == writer.fill(readme, writer.summary(REPOSITORY / "docs" / "results")), (
        "run: python scripts/write_results.py"
    )
    for name, figure in writer.figures(REPOSITORY / "docs" / "results").items():
        assert (REPOSITORY / "docs" / "figures" / name).read_text(
            encoding="utf-8"
        ) == figure and f"figures/{name}" in written


def test_a_page_without_marks_for_a_table_is_an_error():
    fill = script("page_tables").fill
    page = "before\n<!-- table one -->\nold\n<!-- end of one -->\nafter\n"
    assert fill(page, {"one": "new"}) == "before\n<!-- table one -->\n\nnew\n\n<!-- end of one -->\nafter\n"
    with pytest.raises(ValueError, match="two"):
        fill(page, {"one": "", "two": ""})


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_tells_how_to_measure_it_again(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["name"] == path.stem and record["date"] and record["machine"] and record["versions"]["torch"]
    assert all(run["commands"] and run["metrics"] for run in record["runs"])


def test_figures_of_several_seeds_are_shown_with_their_spread(tmp_path):
    run = {"metrics": {"val": {"Acc@0.5": 0.5, "mIoU": 0.4}}, "commands": ["x"]}
    other = {"metrics": {"val": {"Acc@0.5": 0.7, "mIoU": 0.4}}, "commands": ["x"]}
    for name, runs in (("recipe_quickstart", [run, run]), ("recipe_iou", [run, other])):
        record = {"date": "2026-01-01", "machine": "m", "versions": {"torch": "2"}, "runs": runs}
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    tables = script("write_results").tables(tmp_path)
    assert "| 60.0 ± 14.1 | +10.0 | 40.0 ± 0.0 |" in tables["recipes"] and "not run" in tables["scenes"]


def test_a_run_keeps_how_far_its_scores_can_be_trusted(tmp_path):
    from rec.evaluation.charts import calibration

    lines = [("val", 0.25, 0.9), ("val", 0.21, 0.1), ("val", 1.0, 0.6), ("test", None, 0.6)]
    file = tmp_path / "predictions.jsonl"
    file.write_text(
        "".join(json.dumps({"split": s, "score": p, "iou": i}) + "\n" for s, p, i in lines), encoding="utf-8"
    )
    found = script("run_results").reliability(file, "val")
    assert found == {"val": [(2, pytest.approx(0.23), 0.5), (1, 1.0, 1.0)]}
    assert f"ECE {2 / 3 * (0.5 - 0.23):.3f}" in calibration(found["val"])
    file.write_text(
        json.dumps({"score": 1.0, "iou": 0.6}) + "\n", encoding="utf-8"
    )  # a single split is not named in its lines
    assert script("run_results").reliability(file, "test") == {"test": [(1, 1.0, 1.0)]}


CAPTIONS = {
    "1": "[/EN#1/animals A black dog] runs on [/EN#2/scene grass] .",
    "2": "[/EN#3/people A man] rides [/EN#4/vehicles a red bike] .",
    "3": "[/EN#5/animals Two dogs] play with [/EN#6/other a frisbee] .",
    "4": "[/EN#7/people The woman] holds [/EN#8/other another guitar] .",
}


@pytest.fixture
def photographs(tmp_path):
    """Four photographs in the layouts that the sets are made of."""
    source, publisher = tmp_path / "photos", tmp_path / "flickr"
    for folder in (source / "images", publisher / "Sentences", publisher / "Annotations"):
        folder.mkdir(parents=True)
    lines = []
    for image, caption in CAPTIONS.items():
        Image.new("RGB", (50, 40)).save(source / "images" / f"{image}.jpg")
        (publisher / "Sentences" / f"{image}.txt").write_text(caption, encoding="utf-8")
        entities = re.findall(r"#(\d+)/\w+ ([^]]*)", caption)
        box = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>61</xmax><ymax>31</ymax></bndbox>"
        objects = "".join(f"<object><name>{e}</name>{box}</object>" * (1 + ("Two" in p)) for e, p in entities)
        size = "<size><width>100</width><height>80</height></size>"
        (publisher / "Annotations" / f"{image}.xml").write_text(
            f"<annotation>{size}{objects}</annotation>", encoding="utf-8"
        )
        lines += [
            {"image": f"{image}.jpg", "image_id": image, "ref_id": e, "phrase": [p], "bbox": [5, 5, 25, 10]}
            for e, p in entities
        ]
    for split in ("train", "val", "test"):
        (source / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        (publisher / f"{split}.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    with tarfile.open(source / "flickr30k_entities_annotations.tar.xz", "w:xz") as archive:
        archive.add(publisher, "flickr")
    return source


def read(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_teacher_and_its_student_share_no_photograph(photographs, tmp_path, monkeypatch):
    from rec.errors import InputError

    sets = script("photo_sets")
    monkeypatch.setattr(sets, "TRUE_OBJECTS", 1)
    sets.make("halves", photographs, tmp_path / "out")
    teachers, few = (
        {line["image_id"] for line in read(tmp_path / f"out/{name}/train.jsonl")} for name in ("half", "few")
    )
    asked = {Path(line["image"]).stem: line for line in read(tmp_path / "out/pairs.jsonl")}
    assert len(teachers) == 2 and len(few) == len(asked) == 1 and teachers | few | {*asked} == {*CAPTIONS}
    assert all(set(line) == {"image", "phrase"} for line in asked.values())
    with pytest.raises(InputError, match=r"nowhere has no train\.jsonl: --photos names"):
        sets.make("halves", tmp_path / "nowhere", tmp_path / "other")


def test_what_cannot_be_read_of_the_photographs_is_told(photographs, tmp_path, monkeypatch, capsys):
    from rec.data.schema import BadRecord
    from rec.errors import InputError

    sets = script("photo_sets")
    reader = sets.open_flickr30k

    def with_a_bad_record(*given):
        source = reader(*given)
        return dataclasses.replace(source, read=lambda split: [BadRecord("broken XML", "7.xml"), *source.read(split)])

    monkeypatch.setattr(sets, "open_flickr30k", with_a_bad_record)
    sets.make("absent", photographs, tmp_path / "absent")
    assert "1 bad records of train, left out" in capsys.readouterr().out
    with (photographs / "train.jsonl").open("a") as file:
        file.write("\n{")
    with pytest.raises(InputError, match=r"photos.train\.jsonl, record \d+: broken line: .*mend it"):
        sets.make("shares", photographs, tmp_path / "shares")


def test_phrases_of_nothing_share_no_kind_with_the_captions(photographs, tmp_path):
    sets = script("photo_sets")
    sets.make("absent", photographs, tmp_path / "out")
    lines = read(tmp_path / "out/train.jsonl")
    none = {(line["image_id"], line["phrase"][0]) for line in lines if not line["boxes"]}
    assert {phrase for image, phrase in none if image == "1"} <= {"A man", "a red bike", "a frisbee", "The woman"}
    assert ("4", "A man") not in none or "man" not in sets.family("woman")
    assert not any("dog" in phrase for image, phrase in none if image in "13") and "another guitar" not in {
        p for _, p in none
    }
    apart = next(line for line in lines if line["phrase"] == ["Two dogs"])
    assert apart["boxes"] == [[5, 5, 30, 15]] * 2  # pixels of the picture as it is stored
    assert (
        sets.asked("two young women in hats") == "woman"
        and sets.asked("grass") is None
        and sets.asked("his dog") is None
    )


def test_every_experiment_passes_the_check_of_its_config():
    from rec.config import LazyConfig, check

    for name, experiment in script("run_results").EXPERIMENTS.items():
        cfg = LazyConfig.load(str(REPOSITORY / experiment.config))
        assert check(LazyConfig.apply_overrides(cfg, list(experiment.overrides))) == [], name
