"""A file is replaced whole or not at all."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simvq_jax import files
from simvq_jax.files import beside, check_unused, create_text, new_folder, remove_left_behind, replace_text


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "figures.json"
    replace_text(path, "old é\n")
    replace_text(path, "new é\n")
    assert path.read_text(encoding="utf-8") == "new é\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    replace_text(path, "old")
    original = Path.write_text

    def full_disk(self, text, **options):
        original(self, text[:2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "new and longer")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_move_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    replace_text(path, "old")

    def refuse(self, target):
        assert self.parent == target.parent and self.read_text() == "new"
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        replace_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_of_several_that_create_a_file_one_does(tmp_path):
    path = tmp_path / "settings.json"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: create_text(path, str(i)), range(50)))
    assert sum(made) == 1 and path.read_text() == str(made.index(True))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "deep/out") as fresh:
        (fresh / "a.txt").write_text("a")
        assert not (tmp_path / "deep/out").exists()
    assert (tmp_path / "deep/out/a.txt").read_text() == "a"
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "other") as fresh:
        (fresh / "a.txt").write_text("a")
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    with pytest.raises(FileExistsError, match="is in use"), new_folder(tmp_path / "deep/out"):
        pass


def test_what_killed_processes_left_is_no_use_of_a_folder_and_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "shard"
    alive, dead = beside(path), tmp_path / f".shard.{files.socket.gethostname()}.999999999.0123.tmp"
    elsewhere = tmp_path / ".shard.another-machine.999999999.0123.tmp"
    for left in (alive, dead, elsewhere):
        left.write_text("half")
    check_unused(tmp_path)
    remove_left_behind(path)
    assert set(tmp_path.iterdir()) == {alive, elsewhere}
    path.write_text("whole")
    with pytest.raises(FileExistsError, match="is in use"):
        check_unused(tmp_path)


def test_a_folder_that_a_killed_process_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / f".out.{files.socket.gethostname()}.999999999.0123.tmp"
    (left / "deep").mkdir(parents=True)
    with new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["a" * 250, "\u5b57" * 80, "[a]*?" * 40])
def test_long_and_odd_names_can_be_written(tmp_path, name):
    path = tmp_path / name
    dead = tmp_path / f"{files._stem(path)}.999999999.0123.tmp"
    dead.write_text("half")
    remove_left_behind(path)
    replace_text(path, "whole")
    assert not create_text(path, "another") and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_system_without_links_has_new_files_too(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refused)
    assert create_text(tmp_path / "a", "first") and not create_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_told_with_the_place(tmp_path):
    def write():
        with files.replacing(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write has it

    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
        write()


def test_a_place_where_nothing_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    told = pytest.raises(OSError, match=r"file/out cannot be made \(Not a directory\): give another --out")
    with told, new_folder(tmp_path / "file/out"):
        pass


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_text(tmp_path / "no/figures.json", "text")
