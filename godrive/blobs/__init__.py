"""Bytes by object key.

A blob is immutable: a key is written once, whole or not at all, and then only
read and deleted.  Every store passes ``tests/contracts/test_blob_store.py``.
A capability of some stores is a protocol of its own (:class:`Appendable`,
:class:`FileBacked`, :class:`Presigner`).  Test for it with ``isinstance``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from godrive.errors import DriveError, Invalid, StoreUnavailable, TooLarge, UploadFinished
from godrive.model import BlobInfo, ObjectKey, SignedRequest, Upload, Value

OWNER: ContextVar[str] = ContextVar("owner", default="")
"""Whose bytes a put stores, for stores in which bodies wait for each other."""

_KEY = re.compile(r"([0-9a-z-]{1,32})/([0-9a-z-]{1,64})", re.ASCII)
_NAMES = re.compile(r"(?:[0-9a-z-]{1,64}/)*", re.ASCII)


def is_key(text: str) -> bool:
    """Whether the text has the form of an object key."""
    return _KEY.fullmatch(text) is not None


def are_names(names: list[str]) -> bool:
    """Whether all of them are names of blobs in a shard: a look at each would take longer than to list them."""
    return _NAMES.fullmatch("/".join([*names, ""])) is not None


def split_key(key: str) -> tuple[str, str]:
    """Split an object key into its shard and name: ``018f2c3a/018f2c3a-...``.

    Both consist of digits, lower-case letters and hyphens, so no key leads out
    of its folder or prefix in any store.  Raises ``Invalid``.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise Invalid("An object key is a shard and a name of [0-9a-z-], with a slash between.", field="object_key")
    return match[1], match[2]


class BlobExists(UploadFinished):
    """A put found a blob under its key.  ``sha256`` is the digest of the bytes that it did not store."""

    def __init__(self, sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256


class BlobDamaged(StoreUnavailable):
    """The bytes of a blob are not those that were stored."""


class BlobTooLarge(TooLarge):
    """The store can never have a blob of that length, so another attempt fails too."""


class BlobStore(Protocol):
    """Stores blobs.

    Every method may raise ``StoreUnavailable`` while the store is down.
    Vendor errors never leave a driver.
    """

    async def open(self) -> None:
        """Create or check what the store needs.  Raises ``ConfigError`` if it cannot serve."""

    async def close(self) -> None:
        """Release all resources.  Idempotent."""

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """Store *body* under *key*, using a constant amount of memory.

        A chunk of *body* must not change after it was yielded.
        When this returns the blob is durable, and its ``sha256`` is known.
        Raises ``UploadFinished`` when the key has a blob already (of several
        writers exactly one wins; a store that digests the body before it knows
        raises :class:`BlobExists`), ``LengthMismatch`` at the first byte over
        *size* or when fewer came, ``DigestMismatch``, ``StorageFull``,
        :class:`BlobTooLarge`.  On any error, and on cancellation, nothing is stored under *key*; only a
        cancellation that comes while the blob is being published may find it
        there, whole.
        """
        ...

    def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from *start* up to but not including *end*, in chunks.  Raises ``NotFound``."""
        ...

    async def head(self, key: ObjectKey) -> BlobInfo:
        """Describe the blob.  Raises ``NotFound``."""
        ...

    async def delete(self, key: ObjectKey) -> None:
        """Delete the blob.  Idempotent."""

    def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """All blobs whose key is greater than *after*, in key order."""
        ...

    async def quarantine(self, key: ObjectKey) -> None:
        """Move the blob to where an operator can find it and no reader can.  Idempotent."""

    async def sweep_staging(self, before: datetime) -> int:
        """Remove what unfinished puts left behind before that instant, and return how many."""
        ...

    async def free_bytes(self) -> int | None:
        """Free space in bytes, or ``None`` if it is unknown."""
        ...

    def receiving(self, key: ObjectKey) -> int | None:
        """Bytes received so far by a put in this process, or ``None`` if there is none."""
        ...


class Staged(Value):
    """The beginning of a blob that is not whole yet: *offset* bytes, which are durable.

    The caller keeps it.  It is all that a store needs to go on, also in another
    process: *state* is opaque, empty before the first byte, and never long.
    """

    key: ObjectKey
    offset: int = 0
    state: str = ""


def staged_of(upload: Upload) -> Staged:
    """Return what the store needs to continue the upload."""
    return Staged(key=upload.object_key, offset=upload.received_bytes, state=upload.staging)


@runtime_checkable
class Appendable(Protocol):
    """A store in which a blob can be written in several steps.

    Until :meth:`finish`, no other method finds any of its bytes.  The caller
    ensures that in this process only one call at a time works on a key.  Any
    method may raise ``StoreUnavailable``, as those of :class:`BlobStore`.
    """

    def append(
        self,
        staged: Staged,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        mime: str = "",
        whole: bool = False,
    ) -> AsyncGenerator[Staged]:
        """Append *body*, using a constant amount of memory.

        Yields what is staged each time that more bytes are durable, and exactly
        once after *body* has ended.  If *body* raises, what it yielded before is made
        durable and yielded, and then the error is raised.  With *whole*, only
        the whole of *body* counts.  A caller that asks for the next step has
        kept the one before: no earlier one can be continued then.  Bytes after
        *staged* that an earlier append left are dropped.

        A chunk of *body* must not change after it was yielded.  *size* is the
        length of the blob if it is known, and *mime* its type; both must not
        change after the first call.  Raises ``StorageFull``, ``Gone`` (the
        bytes before *staged* are lost).
        """
        ...

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """Make the staged bytes the blob.  When this returns, the blob is durable and nothing is staged.

        Raises ``UploadFinished`` when the key has a blob already, ``Gone`` (the
        staged bytes are lost), ``DigestMismatch`` (they stay).  Repeat a call
        whose result is unknown: the blob is then there, or is made.
        """
        ...

    async def join(self, key: ObjectKey, parts: Sequence[Staged]) -> Staged:
        """Stage the bytes of *parts*, one after another, for the blob of *key*.

        After that, only the same call, or a deletion of the parts, may follow
        for them: :meth:`discard`, and ``delete``, because they may be blobs now.
        Raises ``Gone`` (the bytes of a part are lost), ``StorageFull``.
        """
        ...

    async def discard(self, staged: Staged) -> None:
        """Delete what is staged for the key.  Idempotent."""

    def abandoned(self, before: datetime, *, after: str = "") -> AsyncIterator[ObjectKey]:
        """The keys greater than *after* that have something staged, last written before that instant, in order.

        To discard it, no *state* is needed.
        """
        ...


class SmallBlob(NamedTuple):
    """A body that is in memory as a whole, and its declared digest and type."""

    key: ObjectKey
    content: bytes
    mime: str | None = None
    sha256: str | None = None
    is_new: bool = False
    """No blob ever had the key."""


@runtime_checkable
class Packing(Protocol):
    """A store that makes small blobs durable in groups."""

    @property
    def pack_below(self) -> int:
        """The largest size of a small blob in bytes."""
        ...

    async def put_each(self, blobs: Sequence[SmallBlob]) -> list[BlobInfo | DriveError]:
        """Store several blobs, which become durable together.

        Returns for each its description, or the error that :meth:`BlobStore.put` would raise.  Raises
        ``StorageFull`` and ``StoreUnavailable`` if none could be stored.
        """
        ...


class Taken(StrEnum):
    """How a store took a local file."""

    SHARED = "shared"
    """Blob and file share their blocks until one of them changes."""
    LINKED = "linked"
    """Blob and file are one: who changes the file changes the blob."""
    COPIED = "copied"


@runtime_checkable
class TakesFiles(Protocol):
    """A store that can make a blob of a local file without reading its bytes into this process."""

    async def take(
        self, key: ObjectKey, source: int, *, mime: str | None = None, link: bool = False
    ) -> tuple[BlobInfo, Taken]:
        """Make the open file *source* the blob of *key*: share its blocks if the file system can, else copy it.

        With *link*, make a hard link instead if the file system can.  When this
        returns the blob is durable, and its ``sha256`` is that of the blob.  The
        caller finds out whether the file changed meanwhile.  Raises
        ``UploadFinished``, ``StorageFull``.
        """
        ...


@runtime_checkable
class FileBacked(Protocol):
    """A store whose blobs are local files, or most of them, so that the kernel can send them."""

    async def open_file(self, key: ObjectKey) -> int | None:
        """A read-only file descriptor, which the caller closes.

        ``None`` if the blob is no file of its own.  Raises ``NotFound``.
        """
        ...


@runtime_checkable
class Presigner(Protocol):
    """A store that clients reach directly, by signed requests."""

    async def presign_put(
        self, key: ObjectKey, *, size: int, mime: str, sha256: str | None, expires_at: datetime
    ) -> SignedRequest:
        """A request that stores exactly *size* bytes under *key*, once.  An empty *mime* allows any type."""
        ...

    def vouch_for(self, blob: BlobInfo, metadata: Mapping[str, str]) -> BlobInfo | None:
        """The answer of :meth:`BlobStore.head`, as far as it follows from an event of the store about *blob*.

        ``None`` unless nothing can have changed the blob since, and its user
        *metadata* shows that it was written with a request of :meth:`presign_put`.
        """
        ...

    async def presign_get(
        self, key: ObjectKey, *, filename: str, mime: str, expires_at: datetime, method: Literal["GET", "HEAD"] = "GET"
    ) -> SignedRequest:
        """A request that reads the blob, served as an attachment named *filename*, or its headers with HEAD."""
        ...
