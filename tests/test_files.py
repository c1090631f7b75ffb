"""A file is replaced whole or not at all."""

from pathlib import Path

import pytest

from simvq_jax.files import replace_text


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


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_text(tmp_path / "no/figures.json", "text")
