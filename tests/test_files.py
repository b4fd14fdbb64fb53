"""Old or new, whole: `wordkiln._files` under errors and kills."""

import os

import pytest

from wordkiln._files import recover_directory, write_directory, write_file
from wordkiln.errors import PathError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_file_replaces_and_leaves_nothing_else(tmp_path):
    write_file(tmp_path / "new" / "a.txt", "第一")
    write_file(tmp_path / "new" / "a.txt", b"second")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"second"
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.abuse
@pytest.mark.parametrize("name", ["nul\0nul", "x" * 300, "file/below"])
def test_write_file_names_a_path_it_cannot_write(tmp_path, name):
    (tmp_path / "file").write_text("old")
    with pytest.raises(PathError, match="cannot be written"):
        write_file(tmp_path / name, "new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_write_directory_replaces_as_a_whole(tmp_path):
    for content in ("old", "new"):
        with write_directory(tmp_path / "run") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run" / "sub") == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_write_directory_keeps_the_old_one_on_errors(tmp_path, error):
    with write_directory(tmp_path / "run") as folder:
        (folder / "old").write_text("old")

    def fail():
        with write_directory(tmp_path / "run") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["old"]


def test_write_directory_puts_back_what_a_kill_between_its_renames_left(tmp_path, monkeypatch):
    with write_directory(tmp_path / "run") as folder:
        (folder / "old").write_text("old")
    rename = os.rename

    def killed_at_the_second(source, target):
        if str(target).endswith("run"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt), write_directory(tmp_path / "run") as folder:
        (folder / "new").write_text("new")
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    recover_directory(tmp_path / "run")
    assert names(tmp_path / "run") == ["old"]


@pytest.mark.abuse
def test_write_directory_over_a_file_below_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(PathError, match="cannot be written"), write_directory(tmp_path / "file" / "run"):
        pass
    assert (tmp_path / "file").read_text() == "old"
