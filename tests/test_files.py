"""Files are whole or absent, get the mode of their place, and are never written over what is read."""

import io
import json
import os
import resource
import stat
import tarfile
from contextlib import contextmanager

import pytest

from rec import files
from rec.command_line import explained
from rec.errors import InputError


@contextmanager
def small_disk(size):
    """No file grows beyond ``size`` bytes: as a full disk, an error in the middle of writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def umask(value):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_what_is_there_stays_until_the_new_file_is_whole(tmp_path):
    file = tmp_path / "a.json"
    files.write_json(file, {"old": 1})
    with pytest.raises(ValueError), files.whole_file(file) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise ValueError
    with pytest.raises(OSError) as raised, small_disk(10_000):
        files.write_text(file, "x" * 100_000)
    assert str(file) in explained(raised.value) and "space" in explained(raised.value)
    assert json.loads(file.read_text(encoding="utf-8")) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("writer", [files.whole_file, files.growing_file])
def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(tmp_path, writer):
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("old", encoding="utf-8")
    old.chmod(0o640)
    with umask(0o002):
        for file in (old, new):
            with writer(file) as target:
                target.write("x") if writer is files.growing_file else target.write_text("x", encoding="utf-8")
    assert (mode(old), mode(new)) == (0o640, 0o664)


def test_a_link_is_written_through_and_a_device_directly(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "file.txt")
    files.write_text(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "file.txt").read_text(encoding="utf-8") == "text"
    files.write_text("/dev/null", "text")
    with files.growing_file("/dev/null") as lines:
        lines.write("text\n")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError) as raised:
        files.write_text("/dev/full", "text")
    assert "/dev/full" in explained(raised.value)
    with pytest.raises(OSError) as raised:
        files.write_text("/proc/new.txt", "text")
    assert "/proc/new.txt" in explained(raised.value), "not the temporary file that cannot be made"


def test_names_of_any_length_and_script_have_a_place_for_their_temporary_file(tmp_path):
    for name in ("x" * 251 + ".txt", "名" * 83 + ".png", "a." + "b" * 253, os.fsdecode(b"caf\xe9.txt")):
        files.write_text(tmp_path / name, "text")
        with files.growing_file(tmp_path / name) as lines:
            lines.write("text")
    assert len(os.listdir(tmp_path)) == 4


def test_growing_lines_take_their_place_at_the_end_and_survive_a_failure(tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text("old\n", encoding="utf-8")
    for text in ("first", "second"):
        with pytest.raises(KeyboardInterrupt) as raised, files.growing_file(file) as lines:
            lines.write(text + "\n")
            partial = tmp_path / ("lines.jsonl.partial" if text == "first" else "lines.jsonl.partial2")
            assert partial.read_text(encoding="utf-8") == text + "\n", "each line is on the disk at once, for a kill"
            assert file.read_text(encoding="utf-8") == "old\n"
            raise KeyboardInterrupt
        assert str(partial) in raised.value.__notes__[0]
    with pytest.raises(KeyboardInterrupt), files.growing_file(file):
        raise KeyboardInterrupt
    with files.growing_file(file) as lines:
        lines.write("new\n")
    assert file.read_text(encoding="utf-8") == "new\n"
    assert sorted(os.listdir(tmp_path)) == ["lines.jsonl", "lines.jsonl.partial", "lines.jsonl.partial2"]


def test_a_task_that_was_cut_off_goes_on_and_others_do_not_meet_it(tmp_path):
    file = tmp_path / "lines.jsonl"
    for before, text in (([], "first\nsec"), (["first\n"], "second\n")):
        with pytest.raises(KeyboardInterrupt) as raised, files.growing_file(file, "a task") as lines:
            assert list(lines) == before
            lines.write(text)
            with pytest.raises(InputError, match="another process"), files.growing_file(file, "a task"):
                pass
            raise KeyboardInterrupt
        assert "the same command goes on" in raised.value.__notes__[0]
    with files.growing_file(file, "another task") as lines:
        assert list(lines) == []
        lines.write("other\n")
    assert file.read_text(encoding="utf-8") == "other\n"
    with files.growing_file(file, "a task") as lines:
        assert list(lines) == ["first\n", "second\n"]
        lines.write("third\n")
    assert file.read_text(encoding="utf-8") == "first\nsecond\nthird\n" and os.listdir(tmp_path) == [file.name]
    (victim := tmp_path / "victim").write_text("kept", encoding="utf-8")
    (tmp_path / f"{file.name}.{files.digest(b'a task')[:8]}.partial").symlink_to(victim)
    with pytest.raises(OSError), files.growing_file(file, "a task"):
        pass
    assert victim.read_text(encoding="utf-8") == "kept"


def test_names_that_are_no_utf8_come_back_from_json(tmp_path):
    name = os.fsdecode(b"caf\xe9\xf0.jpg")
    files.write_json(tmp_path / "a.json", {"image": name, "phrase": "größer 大"})
    with files.growing_file(tmp_path / "b.jsonl") as lines:
        lines.write(json.dumps({"image": name}, ensure_ascii=False) + "\n")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text)["image"] == name and "größer 大" in text
    assert json.loads((tmp_path / "b.jsonl").read_text(encoding="utf-8"))["image"] == name


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(files.os, "access", lambda path, how: False)  # the superuser may write anything
    for path in (tmp_path, tmp_path / "file", tmp_path / "file" / "x.txt"):
        with pytest.raises(OSError) as raised:
            files.write_text(path, "")
        assert str(tmp_path) in explained(raised.value)


def test_an_output_that_is_an_input_is_refused_under_every_name(tmp_path, monkeypatch):
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"x")
    (tmp_path / "link").symlink_to(photo.parent)
    os.link(photo, tmp_path / "hard.jpg")
    monkeypatch.chdir(photo.parent)
    for output in ("a.jpg", photo, "../photos/./a.jpg", tmp_path / "link" / "a.jpg", tmp_path / "hard.jpg", ".", ".."):
        with pytest.raises(InputError, match=r"a\.jpg, which is read"):
            files.refuse_inputs([tmp_path / "other", output], [photo, tmp_path / "absent"])
    files.refuse_inputs(["b.jpg", tmp_path / "link" / "c.jpg", "/dev/null"], [photo, "/dev/null"])
    with pytest.raises(InputError, match="absent"):
        files.refuse_inputs(["absent"], [photo.parent / "absent"])
    with pytest.raises(InputError, match="are one file"):
        files.refuse_inputs(["b.jpg", tmp_path / "link" / "b.jpg"], [])


def test_the_home_folder_is_meant_by_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/x") == tmp_path / "x" and files.user_path("~") == tmp_path
    assert str(files.user_path(files.user_path("./~/x"))) == os.path.abspath("~/x")  # the same when it is asked again
    assert str(files.user_path("a/~/b")) == "a/~/b" and str(files.user_path("./~")) == os.path.abspath("~")


def test_an_archive_is_unpacked_into_its_folder_alone(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        for name in ("images/1.jpg", "../out.txt", "/tmp/out.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            packed.addfile(entry, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
    with tarfile.open(tmp_path / "a.tar") as packed:
        files.unpack(packed, tmp_path / "there")
    assert [path for path in (tmp_path / "there").rglob("*") if not path.is_dir()] == [tmp_path / "there/images/1.jpg"]
    assert not (tmp_path / "out.txt").exists()


def test_what_a_file_may_be_called_is_bounded():
    assert files.endings("C:\\a/./b.jpg") == ["C:/a/b.jpg", "a/b.jpg", "b.jpg"]
    assert files.endings("a/" * 100_000) == []
