"""Questions about paths are answered or raise; files are written whole, and keep or get the right owner."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from godrive.paths import create_file, exists, is_file, is_folder, make_path, open_or_create, replace_file

TOO_LONG = "x" * 300
"""Any name in a folder that may not be searched gives an error as well, but not to root."""

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away: run the suite as root")


def test_what_is_there_is_told_from_what_is_not(tmp_path: Path) -> None:
    file, folder, missing = tmp_path / "file", tmp_path / "folder", tmp_path / "missing"
    file.touch()
    folder.mkdir()
    for path, answers in (
        (file, (True, True, False)),
        (folder, (True, False, True)),
        (missing, (False, False, False)),
        (file / "below", (False, False, False)),
    ):
        assert (exists(path), is_file(path), is_folder(path)) == answers


@pytest.mark.parametrize("question", [exists, is_file, is_folder])
def test_what_the_system_does_not_tell_is_an_error(tmp_path: Path, question: Callable[[Path], bool]) -> None:
    with pytest.raises(OSError, match="File name too long"):
        question(tmp_path / TOO_LONG)


def test_a_relative_folder_ends_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        make_path(Path("data"))


def test_a_file_is_made_once_and_leaves_no_draft(tmp_path: Path) -> None:
    create_file(tmp_path / "a", b"first", mode=0o640)
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "a", b"second")
    assert [(path.name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [
        ("a", b"first", 0o640)
    ]


def test_a_file_is_made_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    create_file(tmp_path / "a", b"first")
    with pytest.raises(PermissionError):
        create_file(tmp_path / "a", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"first")]


@ROOT_ONLY
def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 2345)
    create_file(tmp_path / "file", b"")
    make_path(tmp_path / "a" / "b")
    os.close(open_or_create(tmp_path / "a" / "lock"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.rglob("*")} == {(1234, 2345)}
    assert len(list(tmp_path.rglob("*"))) == 4


@ROOT_ONLY
def test_a_file_that_root_replaces_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    replace_file(path, b"new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)
    assert path.read_bytes() == b"new"


@ROOT_ONLY
def test_a_file_that_was_there_is_not_given_away(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    os.chown(tmp_path, 1234, 2345)
    os.close(open_or_create(tmp_path / "lock"))
    make_path(tmp_path)
    assert (tmp_path / "lock").stat().st_uid == 0
