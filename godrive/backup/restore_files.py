"""Bring the files of one user back from a snapshot, into a drive that may be serving."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import msgspec

from godrive import email_address, transfer
from godrive.backup.catalog_file import CatalogFile
from godrive.backup.contents import opened
from godrive.backup.copying import DAMAGE, paced, sound
from godrive.backup.rests import Pace
from godrive.backup.scratch import scratch
from godrive.backup.target import Snapshot, Target
from godrive.drive import GoDrive
from godrive.errors import NameTaken, NotFound
from godrive.files import names
from godrive.messages.files import EnsureFolder, GetFile
from godrive.model import At, FileKind, ObjectKey, OnConflict, User, name_key
from godrive.principal import HostUser
from godrive.rules.names import numbered
from godrive.rules.rows import any_instant

_ENTRIES = (
    "SELECT e.id, e.name, e.kind, e.mime, e.modified_at, v.object_key, v.size_bytes, v.sha256 FROM entries e "
    "LEFT JOIN versions v ON v.id = e.version_id "
    "WHERE e.owner_id = ? AND e.parent_id = ? AND e.state = 'live'"
)


class RestoredFiles(msgspec.Struct):
    """How many files and bytes came back, and how many were there already.  *damaged* are the paths of the others."""

    files: int = 0
    bytes: int = 0
    unchanged: int = 0
    damaged: list[str] = []


class _Entry(NamedTuple):
    id: str
    name: str
    kind: str
    mime: str
    modified_at: int
    object_key: ObjectKey
    size_bytes: int
    sha256: str | None


async def restore_files(
    drive: GoDrive,
    target: Target,
    snapshot: Snapshot,
    user: User,
    restored: RestoredFiles,
    *,
    path: str = "",
    pace: Pace | None = None,
) -> None:
    """Store the files of *user* at *path*, or all if it is empty, as the snapshot has them.

    A file that is there with the same bytes stays as it is.  A file or folder
    whose name is taken by something else gets a number.  Nothing is replaced or
    removed, and what was in the trash, and earlier versions, stay in the backup.
    A file whose bytes are damaged in the backup is left out.  Repeat a call that was
    interrupted.  Raises ``NotFound`` if the snapshot has no such user or path, and
    what an upload raises, for example ``QuotaExceeded``.
    """
    by = HostUser(user_id=user.id)
    renamed: dict[tuple[str, ...], tuple[str, ...]] = {}
    with scratch(drive.config.data_dir, "restore-") as folder:
        catalog = folder / "catalog.db"
        await CatalogFile(target, catalog).load(snapshot)
        with opened(catalog) as connection:
            for before, entry in _chosen(connection, _owner(connection, user, snapshot), path):
                above = renamed.get(before, before)
                if entry.kind == FileKind.FOLDER.value:
                    made = await _make_folder(drive, by, above, entry.name)
                    if made != (*before, entry.name):
                        renamed[*before, entry.name] = made
                elif await _is_there(drive, by, above, entry):
                    restored.unchanged += 1
                else:
                    try:
                        await _receive(drive, by, above, entry, paced(sound(target.store, entry.object_key), pace))
                    except DAMAGE:
                        restored.damaged.append("/".join((*before, entry.name)))
                        continue
                    restored.files += 1
                    restored.bytes += entry.size_bytes


async def _receive(
    drive: GoDrive, by: HostUser, above: tuple[str, ...], entry: _Entry, body: AsyncIterator[bytes]
) -> None:
    """Store the file in the folder *above*."""
    await transfer.receive(
        drive,
        by,
        At(path=above, parents=True),
        entry.name,
        body,
        size=entry.size_bytes,
        mime=entry.mime,
        sha256=entry.sha256,
        on_conflict=OnConflict.RENAME,
        modified_at=any_instant(entry.modified_at),
    )


def _owner(connection: sqlite3.Connection, user: User, snapshot: Snapshot) -> str:
    """Return the id that the user has in the snapshot: the same, or that of the same e-mail address."""
    sql = "SELECT id FROM users WHERE id = ? OR (email_key <> '' AND email_key = ?) ORDER BY id = ? DESC LIMIT 1"
    key = email_address.key(user.email) if user.email else ""
    row = connection.execute(sql, (user.id, key, user.id)).fetchone()
    if row is None:
        raise NotFound(f"The snapshot {snapshot.id} has no user {user.email or user.id}.")
    return str(row[0])


def _chosen(connection: sqlite3.Connection, owner: str, path: str) -> Iterator[tuple[tuple[str, ...], _Entry]]:
    """Yield the entries on *path* and all below it, each with the names above it, a folder before its contents.

    Raises ``NotFound`` before the first one.
    """
    above: tuple[str, ...] = ()
    parent = ""
    if not path.strip("/"):
        yield from _below(connection, owner, parent, above)
        return
    on_path: list[tuple[tuple[str, ...], _Entry]] = []
    for name in names(path):
        entry = _named(connection, owner, parent, name)
        on_path.append((above, entry))
        parent, above = entry.id, (*above, entry.name)
    yield from on_path
    yield from _below(connection, owner, parent, above)


def _below(
    connection: sqlite3.Connection, owner: str, parent: str, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], _Entry]]:
    folders = [(parent, above)]
    while folders:
        parent, above = folders.pop()
        for row in connection.execute(f"{_ENTRIES} ORDER BY e.name_key", (owner, parent)):
            entry = _Entry(*row)
            yield above, entry
            if entry.kind == FileKind.FOLDER.value:
                folders.append((entry.id, (*above, entry.name)))


def _named(connection: sqlite3.Connection, owner: str, parent: str, name: str) -> _Entry:
    row = connection.execute(f"{_ENTRIES} AND e.name_key = ?", (owner, parent, name_key(name))).fetchone()
    if row is None:
        raise NotFound(f"The snapshot has no {name!r} there.")
    return _Entry(*row)


async def _make_folder(drive: GoDrive, by: HostUser, above: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Create the folder unless it is there, with a number if a file has its name.  Returns its path."""
    where, wanted, number = At(path=above, parents=True), name, 0
    while True:
        try:
            await drive.metadata.ask(EnsureFolder(by, where, wanted))
        except NameTaken as error:
            if error.field != "name":  # a file has the place of a folder above meanwhile
                raise
            number += 1
            wanted = numbered(name, number)
        else:
            return (*above, wanted)


async def _is_there(drive: GoDrive, by: HostUser, above: tuple[str, ...], entry: _Entry) -> bool:
    """Whether the drive has a file of these bytes there, under the name or, of an earlier run, with a number."""
    name, number = entry.name, 0
    while True:
        try:
            found = await drive.metadata.ask(GetFile(by, At(path=(*above, name))))
        except NotFound:
            return False
        if found.kind is FileKind.FILE and entry.sha256 is not None and found.sha256 == entry.sha256:
            return True
        number += 1
        name = numbered(entry.name, number)
