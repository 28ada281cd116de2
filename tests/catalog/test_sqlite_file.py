"""The database file: refused where it cannot be trusted, copied before it is changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from godrive.catalog import migrations, sqlite_file
from godrive.catalog.migrations import Migration
from godrive.errors import ConfigError, StorageFull
from tests.cases import each

MOUNTS = [
    "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
    "30 22 0:30 / /mnt/share rw shared:1 - nfs4 host:/export rw",
    "31 22 0:31 / /mnt/share/local rw - xfs /dev/sdb1 rw",
    "32 22 0:32 / /mnt/with\\040space rw - fuse.sshfs host: rw",
    "33 22 0:33 / /mnt/disk rw - fuse.ntfs-3g /dev/sdc1 rw",
    "34 22 0:34 / /mnt/win rw - cifs //host/share rw",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "godrive.db"


def prepare(path: Path, *, guest: bool = False) -> None:
    sqlite_file.prepare(path, allow_network_fs=False, guest=guest)


def versions(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT version FROM schema_versions ORDER BY version")]


def add_migration(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    steps = [*migrations.migrations(), Migration(migrations.migrations()[-1].version + 1, "more", script)]
    monkeypatch.setattr(migrations, "migrations", lambda: steps)


@each(
    ("folder", "kind"),
    [
        ("/var/lib", None),
        ("/mnt", None),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/a/b", "nfs4"),
        ("/mnt/shared", None),
        ("/mnt/share/local/x", None),
        ("/mnt/with space", "fuse.sshfs"),
        ("/mnt/disk", None),
        ("/mnt/win", "cifs"),
    ],
)
def test_a_network_file_system_is_told_by_the_longest_mount_point(folder: str, kind: str | None) -> None:
    assert sqlite_file.network_kind(folder, MOUNTS) == kind


def test_a_network_file_system_is_refused_unless_the_operator_insists(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "network_kind", lambda folder, mounts: "nfs4")
    with pytest.raises(ConfigError, match="nfs4") as caught:
        prepare(path)
    assert caught.value.hint is not None
    assert "allow_network_fs" in caught.value.hint
    assert not path.exists()
    sqlite_file.prepare(path, allow_network_fs=True)


def test_an_sqlite_that_is_too_old_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    with pytest.raises(ConfigError, match=r"needs 3\.35\.0"):
        prepare(path)


def test_an_sqlite_without_full_text_search_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "FULL_TEXT_SEARCH", "SELECT 1 FROM pragma_module_list WHERE name = 'absent'")
    with pytest.raises(ConfigError, match="without FTS5") as caught:
        prepare(path)
    assert caught.value.hint is not None
    assert not path.exists()


def test_a_new_file_is_private_and_has_the_newest_schema(path: Path) -> None:
    prepare(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert versions(path) == [step.version for step in migrations.migrations()]
    assert [file.name for file in path.parent.iterdir()] == ["godrive.db"]


def test_preparing_again_changes_nothing(path: Path) -> None:
    prepare(path)
    before = path.read_bytes()
    prepare(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["godrive.db"]


def test_migrations_are_numbered_without_gaps() -> None:
    assert [step.version for step in migrations.migrations()] == list(range(1, len(migrations.migrations()) + 1))


def test_a_database_is_copied_before_it_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(path)
    old = versions(path)
    add_migration(monkeypatch, "-- more\nCREATE TABLE more (a {text});\nCREATE INDEX more_a ON more (a);\n")
    prepare(path)
    copy = path.with_name(f"godrive.db.schema-{old[-1]}")
    assert versions(path) == [*old, old[-1] + 1]
    assert versions(copy) == old
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_a_migration_that_fails_leaves_the_database_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(path)
    old = versions(path)
    add_migration(monkeypatch, "CREATE TABLE more (a {text});\nNONSENSE;\n")
    with pytest.raises(sqlite3.OperationalError):
        prepare(path)
    assert versions(path) == old
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)


def test_no_migration_is_begun_without_room_for_the_copy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(path)
    old = versions(path)
    add_migration(monkeypatch, "CREATE TABLE more (a {text});")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StorageFull):
        prepare(path)
    assert versions(path) == old


def test_a_guest_migrates_nothing_that_an_older_server_may_be_using(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(path, guest=True)  # an empty one is made
    old = versions(path)
    add_migration(monkeypatch, "CREATE TABLE more (a {text});")
    with pytest.raises(ConfigError, match=f"schema {old[-1]}, and this version of GoDrive needs {old[-1] + 1}"):
        prepare(path, guest=True)
    assert versions(path) == old
    assert [file.name for file in path.parent.iterdir()] == ["godrive.db"]


def test_a_newer_schema_is_refused_with_what_to_do(path: Path) -> None:
    prepare(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO schema_versions VALUES (999, 'future', 'x')")
    with pytest.raises(ConfigError, match="schema 999") as caught:
        prepare(path)
    assert caught.value.hint is not None
    assert "godrive version" in caught.value.hint


@pytest.mark.parametrize(
    "sql", ["UPDATE schema_versions SET digest = 'x'", "ALTER TABLE schema_versions DROP COLUMN digest"]
)
def test_a_schema_of_another_layout_is_refused_with_the_way_out(path: Path, sql: str) -> None:
    prepare(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="layout this version cannot read") as caught:
        prepare(path)
    assert "empty data folder" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_a_connection_that_cannot_be_used_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            closed.append(True)
            super().close()

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite_file.connect(path)
    assert closed == [True]


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be opened"):
        prepare(path)
    assert path.read_bytes() == b"this is no database" * 1000


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(ConfigError, match="another program"):
        prepare(path)


@pytest.mark.parametrize("kind", ["folder", "missing folder", "file for a folder"])
def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x" / "godrive.db"
    if kind == "folder":
        path.mkdir(parents=True)
    elif kind == "file for a folder":
        path.parent.write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare(path)


def test_a_copy_of_a_database_in_use_is_whole(path: Path, tmp_path: Path) -> None:
    prepare(path)
    with closing(sqlite_file.connect(path)) as writer:
        writer.execute("INSERT INTO leases VALUES ('committed', 'x', 0)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO leases VALUES ('uncommitted', 'x', 0)")
        sqlite_file.copy(path, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as copied:
        assert copied.execute("SELECT name FROM leases").fetchall() == [("committed",)]
        assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(tmp_path.glob("*.partial*"))


def test_a_copy_is_durable_before_it_has_its_name(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(path)
    target, synced, fsync = tmp_path / "copy", list[tuple[bool, bool]](), os.fsync

    def watch(fd: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), target.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    sqlite_file.copy(path, target)
    assert synced == [(False, False), (True, True)]


def test_a_copy_ends_although_another_connection_writes_all_the_time(tmp_path: Path) -> None:
    """Copied in several steps, SQLite would begin anew after every commit of another connection."""
    path = tmp_path / "godrive.db"
    ended = threading.Event()
    with closing(sqlite_file.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (number INTEGER, text TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(0, "x" * 500_000)] * 40)

    def write() -> None:
        with closing(sqlite_file.connect(path)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            for number in range(1, 10**9):
                if ended.is_set():
                    return
                connection.execute("INSERT INTO t VALUES (?, '')", (number,))

    writer = threading.Thread(target=write)
    writer.start()
    copying = threading.Thread(target=sqlite_file.copy, args=(path, tmp_path / "copy.db"), daemon=True)
    try:
        copying.start()
        copying.join(30)
        assert not copying.is_alive()
    finally:
        ended.set()
        writer.join()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copied:
        (rows, last) = copied.execute("SELECT COUNT(*), MAX(number) FROM t").fetchone()
        assert rows == 40 + last
