"""The place of a backup, and the snapshots in it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import msgspec

from godrive import config
from godrive.blobs import BlobStore
from godrive.clock import Clock
from godrive.errors import ConfigError, NotFound
from godrive.model import ObjectKey
from godrive.opening import FolderLock
from godrive.paths import exists

FORMAT = 1
"""The number of the format.  A backup with another one is refused."""

KEY = ObjectKey("key/1")
"""The object with the key of an encrypted backup."""

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
    parts = urlsplit(name)
    lock: FolderLock | None = None
    if parts.scheme == "s3":
        from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415

        prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        s3 = msgspec.structs.replace(settings.blobs.s3, bucket=parts.netloc, prefix=prefix, create_bucket=create)
        store: BlobStore = S3BlobStore(s3, clock=clock)
    else:
        from godrive.blobs.disk import DiskBlobStore  # noqa: PLC0415

        folder = _folder(name, settings, create=create)
        name, lock = str(folder), FolderLock(folder / "blobs.lock")
        lock.acquire()
        store = DiskBlobStore(folder)
    try:
        try:
            await store.open()
            yield Target(await _unlocked(store, name, settings.backup.passphrase, create=create), name)
        finally:
            await store.close()
    finally:
        if lock is not None:
            lock.release()


async def _unlocked(store: BlobStore, name: str, passphrase: str, *, create: bool) -> BlobStore:
    """Return the store, or one that encrypts.  Raises ``ConfigError``."""
    try:
        stored = b"".join([piece async for piece in store.get(KEY)])
    except NotFound:
        if not passphrase:
            return store
        if await anext(aiter(store.list()), None) is not None:
            hint = "Choose another target, or set no passphrase."
            raise ConfigError(f"The backup in {name} is not encrypted.", hint=hint) from None
        if not create:
            raise ConfigError(f"There is no backup in {name}.", hint="godrive backup create makes one.") from None
        stored = b""
    if not passphrase:
        hint = "Name a file with its passphrase with backup.passphrase_file, or GODRIVE_BACKUP_PASSPHRASE_FILE."
        raise ConfigError(f"The backup in {name} is encrypted.", hint=hint)
    try:
        from godrive.backup.sealing import SealedKey, SealedStore  # noqa: PLC0415 - needs PyNaCl
    except ModuleNotFoundError as error:
        hint = "pip install 'godrive-server[backup]'"
        raise ConfigError(f"{error.name} is not installed, which encrypts backups.", hint=hint) from None
    if stored:
        try:
            sealed = msgspec.json.decode(stored, type=SealedKey)
        except msgspec.DecodeError:
            raise ConfigError(f"The key of the backup in {name} is damaged.") from None
        return SealedStore(store, await asyncio.to_thread(sealed.open, passphrase, name))
    sealed, key = await asyncio.to_thread(SealedKey.make, passphrase)
    data = msgspec.json.encode(sealed)
    await store.put(KEY, _once(data), size=len(data))
    return SealedStore(store, key)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def pieces(path: Path) -> AsyncIterator[bytes]:
    """Yield a file in pieces."""
    with _opened(path) as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK):
            yield piece


def _folder(name: str, settings: config.Config, *, create: bool) -> Path:
    folder = Path(name).absolute()
    if not create and not exists(folder / "objects"):
        raise ConfigError(f"There is no backup in {folder}.", hint="godrive backup create makes one.")
    if exists(folder / "godrive.db") or folder == settings.blobs_path.absolute():
        raise ConfigError(f"{folder} is the folder of a drive, not of a backup.")
    return folder


def _new_file(path: Path) -> BinaryIO:
    """Create a file that only this user may read."""
    path.touch(0o600, exist_ok=False)
    return path.open("wb")


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")
