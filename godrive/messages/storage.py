"""What may be said to the storage actor: blobs and signed requests.  Bytes are never a message."""

from __future__ import annotations

from typing import ClassVar

from godrive.model import BlobInfo, Content, ObjectKey, Page, SignedRequest, Upload
from godrive.principal import Principal
from godrive.runtime import Ask, Contract, Lane


class Storage(Contract, name="storage"):
    """Owns the blob store."""


class Admit(Ask[Storage, float]):
    """Whether a blob of that size may come.  Raises ``TooLarge``, ``StorageFull``, ``StoreUnavailable``.

    The reply is for how many seconds after the end of its URL it may still be
    on its way where nobody sees it: none where it comes through this server.
    """

    size_bytes: int


class SignPut(Ask[Storage, SignedRequest]):
    """The request by which the client sends the bytes of a pending upload.

    A URL of this server acts for the user behind *by* and ends with their right.
    """

    by: Principal
    upload: Upload


class SignGet(Ask[Storage, SignedRequest]):
    """The request by which anyone who holds it reads the file, or only its headers (*head*).

    It is valid for *expires_in* seconds; ``None`` is the default of the
    configuration.  Only a store that this server answers for honours *inline*.
    Raises ``Invalid`` for a time over the maximum.

    A URL of this server acts for the user behind *by* and ends with their
    right.  A URL of an S3 store cannot be revoked.
    """

    by: Principal
    content: Content
    inline: bool = False
    head: bool = False
    expires_in: float | None = None


class HeadBlob(Ask[Storage, BlobInfo]):
    """What the store has under the key.  Raises ``NotFound``.

    It waits long, for of a large blob the store may first have to make a copy
    that no URL leads to, or to compute the digest.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    object_key: ObjectKey

    timeout: ClassVar[float] = 300.0


class DigestBlob(Ask[Storage, str]):
    """The blob's SHA-256 in hexadecimal, by reading it: for a store that keeps none.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey

    timeout: ClassVar[float] = 600.0


class SniffBlob(Ask[Storage, str]):
    """The blob's media type, by its first bytes and the file's *name*.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.WRITE
    object_key: ObjectKey
    name: str


class Received(Ask[Storage, int | None]):
    """Bytes received so far by a put in progress, ``None`` when there is none."""

    object_key: ObjectKey


class DeleteBlob(Ask[Storage, None]):
    """Remove the blob; again is harmless."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey


class ListBlobs(Ask[Storage, Page[BlobInfo]]):
    """Blobs in key order, a page at a time; *after* is the last key of the page before."""

    lane: ClassVar[Lane] = Lane.CHORE
    limit: int
    after: str = ""


class QuarantineBlob(Ask[Storage, None]):
    """Set a blob aside that no row refers to; an operator decides."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey


class SweepStaging(Ask[Storage, int]):
    """Remove what puts left unfinished for more than *age* seconds; how many."""

    lane: ClassVar[Lane] = Lane.CHORE
    age: float


class CheckStore(Ask[Storage, None]):
    """Raises ``StoreUnavailable`` unless the store answers."""

    lane: ClassVar[Lane] = Lane.CHORE
