"""The values everybody speaks in: ids, users, files, uploads, pages.

All are frozen structs that survive a trip through the codec.  Instants are
aware UTC, sizes are bytes.  A ``parent_id`` of ``None`` in a value means that
the entry lies in the root; a message says where with a :data:`Place`.
"""

from __future__ import annotations

import os
import time
import unicodedata
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, NewType, TypeAlias, TypeVar

import msgspec
from typing_extensions import dataclass_transform

UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
FileId = NewType("FileId", str)
VersionId = NewType("VersionId", str)
UploadId = NewType("UploadId", str)
ObjectKey = NewType("ObjectKey", str)
ETag = NewType("ETag", str)
"""An opaque strong validator, without the quotes of its HTTP form."""

T = TypeVar("T")


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits."""
    millis = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    value = (millis & 0xFFFF_FFFF_FFFF) << 80 | tail
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    digits = f"{value:032x}"  # by hand, for half the price of a UUID object: every request makes a few
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def name_key(name: str) -> str:
    """What makes two names the same: their NFC form (Unicode Annex 15)."""
    return unicodedata.normalize("NFC", name)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class _ValueMeta(msgspec.StructMeta):
    """Makes every value frozen and keyword-only without each having to say so."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        return super().__new__(mcls, name, bases, namespace, frozen=True, kw_only=True, **options)


class Value(msgspec.Struct, metaclass=_ValueMeta):
    """Base of the values below: frozen, compared by content, built by keyword."""


class UserState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


class Usage(Value):
    """Bytes charged to an owner; ``used`` is their sum (live + trash + versions + reserved)."""

    live_bytes: int = 0
    trash_bytes: int = 0
    version_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        return self.live_bytes + self.trash_bytes + self.version_bytes + self.reserved_bytes


class User(Value):
    """A person with a drive.  ``quota_bytes`` of ``None`` is no limit.

    A user of a host application has its id there as *external_id*, and may have no *email* (empty).
    """

    id: UserId
    email: str
    created_at: datetime
    state: UserState = UserState.ACTIVE
    quota_bytes: int | None = None
    usage: Usage = Usage()
    external_id: str | None = None


class Session(Value):
    """One log-in, alive until it expires or is ended; ``generation`` counts its refreshes."""

    id: SessionId
    user_id: UserId
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    generation: int = 0
    address: str = ""
    user_agent: str = ""


class Tokens(Value):
    """What a log-in buys: a short access token and the refresh token that renews it."""

    token: str
    expires_at: datetime
    refresh_token: str
    refresh_expires_at: datetime


class FileKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"


class File(Value):
    """An entry of a drive: a file with its current version, or a folder.

    ``revision`` rises with every change of the entry and is never given twice,
    not even after a backup was restored, so ``etag`` is what ``If-Match``
    compares.  ``content_etag`` names the bytes: blobs are immutable, so it is
    the version's id.
    """

    id: FileId
    owner_id: UserId
    name: str
    created_at: datetime
    updated_at: datetime
    kind: FileKind = FileKind.FILE
    parent_id: FileId | None = None
    mime: str = "application/octet-stream"
    size_bytes: int = 0
    sha256: str | None = None
    version_id: VersionId | None = None
    trashed_at: datetime | None = None
    purge_at: datetime | None = None
    revision: int = 1

    @property
    def etag(self) -> ETag:
        return ETag(f"{self.id}.{self.revision}")

    @property
    def content_etag(self) -> ETag:
        return ETag(str(self.version_id))


class Content(Value):
    """A file together with where the bytes of its current version lie."""

    file: File
    object_key: ObjectKey


class Tombstone(Value):
    """A file in the trash: restorable until ``purge_at``, then its bytes go, then its row."""

    file_id: FileId
    trashed_at: datetime
    purge_at: datetime


class UploadState(StrEnum):
    """``pending`` is the only state that is not final; it has a deadline (``expires_at``)."""

    PENDING = "pending"
    COMMITTED = "committed"
    FAILED = "failed"
    ABORTED = "aborted"
    EXPIRED = "expired"


class Root(Value, tag="root"):
    """The top folder of a drive.  It has no entry of its own."""


class In(Value, tag="in"):
    """The folder with that id."""

    folder_id: FileId


class Anywhere(Value, tag="anywhere"):
    """The whole drive, whatever the folder."""


Spot: TypeAlias = Root | In
"""Where one entry can lie."""
Place: TypeAlias = Root | In | Anywhere
"""What a list can be of."""


def spot(folder_id: FileId | None) -> Spot:
    """The place of an entry whose ``parent_id`` is *folder_id*."""
    return Root() if folder_id is None else In(folder_id=folder_id)


class OnConflict(StrEnum):
    """What to do when the name is taken: refuse, or number the new one (``a (1).txt``)."""

    FAIL = "fail"
    RENAME = "rename"


class Upload(Value):
    """The row behind an upload intent: what was declared, and how it ended."""

    id: UploadId
    owner_id: UserId
    object_key: ObjectKey
    name: str
    mime: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime
    sha256: str | None = None
    parent_id: FileId | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    state: UploadState = UploadState.PENDING
    received_bytes: int = 0
    finished_at: datetime | None = None
    attempts: int = 0
    reason: str | None = None
    file_id: FileId | None = None


class BlobInfo(Value):
    """What a store knows of one blob; ``sha256`` (hex) where it keeps one."""

    key: ObjectKey
    size_bytes: int
    etag: ETag
    modified_at: datetime
    sha256: str | None = None
    mime: str | None = None


class SignedRequest(Value):
    """A request that anyone may send until ``expires_at``, with exactly these ``headers``."""

    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


class Page(Value, Generic[T]):
    """One page of a list; ``next_page`` is opaque and absent on the last."""

    items: list[T]
    next_page: str | None = None


class Sort(StrEnum):
    """The order of a list of files."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    NAME = "name"
    NAME_DESCENDING = "-name"


class Cleanup(Value):
    """Bytes of an upload that ended without a file."""

    upload_id: UploadId
    object_key: ObjectKey


class Purge(Value):
    """A file on its way out and the blobs that nothing else refers to."""

    file_id: FileId
    object_keys: list[ObjectKey]


class Pruned(Value):
    """How many rows of each kind had outlived their use."""

    sessions: int = 0
    uploads: int = 0
    idempotency_keys: int = 0
    users: int = 0


class StoredReply(Value):
    """The answer that was given to the first request with an idempotency key."""

    status: int
    headers: dict[str, str]
    body: bytes


class FileEventKind(StrEnum):
    """What happened to a file, for those outside who want to know."""

    CREATED = "created"
    RENAMED = "renamed"
    MOVED = "moved"
    TRASHED = "trashed"
    RESTORED = "restored"
    PURGED = "purged"


class FileEvent(Value):
    """One change of a file, in the order of ``seq`` for each owner; ``file`` is how it was right after."""

    seq: int
    id: str
    kind: FileEventKind
    owner_id: UserId
    file_id: FileId
    at: datetime
    file: File | None = None
