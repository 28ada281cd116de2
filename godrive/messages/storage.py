"""Messages to the storage actor: blobs and signed requests.  Messages never carry the bytes of files."""

from __future__ import annotations

from typing import ClassVar

from godrive.blobs.parts import MOST_PARTS, SentPart, StoredPart
from godrive.model import BlobInfo, Content, FileId, ObjectKey, Page, SignedRequest, Upload, Value
from godrive.principal import Principal
from godrive.runtime import Ask, Contract, Lane


class Storage(Contract, name="storage"):
    """Owns the blob store."""


class Admission(Value):
    """How a store takes a blob.

    *in_transit* is for how many seconds a PUT may still run after its URL has
    expired without this server seeing it; 0 if the bytes pass through this
    server.  *part_size* is 0 unless clients can send it in parts.
    """

    in_transit: float
    part_size: int = 0


THROUGH_US = Admission(in_transit=0.0)
"""How a store takes a blob that clients cannot send to it themselves."""


class Admit(Ask[Storage, Admission]):
    """Check that the store accepts a blob of that size, and return how.

    *part_size* is what the client asks for.  Raises ``TooLarge``,
    ``StorageFull``, ``StoreUnavailable``, ``Invalid`` (no store takes such parts).
    """

    size_bytes: int
    part_size: int | None = None


class SignPut(Ask[Storage, SignedRequest]):
    """Return the signed request that sends the bytes of a pending upload.

    A URL of this server acts for the user behind *by* and stops working when
    that user loses the right.
    """

    by: Principal
    upload: Upload


class BeginParts(Ask[Storage, str]):
    """Prepare the store for the parts of a blob, and return its id of them.  Raises ``StoreUnavailable``."""

    lane: ClassVar[Lane] = Lane.WRITE
    object_key: ObjectKey


class SignParts(Ask[Storage, list[SignedRequest]]):
    """Return the signed requests that send parts of a pending upload, one for each number.

    Each is for the exact length of its part, and ends with the upload.  Raises ``Invalid`` for a number that is none.
    """

    upload: Upload
    numbers: list[int]


class ListParts(Ask[Storage, list[StoredPart]]):
    """Return at most *limit* of the parts that have arrived, from the one after number *after*.

    Raises ``NotFound`` if they have been joined or aborted.
    """

    upload: Upload
    after: int = 0
    limit: int = MOST_PARTS


class JoinParts(Ask[Storage, None]):
    """Make the blob of an upload from its parts, if all have arrived as planned.  Idempotent.

    *claimed* are the parts that the client has sent,
    to be compared with those that the store has.  If the parts *settle* only
    after some time, newer ones are not joined.  Raises ``Conflict`` (a part has
    not arrived, or is too new), ``Invalid`` (a part is not the planned one),
    ``NotFound`` (the parts were aborted).
    """

    lane: ClassVar[Lane] = Lane.WRITE
    upload: Upload
    claimed: list[SentPart] | None = None
    settle: float = 0.0

    timeout: ClassVar[float] = 300.0


class AbortParts(Ask[Storage, None]):
    """Delete the parts of an upload that have not been joined.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey
    multipart: str


class SignGet(Ask[Storage, SignedRequest]):
    """Return a signed request that reads the file, or only its headers (*head*).  Anyone may send it.

    It is valid for *expires_in* seconds; ``None`` means the configured default.
    An S3 store ignores *inline*.  Raises ``Invalid`` for a time over the maximum.

    A URL of this server acts for the user behind *by* and stops working when
    that user loses the right.  A URL of an S3 store cannot be revoked.
    """

    by: Principal
    content: Content
    inline: bool = False
    head: bool = False
    expires_in: float | None = None


class SignArchive(Ask[Storage, SignedRequest]):
    """Return a signed request that reads a folder as a ZIP archive.  Anyone may send it.

    The URL is always one of this server: it acts for the user behind *by* and
    stops working when that user loses the right.  *expires_in* is as in ``SignGet``.
    """

    by: Principal
    folder_id: FileId
    expires_in: float | None = None


class HeadBlob(Ask[Storage, BlobInfo]):
    """Return what the store knows of the blob.  Raises ``NotFound``.

    With *multipart*, the parts of that id can no longer replace the blob.

    The timeout is long: for a large blob, the store may first copy it to a key
    that no URL can write, or compute the digest.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    object_key: ObjectKey
    multipart: str = ""

    timeout: ClassVar[float] = 300.0


class VouchForBlob(Ask[Storage, BlobInfo | None]):
    """Return what a HEAD would, as far as it follows from an event of the store about a *blob* with *metadata*.

    ``None`` unless the key is written once and the metadata shows that a client
    wrote it by the URL of an intent.  Sends no request to the store.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    blob: BlobInfo
    metadata: dict[str, str]


class DigestBlob(Ask[Storage, str]):
    """Read the blob and return its SHA-256 in hex, for a store that keeps none.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey

    timeout: ClassVar[float] = 600.0


class SniffBlob(Ask[Storage, str]):
    """Determine the media type from the first bytes and the file's *name*.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.WRITE
    object_key: ObjectKey
    name: str


class Received(Ask[Storage, int | None]):
    """Return the bytes received so far by a PUT in progress; ``None`` if there is no such PUT."""

    object_key: ObjectKey


class DeleteBlob(Ask[Storage, None]):
    """Delete the blob.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey


class FinishStaged(Ask[Storage, BlobInfo]):
    """Make the blob of an upload that has all of its bytes, for one whose client does not come back.

    Raises ``UploadFinished`` (there is a blob), ``Gone``, ``DigestMismatch``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    upload: Upload

    timeout: ClassVar[float] = 600.0


class DiscardStaged(Ask[Storage, None]):
    """Delete the bytes of an upload that are not a blob yet.  Idempotent.  *staging* is the upload's, if known."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey
    staging: str = ""


class ListAbandoned(Ask[Storage, Page[ObjectKey]]):
    """List keys with bytes that are not a blob yet and were last written over *age* seconds ago, in order.

    *after* is the last key of the previous page.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    age: float
    limit: int
    after: str = ""

    timeout: ClassVar[float] = 600.0


class ListBlobs(Ask[Storage, Page[BlobInfo]]):
    """List blobs in key order, one page at a time.  *after* is the last key of the previous page."""

    lane: ClassVar[Lane] = Lane.CHORE
    limit: int
    after: str = ""


class QuarantineBlob(Ask[Storage, None]):
    """Move a blob that no row refers to into quarantine, where an operator can inspect it.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey


class SweepStaging(Ask[Storage, int]):
    """Delete the remains of interrupted PUTs older than *age* seconds.  Returns their number."""

    lane: ClassVar[Lane] = Lane.CHORE
    age: float


class CheckStore(Ask[Storage, None]):
    """Check that the store answers.  Raises ``StoreUnavailable``."""

    lane: ClassVar[Lane] = Lane.CHORE
