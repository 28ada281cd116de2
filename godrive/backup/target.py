"""A backup, and the snapshots in it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta

import msgspec

from godrive import config
from godrive.backup.passphrase import unlocked
from godrive.backup.place import filling, opened_store
from godrive.blobs import BlobStore
from godrive.blobs.pages import KeyPage
from godrive.clock import Clock
from godrive.errors import ConfigError, DigestMismatch, NotFound, UploadFinished
from godrive.model import BlobInfo, ObjectKey

FORMAT = 2
"""The number of the format.  A backup with another one is refused."""

DIGEST = 32
"""The bytes of a SHA-256."""

_CATALOG, _SNAPSHOT, _PART = "catalog/", "snapshot/", "part/"
_YOUNG = timedelta(days=1)
_TIME = "%Y%m%dt%H%M%S%f"


class Image(msgspec.Struct, frozen=True):
    """Which parts make a catalog: the digests of those of its *file*, which has *size* bytes, and of its *log*."""

    size: int
    file: bytes
    log: bytes

    @property
    def parts(self) -> set[bytes]:
        """The digests of all parts."""
        digests = self.file + self.log
        return {digests[at : at + DIGEST] for at in range(0, len(digests), DIGEST)}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a snapshot.

    *blobs* is what its catalog names, *bytes* the sizes of all versions, and
    *added_blobs* and *added_bytes* what the backup lacked until then.
    *catalog_sha256* is that of the :class:`Image`.
    """

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
    return f"{now.strftime(_TIME)}z-{secrets.token_hex(2)}"


class Target:
    """An open backup."""

    def __init__(self, store: BlobStore, name: str, clock: Clock, conceal: Callable[[bytes], bytes] = bytes) -> None:
        self.store = store
        self.name = name
        self._clock = clock
        self._conceal = conceal

    def filling(self) -> AbstractContextManager[None]:
        """Say of ``StorageFull`` that it is the backup that is full, and not the drive."""
        return filling(self.name)

    async def may_be_new(self, key: ObjectKey) -> bool:
        """Whether another process may have stored the object for a snapshot that is not whole yet.

        A folder is locked; a bucket cannot be, so all that is younger than a day may be.
        """
        if not self.name.startswith("s3://"):
            return False
        try:
            blob = await self.store.head(key)
        except NotFound:
            return False
        return blob.modified_at > self._clock.now() - _YOUNG

    async def new_id(self, now: datetime) -> str:
        """Return an id for a snapshot, which sorts after those that are there.

        They may be of a clock that was ahead.  The newest snapshot is the one that is
        restored and that no prune deletes, so it must be the last that was made.
        """
        last = max([blob.key async for blob in self._descriptions()], default="").removeprefix(_SNAPSHOT)
        made = new_id(now)
        if made > last:
            return made
        time = datetime.strptime(last.partition("z")[0], _TIME)  # noqa: DTZ007 - it is in UTC, and only printed
        return new_id(time + timedelta(microseconds=1))

    async def snapshots(self) -> list[Snapshot]:
        """Return all snapshots, the oldest first.  Raises ``ConfigError`` if a newer release wrote one."""
        return [await self._read(blob.key) async for blob in self._descriptions()]

    async def _descriptions(self) -> AsyncIterator[BlobInfo]:
        async for blob in self.store.list(after=_SNAPSHOT):
            if not blob.key.startswith(_SNAPSHOT):
                break
            yield blob

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

    async def put_image(self, snapshot_id: str, image: Image) -> str:
        """Store which parts make the catalog of a snapshot, and return the SHA-256 of that."""
        data = msgspec.msgpack.encode(image)
        await self.store.put(catalog_key(snapshot_id), _once(data), size=len(data))
        return hashlib.sha256(data).hexdigest()

    async def image(self, snapshot: Snapshot) -> Image:
        """Return which parts make a catalog.  Raises ``NotFound``, ``BlobDamaged``, ``DigestMismatch``."""
        data = await self._checked(snapshot.catalog_key, bytes.fromhex(snapshot.catalog_sha256))
        return msgspec.msgpack.decode(data, type=Image)

    def part_key(self, digest: bytes) -> ObjectKey:
        """Return the key of a part.  In an encrypted backup it does not show the digest of what it has."""
        return ObjectKey(_PART + self._conceal(digest).hex())

    async def put_part(self, digest: bytes, data: bytes) -> None:
        """Store a part, unless it is there."""
        with suppress(UploadFinished):
            await self.store.put(self.part_key(digest), _once(data), size=len(data), sha256=digest.hex())

    async def part(self, digest: bytes) -> bytes:
        """Return a part.  Raises ``NotFound``, ``BlobDamaged``, ``DigestMismatch``."""
        return await self._checked(self.part_key(digest), digest)

    async def _checked(self, key: ObjectKey, digest: bytes) -> bytes:
        data = b"".join([piece async for piece in self.store.get(key)])
        if hashlib.sha256(data).digest() != digest:
            raise DigestMismatch(f"The object {key} of the backup is damaged.")
        return data

    def is_own(self, key: str) -> bool:
        """Whether the key is not that of a blob of the drive."""
        return key.startswith((_CATALOG, _SNAPSHOT, _PART))

    def own(self, page: KeyPage) -> list[str]:
        """Return the own keys of a page.  The shards of most blobs are numbers, which come before all of them."""
        return [*filter(self.is_own, page.keys)] if page.upto > _CATALOG else []

    async def own_keys(self, snapshots: Iterable[Snapshot]) -> set[str]:
        """Return the own keys that these snapshots need.  Raises ``NotFound``, ``BlobDamaged``, ``DigestMismatch``."""
        keys: set[str] = set()
        for snapshot in snapshots:
            keys |= {_SNAPSHOT + snapshot.id, snapshot.catalog_key}
            keys |= {self.part_key(digest) for digest in (await self.image(snapshot)).parts}
        return keys

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
        opened, conceal = await unlocked(store, place, settings.backup.passphrase, create=create)
        yield Target(opened, place, clock, conceal)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
