"""A visit's parts run once, their failures stop no other, the photographs fit in what may travel."""

import json
import tarfile

import visit


def write_part(monkeypatch, name, code):
    monkeypatch.setitem(visit.PARTS, name, lambda work, out, device: [["-c", code]])


def test_a_part_that_ended_well_is_not_run_again_and_a_failed_one_is(tmp_path, monkeypatch):
    write_part(monkeypatch, "tests", "print('seen'); open('OUT/count', 'a').write('x')".replace("OUT", str(tmp_path)))
    write_part(monkeypatch, "benchmark", "import sys; print('why'); sys.exit(3)")
    assert visit.run("tests", tmp_path, "cpu") and visit.run("tests", tmp_path, "cpu")
    assert (tmp_path / "count").read_text() == "x" and "seen" in (tmp_path / "tests.log").read_text()
    assert visit.run("tests", tmp_path, "cuda"), "a rehearsal is no visit"
    assert (tmp_path / "count").read_text() == "xx"
    assert not visit.run("benchmark", tmp_path, "cpu") and not visit.run("benchmark", tmp_path, "cpu")
    assert "why" in (tmp_path / "benchmark.log").read_text() and not (tmp_path / "benchmark.json").exists()
    with tarfile.open(visit.archive(tmp_path)) as packed:
        assert sorted(packed.getnames()) == ["benchmark.log", "tests.json", "tests.log"]


def test_a_part_has_a_limit(tmp_path, monkeypatch):
    write_part(monkeypatch, "tests", "import time; time.sleep(60)")
    monkeypatch.setitem(visit.SECONDS, "tests", 0)
    assert not visit.run("tests", tmp_path, "cuda")


def test_photographs_without_an_archive_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(visit, "PACKED", visit.ROOT / "absent.tar")
    assert visit.run("photographs", tmp_path, "cuda") and "gpu-pack" in capsys.readouterr().out


def test_packed_photographs_fit_and_every_object_has_its_image(tmp_path):
    (tmp_path / "images").mkdir()
    for split, count in (("val", 3), ("train", 40)):
        names = [f"{split}{number}.jpg" for number in range(count)]
        for name in names:
            (tmp_path / "images" / name).write_bytes(b"\xff" * 3000)
        objects = [json.dumps({"image": name, "phrase": ["a dog"] * 20}) + "\n" for name in names for _ in range(2)]
        (tmp_path / f"{split}.jsonl").write_text("".join(objects), encoding="utf-8")
    target, most = tmp_path / ".gpu" / "packed.tar", 100_000
    images = visit.pack(tmp_path, target, most)
    assert 3 < images < 43 and target.stat().st_size <= most
    with tarfile.open(target) as packed:
        visit.unpack(packed, tmp_path / "there")
    for split in ("val", "train"):
        lines = (tmp_path / "there" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 2 * len({json.loads(line)["image"] for line in lines})
        assert all((tmp_path / "there" / "images" / json.loads(line)["image"]).exists() for line in lines)


def test_every_script_and_config_that_the_parts_name_is_there(tmp_path):
    for part in ("benchmark", "quickstart"):
        for device in ("cpu", "cuda"):
            for words in visit.PARTS[part](tmp_path, tmp_path, device):
                assert all((visit.ROOT / word).exists() for word in words if word.startswith(("scripts/", "configs/")))
