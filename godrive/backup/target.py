"""A backup, and the snapshots in it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from godrive import config
from godrive.backup.passphrase import unlocked
from godrive.backup.place import opened_store
from godrive.blobs import BlobStore
from godrive.clock import Clock
from godrive.errors import ConfigError, NotFound
from godrive.model import ObjectKey

FORMAT = 1
"""The number of the format.  A backup with another one is refused."""

_CATALOG, _SNAPSHOT = "catalog/", "snapshot/"
_CHUNK = 1 << 20


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a snapshot.  *added_blobs* and *added_bytes* are what the backup lacked until then."""

    format: int = FORMAT
    id: str
    created_at: datetime
    godrive: str
    catalog_sha256: str
    catalog_bytes: int
    blobs: int
    bytes: int
    added_blobs: int
    added_bytes: int
    keyring: str

    @property
    def catalog_key(self) -> ObjectKey:
        """The key of its catalog."""
        return catalog_key(self.id)


def catalog_key(snapshot_id: str) -> ObjectKey:
    """Return the key of the catalog of a snapshot."""
    return ObjectKey(_CATALOG + snapshot_id)


def new_id(now: datetime) -> str:
    """Return an id for a snapshot.  Ids sort by time, to the microsecond."""
    return f"{now:%Y%m%dt%H%M%S}{now.microsecond:06}z-{secrets.token_hex(2)}"


class Target:
    """An open backup."""

    def __init__(self, store: BlobStore, name: str) -> None:
        self.store = store
        self.name = name

    async def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, the oldest first.  Raises ``ConfigError`` if a newer release wrote one."""
        found = []
        async for blob in self.store.list(after=_SNAPSHOT):
            if not blob.key.startswith(_SNAPSHOT):
                break
            found.append(await self._read(blob.key))
        return found

    async def find(self, snapshot_id: str | None) -> Snapshot:
        """Return the snapshot, or the newest.  Raises ``NotFound``."""
        found = {snapshot.id: snapshot for snapshot in await self.snapshots()}
        if not found:
            raise NotFound(f"There is no snapshot in {self.name}.")
        chosen = found.get(snapshot_id or max(found))
        if chosen is None:
            raise NotFound(
                f"There is no snapshot {snapshot_id} in {self.name}.", hint="godrive backup list shows them."
            )
        return chosen

    async def write(self, snapshot: Snapshot) -> None:
        """Add the description of a snapshot, which makes it count."""
        data = msgspec.json.encode(snapshot)
        await self.store.put(ObjectKey(_SNAPSHOT + snapshot.id), _once(data), size=len(data))

    async def forget(self, snapshot: Snapshot) -> None:
        """Delete a snapshot, but not its blobs."""
        await self.store.delete(ObjectKey(_SNAPSHOT + snapshot.id))
        await self.store.delete(snapshot.catalog_key)

    async def catalog(self, snapshot: Snapshot, path: Path) -> None:
        """Write the catalog of a snapshot to *path*."""
        with _new_file(path) as file:
            async for piece in self.store.get(snapshot.catalog_key):
                await asyncio.to_thread(file.write, piece)

    def is_own(self, key: str) -> bool:
        """Whether the key is not that of a blob of the drive."""
        return key.startswith((_CATALOG, _SNAPSHOT))

    def id_of(self, key: str) -> str:
        """Return the snapshot that an own key belongs to."""
        return key.partition("/")[2]

    async def _read(self, key: ObjectKey) -> Snapshot:
        data = b"".join([piece async for piece in self.store.get(key)])
        known = msgspec.json.decode(data)
        if known.get("format") != FORMAT:
            raise ConfigError(
                f"{self.name} has a snapshot of the format {known.get('format')}; this release knows {FORMAT}.",
                hint="Use the release that wrote it, or a newer one.",
            )
        return msgspec.convert(known, Snapshot)


@asynccontextmanager
async def open_target(
    name: str, settings: config.Config, clock: Clock, *, create: bool = False
) -> AsyncIterator[Target]:
    """Open the backup at *name*: a folder, or ``s3://BUCKET/PREFIX`` in the store of ``blobs.s3``.

    With ``backup.passphrase`` it is an encrypted one.  Raises ``ConfigError`` if
    it does not exist, unless *create*, if another process uses it, or if the
    passphrase is not the right one.
    """
    async with opened_store(name, settings, clock, create=create) as (store, place):
        yield Target(await unlocked(store, place, settings.backup.passphrase, create=create), place)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield a file in pieces."""
    with _opened(path) as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece


def _new_file(path: Path) -> BinaryIO:
    """Create a file that only this user may read."""
    path.touch(0o600, exist_ok=False)
    return path.open("wb")


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")
