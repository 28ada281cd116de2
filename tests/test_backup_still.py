"""A database that is read beside its writers is what it was at one instant, whatever they do meanwhile."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from godrive.backup import still
from godrive.backup.contents import is_sound, opened
from godrive.backup.still import Still, standing_still
from godrive.catalog import sqlite_file

pytestmark = pytest.mark.anyio

ACCOUNTS, TOTAL = 300, 300 * 1000

WRITER = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=300)
connection.execute(f"PRAGMA wal_autocheckpoint = {sys.argv[2]}")
connection.execute("PRAGMA synchronous = OFF")
connection.execute("PRAGMA cache_size = 5")
print("begun", flush=True)
while True:
    connection.execute("BEGIN IMMEDIATE")
    for _ in range(random.randrange(1, 40)):
        one, other = random.randrange(300), random.randrange(300)
        connection.execute("UPDATE accounts SET amount = amount - 1 WHERE id = ?", (one,))
        connection.execute("UPDATE accounts SET amount = amount + 1 WHERE id = ?", (other,))
        connection.execute("INSERT INTO log (what) VALUES (?)", ("x" * random.randrange(3000),))
    connection.execute("DELETE FROM log WHERE id <= (SELECT MAX(id) FROM log) - 500")
    connection.execute("UPDATE state SET commits = commits + 1")
    connection.execute("ROLLBACK" if random.random() < 0.2 else "COMMIT")
    if random.random() < 0.05:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    # SQLite has no queue for its lock: a third process looks ten times a second, and must find it free to get it.
    time.sleep(random.random() * 0.02)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that several processes will write to."""
    database = tmp_path / "bank.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER, filler TEXT)")
        connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, what TEXT)")
        connection.execute("CREATE TABLE state (commits INTEGER)")
        connection.execute("INSERT INTO state VALUES (0)")
        connection.executemany("INSERT INTO accounts VALUES (?, 1000, ?)", [(n, "f" * 500) for n in range(ACCOUNTS)])
        connection.execute("COMMIT")
    return database


@contextmanager
def writers(path: Path) -> Iterator[None]:
    """Two processes that write and checkpoint, one of them seldom."""
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, often], stdout=subprocess.PIPE)
        for often in ("20", "2000")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def state(connection: sqlite3.Connection) -> tuple[int, ...]:
    """Return the number of commits, the sum of all amounts, and the end of the log."""
    sql = "SELECT commits, (SELECT SUM(amount) FROM accounts), (SELECT MAX(id) FROM log) FROM state"
    return tuple(connection.execute(sql).fetchone())


def copied(image: Still, place: Path) -> Path:
    """Write the parts where SQLite recovers from them."""
    place.mkdir()
    copy = place / "copy.db"
    copy.write_bytes(b"".join(map(bytes, image.file_parts())))
    (place / "copy.db-wal").write_bytes(b"".join(map(bytes, image.log_parts())))
    return copy


@pytest.mark.slow
async def test_beside_writers_that_checkpoint_it_is_one_instant(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still, "PART", 4096 * 3)
    commits: list[int] = []
    with writers(path), closing(sqlite3.connect(path)):
        while len(commits) < 15 or len(set(commits)) < 6:  # on a busy machine, they write seldom
            number = len(commits)
            (folder := tmp_path / f"{number}").mkdir()
            async with standing_still(path, folder) as image:
                seen = state(image.connection)
                for _ in range(random.randrange(200)):  # let them write
                    image.connection.execute("SELECT COUNT(*) FROM accounts").fetchone()
                with opened(copied(image, folder / "copy")) as copy:
                    assert is_sound(copy) is None
                    assert state(copy) == seen
                assert seen[1] == TOTAL
                commits.append(seen[0])
    assert sorted(commits) == commits
    with closing(sqlite3.connect(path)) as connection:
        assert is_sound(connection) is None
        assert state(connection)[1] == TOTAL


async def test_what_a_reader_of_the_file_closes_releases_no_lock_of_sqlite(path: Path, tmp_path: Path) -> None:
    """The last process that closes a database removes its log, so it must see that there are others."""
    with closing(sqlite_file.connect(path)) as connection:
        connection.execute("UPDATE state SET commits = 7")
        async with standing_still(path, tmp_path) as image:
            assert sum(map(len, image.file_parts())) == path.stat().st_size
        leave = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM state'); c.close()"
        subprocess.run([sys.executable, "-c", leave, path], check=True)
        assert path.with_name("bank.db-wal").exists()
        assert state(connection)[0] == 7


@pytest.mark.slow
async def test_the_log_has_only_what_was_written_since_it_was_begun(path: Path, tmp_path: Path) -> None:
    with closing(sqlite_file.connect(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO log (what) VALUES (?)", [(f"{number}" * 300,) for number in range(2000)])
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        connection.execute("UPDATE state SET commits = 5")
        whole = path.with_name("bank.db-wal").stat().st_size
        async with standing_still(path, tmp_path) as image:
            assert 0 < sum(map(len, image.log_parts())) < 20_000 < whole
            with opened(copied(image, tmp_path / "copy")) as copy:
                assert state(copy) == state(image.connection)
                assert state(copy)[0] == 5


@pytest.mark.parametrize("how", ["PASSIVE", "RESTART"])
async def test_a_log_that_is_begun_anew_before_it_is_copied_is_not_needed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with closing(sqlite_file.connect(path)) as connection:
        connection.execute("UPDATE state SET commits = 5")
        connection.execute(f"PRAGMA wal_checkpoint({how})")
        parts = still._parts

        def begin_anew(fd: int, end: int | None = None) -> Iterator[memoryview]:
            monkeypatch.setattr(still, "_parts", parts)
            connection.execute("UPDATE state SET commits = 6")
            return parts(fd, end)

        monkeypatch.setattr(still, "_parts", begin_anew)
        async with standing_still(path, tmp_path) as image:
            with opened(copied(image, tmp_path / "copy")) as copy:
                assert state(copy) == state(image.connection)
                assert state(copy)[0] == 5


async def test_what_was_rolled_back_at_the_end_of_the_log_is_not_part_of_it(path: Path, tmp_path: Path) -> None:
    with closing(sqlite_file.connect(path)) as connection:
        connection.execute("PRAGMA cache_size = 5")  # so that pages are in the log before a commit
        connection.execute("UPDATE state SET commits = 5")
        end = path.with_name("bank.db-wal").stat().st_size
        connection.execute("BEGIN")
        connection.execute("UPDATE accounts SET filler = amount || filler")
        connection.execute("ROLLBACK")
        assert path.with_name("bank.db-wal").stat().st_size > end
        async with standing_still(path, tmp_path) as image:
            assert sum(map(len, image.log_parts())) == end
