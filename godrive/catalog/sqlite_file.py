"""The database file of the SQLite catalog: checking its location, opening, migrating and copying it."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from godrive.catalog import ancestors, migrations, name_search
from godrive.catalog.sqlite_tx import positional
from godrive.errors import ConfigError, DriveError, StorageFull, StoreUnavailable, refused
from godrive.paths import adopt, has_no_room, is_file, open_or_create, sync_folder

WORDS = {
    "text": "TEXT",
    "clustered": "WITHOUT ROWID",
    "nonce": "lower(hex(randomblob(16)))",
    "number": "INTEGER",
    **name_search.SQLITE_WORDS,
    **ancestors.SQLITE_WORDS,
}
_STATISTICS = {
    "entries": "10000000 1000 1000 1 1",
    "entries_folder_created": "10000000 1000 20 1 1",
    "entries_folder_sorted": "10000000 1000 20 1 1",
    "entries_folder_size": "10000000 1000 20 1 1",
    "entries_folder_modified": "10000000 1000 20 1 1",
    "entries_folders_created": "10000000 1000 20 1 1",
    "entries_folders_sorted": "10000000 1000 20 1 1",
    "entries_folders_size": "10000000 1000 20 1 1",
    "entries_folders_modified": "10000000 1000 20 1 1",
    "entries_folder_ended": "1000 10",
    "entries_name": "10000000 1000 20 1",
    "entries_sorted": "10000000 1000 1000 1 1",
    "entries_trash": "1000 10 1 1",
    "entries_due": "1000 1",
    "entries_purging": "1000 1",
    "sqlite_autoindex_entries_1": "10000000 1",
}
"""Statistics of the indices of entries: rows, then rows for each value of one column, of two, and so on.

Without it SQLite reads a folder in the order of the whole drive, and skips.
Being told once, it plans the same forever, whatever the data
(https://sqlite.org/lang_analyze.html, section 4.1).
"""
FULL_TEXT_SEARCH = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"
"""A row if SQLite can find names.  Its trigram tokenizer is as old as the oldest SQLite that we take."""

BUSY_TIMEOUT = 5.0
"""Seconds that a writer waits for another process, such as a command."""

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|ncpfs|fuse\..*(ssh|gluster|s3|rclone|ceph|dav).*"
)
_OLDEST = (3, 35, 0)  # RETURNING
_MARGIN = 16 * 1024 * 1024
_LOG_PAGES = 2000
"""Pages of the log after which a commit checkpoints it.  With more, writers wait longer for that commit."""

_NEEDS_OPERATOR = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
_PASSING = _NEEDS_OPERATOR | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_PERM,
}


def primary_code(error: sqlite3.Error) -> int:
    """The primary result code of SQLite; that of a generic error if there is none."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def translate(error: sqlite3.Error, path: Path) -> DriveError | None:
    """The error for callers.  ``None`` for a bug of ours."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and has_no_room(path.parent)):
        return full(path)
    if code == sqlite3.SQLITE_IOERR or code in _PASSING:
        return StoreUnavailable(f"The catalog cannot be used: {error}", hint=f"Check the disk and the file {path}.")
    return None


def full(path: Path) -> StorageFull:
    """The answer while the disk is full."""
    return StorageFull("The disk of the catalog is full.", hint=f"Make room on the file system of {path}.")


def not_writable(path: Path, error: OSError) -> DriveError:
    """The error if the operating system does not permit to write the database."""
    hint = "Check that the folder exists and belongs to the user that runs GoDrive."
    return refused(f"The catalog {path} cannot be written", error, hint=hint)


def connect(
    path: Path,
    *,
    timeout: float | None = None,
    cache_kib: int = 2000,
    read_only: bool = False,
    guest: bool = False,
) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use.

    ``synchronous=FULL`` makes a commit durable before it returns; with WAL, readers and
    the writer do not wait for each other.  Commits of a *guest* never checkpoint (``wal_lock``).
    """
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT if timeout is None else timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute(f"PRAGMA wal_autocheckpoint={0 if guest else _LOG_PAGES}")
        connection.execute("PRAGMA journal_size_limit=67108864")
        if read_only:
            connection.execute("PRAGMA query_only=1")
    except BaseException:  # for example, the file is not a database
        connection.close()
        raise
    return connection


def prepare(path: Path, *, allow_network_fs: bool, guest: bool = False) -> None:
    """Create the file if absent, check it, and bring its schema up to date.

    For *guest* see ``connect`` and ``migrations.missing``.

    Raises ``ConfigError``, ``StorageFull``, ``StoreUnavailable``.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise ConfigError(
            f"This Python has SQLite {sqlite3.sqlite_version}; GoDrive needs {'.'.join(map(str, _OLDEST))} or newer.",
            hint="Use a newer Python or operating system, or PostgreSQL.",
        )
    _check_full_text_search()
    if not allow_network_fs and (kind := _network_file_system(path.parent)):
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where SQLite's locks cannot be relied on.",
            hint="Use a local disk, or PostgreSQL, or insist with catalog.allow_network_fs = true.",
        )
    try:
        if not is_file(path):  # to close a file that SQLite has open would release SQLite's locks
            os.close(open_or_create(path))
    except OSError as error:
        raise not_writable(path, error) from None
    try:
        with closing(connect(path, guest=guest)) as connection:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
                raise ConfigError(f"{path} is on a file system without shared memory, which SQLite's WAL needs.")
            _migrate(connection, path, guest=guest)
    except sqlite3.Error as error:
        known = translate(error, path)
        if known is None:
            raise
        if primary_code(error) in _NEEDS_OPERATOR:
            raise ConfigError(
                f"The catalog {path} cannot be opened: {error}.",
                hint="It is not a database, damaged, or not writable: check catalog.path, or restore a backup.",
            ) from error
        raise known from error


def _check_full_text_search() -> None:
    """Raises ``ConfigError`` if this SQLite was built without FTS5, which finds names."""
    with closing(sqlite3.connect(":memory:")) as connection:
        if connection.execute(FULL_TEXT_SEARCH).fetchone() is None:
            raise ConfigError(
                f"This Python has SQLite {sqlite3.sqlite_version} without FTS5, which GoDrive searches names with.",
                hint="Use the Python of your distribution or of python.org, or PostgreSQL.",
            )


def _migrate(connection: sqlite3.Connection, path: Path, *, guest: bool) -> None:
    """Migrate in one transaction, so that a failed migration leaves nothing behind."""
    connection.execute("BEGIN IMMEDIATE")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "schema_versions" not in tables:
        raise ConfigError(f"{path} is a database of another program.", hint="Set catalog.path to a file of its own.")
    connection.execute(migrations.NOTE_TABLE)
    migrations.check_table({row[1] for row in connection.execute("PRAGMA table_info(schema_versions)")})
    applied = dict(connection.execute(migrations.APPLIED).fetchall())
    steps = migrations.missing(applied, guest=guest)
    if steps and applied:
        copy(path, path.with_name(f"{path.name}.schema-{max(applied)}"))
    for step in steps:
        for statement in step.statements(WORDS):
            connection.execute(statement)
        note, arrange = positional(migrations.NOTE)
        connection.execute(note, arrange((step.version, step.name, step.digest)))
    if steps:
        connection.execute("ANALYZE")  # which makes the table for statistics
        connection.execute("DELETE FROM sqlite_stat1")
        connection.executemany("INSERT INTO sqlite_stat1 VALUES ('entries', ?, ?)", _STATISTICS.items())
    connection.execute("COMMIT")


def copy(path: Path, target: Path) -> None:
    """A consistent copy of a database that may be in use; *target* appears whole or not at all.

    Raises ``StorageFull``.
    """
    if shutil.disk_usage(target.parent).free < path.stat().st_size + _MARGIN:
        raise StorageFull(f"There is no room for a copy of {path} at {target}.", hint="Make room, then try again.")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    with closing(connect(path, read_only=True, guest=True)) as source, closing(sqlite3.connect(partial)) as copied:
        source.backup(copied)  # in one step: a copy in several begins anew whenever another connection writes
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.chmod(0o600)
    adopt(partial.name, target.parent)
    partial.replace(target)
    sync_folder(target.parent)


def _network_file_system(folder: Path) -> str | None:
    """The type of the file system of *folder* if it is a network file system (Linux only)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    return network_kind(os.path.realpath(folder), mounts)


def network_kind(folder: str, mounts: list[str]) -> str | None:
    """The same, from the lines of ``mountinfo`` (see proc(5)): the longest mount point that contains *folder*."""
    best, kind = "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        if (folder + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind if _NETWORK.fullmatch(kind) else None
