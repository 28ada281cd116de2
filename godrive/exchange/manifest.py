"""What an exported folder says about its files: ``godrive-manifest.jsonl``, lines of JSON.

The first line is a :class:`Head`, each other a :class:`Line` for one entry.  A
manifest may have millions of lines, so a temporary database looks them up.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from godrive.errors import ConfigError
from godrive.exchange.local import nanoseconds
from godrive.model import FileKind, PropertyValue

NAME = "godrive-manifest.jsonl"
"""The manifest, in the top folder of an export."""

PARTIAL = f"{NAME}.partial"
"""The manifest of an export that has not ended."""

_LONGEST = 255
"""The most bytes of a file name on the file systems in use."""

_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(\..*)?", re.IGNORECASE)
_MAPPED = re.compile(r"~[0-9a-f]{12}(\.[^.]{1,16})?")
_LONGEST_SUFFIX = 17


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of a manifest: *godrive_export* is the number of the format."""

    godrive_export: int
    user: str
    exported_at: datetime


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry: its path in the drive, and what the drive knows of it.

    *file* is its path below the export where that is another one.  *kept_ns* is
    the time of modification of its file where the file system could not keep
    *modified_at*, in nanoseconds since 1970.
    """

    path: str
    kind: FileKind
    modified_at: datetime
    size: int = 0
    sha256: str | None = None
    mime: str = ""
    properties: dict[str, PropertyValue] = {}
    favorite: bool = False
    file: str | None = None
    kept_ns: int | None = None

    @property
    def place(self) -> str:
        """The path of its file below the export."""
        return self.path if self.file is None else self.file

    @property
    def file_ns(self) -> int:
        """The time of modification of its file, in nanoseconds since 1970."""
        return nanoseconds(self.modified_at) if self.kept_ns is None else self.kept_ns


class Manifest:
    """The lines of a manifest, by the path of the file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def find(self, place: str) -> Line | None:
        """Return the line of the file at that path below the export."""
        row = self._database.execute("SELECT line FROM lines WHERE place = ?", (place,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Line)


@contextmanager
def reading(*files: Path) -> Iterator[Manifest]:
    """Read manifests; the last line about a file counts.  One that does not exist is empty.

    The last line may be cut, because the export was killed.  Raises
    ``ConfigError`` for a file that is no manifest, and ``OSError``.
    """
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as database:
        database.execute("CREATE TABLE lines (place TEXT PRIMARY KEY, line BLOB NOT NULL)")
        database.execute("BEGIN")
        for file in files:
            database.executemany(
                "INSERT OR REPLACE INTO lines VALUES (?, ?)",
                ((line.place, raw) for line, raw in _lines(file)),
            )
        database.execute("COMMIT")
        yield Manifest(database)


def _lines(path: Path) -> Iterator[tuple[Line, bytes]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _no_manifest(path)
        try:
            first = msgspec.json.decode(file.readline(), type=Head)
        except msgspec.DecodeError:
            raise _no_manifest(path) from None
        if first.godrive_export != 1:
            raise ConfigError(
                f"{path} has the format {first.godrive_export}, which this release does not know.",
                hint="Use the release that wrote it, or a newer one.",
            )
        for number, raw in enumerate(file, 2):
            try:
                yield msgspec.json.decode(raw, type=Line), raw
            except msgspec.DecodeError:
                if raw.endswith(b"\n"):
                    raise ConfigError(f"{path} cannot be read as a manifest: line {number}.") from None


def _no_manifest(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not the manifest of an export.", hint="Name another folder, or move that file away.")


class ManifestWriter:
    """Writes the manifest of an export into the open folder *top*.

    Lines go to :data:`PARTIAL`, after those of an export that did not end, so
    that the next run knows what was written.
    """

    def __init__(self, top: int, user: str, now: datetime) -> None:
        self._top = top
        self._head = msgspec.json.encode(Head(1, user, now)) + b"\n"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(PARTIAL, flags, 0o600, dir_fd=top), "a+b")
        if not self._file.tell():
            self._file.write(self._head)
        else:
            self._end_line()
        self._file.flush()
        self._start = self._file.tell()
        """Where the lines of this run begin."""

    def _end_line(self) -> None:
        """Cut a line that was not written to its end."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            whole += len(line) if line.endswith(b"\n") else 0
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def add(self, line: Line) -> None:
        """Add the line of an entry that is there."""
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def complete(self) -> None:
        """Make the lines of this run the manifest, durably."""
        new = f"{PARTIAL}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file.seek(self._start)
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=self._top), "wb") as file:
            file.write(self._head)
            shutil.copyfileobj(self._file, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, NAME, src_dir_fd=self._top, dst_dir_fd=self._top)
        os.unlink(PARTIAL, dir_fd=self._top)
        os.fsync(self._top)

    def close(self) -> None:
        """Close the file.  Idempotent."""
        self._file.close()


def file_name(name: str, *, top: bool) -> str:
    """Return the name of the file for an entry of that name: the name itself, if every system can hold it.

    Otherwise the result is the same each time, and no other name has it.  The
    names of the manifest are taken in the *top* folder.
    """
    is_reserved = (
        len(name.encode()) > _LONGEST
        or name[-1] in ". "
        or _DEVICE.fullmatch(name) is not None
        or _MAPPED.search(name) is not None
        or (top and name.casefold().startswith(NAME))
    )
    return mapped(name) if is_reserved else name


def mapped(name: str) -> str:
    """Return a name in its place that every file system can hold."""
    stem, dot, suffix = name.rpartition(".")
    tail = dot + suffix if stem and 1 < len(dot + suffix) <= _LONGEST_SUFFIX else ""
    kept = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name.removesuffix(tail) if tail else name)
    tail = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f ~]', "_", tail)
    mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:12]
    room = _LONGEST - len((mark + tail).encode()) - 1
    return f"{kept.encode()[:room].decode(errors='ignore')}{mark}{tail}"
