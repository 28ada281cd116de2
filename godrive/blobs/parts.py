"""Large blobs that clients send to the store in parts.

The size of the parts is decided when the upload begins, and with it the length
of every part.  So each part is signed for its exact length, and all of them
together are never more bytes than were reserved.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from godrive.errors import Conflict, Invalid
from godrive.model import BlobInfo, ETag, ObjectKey, SignedRequest, Upload, Value

MIB = 1024 * 1024
MOST_PARTS = 10_000
"""The most parts of one blob (Amazon S3 user guide, "multipart upload limits")."""
SMALLEST_PART = 5 * MIB
"""The fewest bytes of every part but the last (ibidem)."""
LARGEST_PART = 5 * 1024 * MIB
"""The most bytes of a part, and of a PUT (ibidem)."""


class StoredPart(Value):
    """A part of a blob that the store has.  The parts are numbered from 1."""

    number: int
    size_bytes: int
    etag: ETag
    modified_at: datetime


class SentPart(Value):
    """A part that a client says it has sent, with the ETag of the store's answer."""

    number: int
    etag: ETag


class PartPlan(Value):
    """How a blob of *size_bytes* (at least 1) is cut into parts of *part_size*, the last of which may be shorter."""

    size_bytes: int
    part_size: int

    @property
    def count(self) -> int:
        """The number of parts.  The first one has the number 1."""
        return -(-self.size_bytes // self.part_size)

    def length(self, number: int) -> int:
        """The bytes of part *number*.  Raises ``Invalid`` if there is no such part."""
        if not 1 <= number <= self.count:
            raise Invalid(f"The upload has the parts 1 to {self.count}, and no part {number}.", field="parts")
        return min(self.part_size, self.size_bytes - (number - 1) * self.part_size)

    def check(self, stored: Sequence[StoredPart], claimed: Sequence[SentPart] | None) -> None:
        """Check that *stored*, ordered by number, are all of the parts, and those that the client claims to have sent.

        Raises ``Conflict`` for a part that has not arrived, and ``Invalid`` for one that is not the planned one.
        """
        arrived = {part.number: part for part in stored}
        for claim in claimed or ():
            part = arrived.get(claim.number)
            if part is not None and part.etag != claim.etag.strip('"'):
                raise Invalid(f"Part {claim.number} has another ETag at the store: {part.etag}.", field="parts")
            self.length(claim.number)
        claims = None if claimed is None else {claim.number for claim in claimed}
        for number in range(1, self.count + 1):
            if (part := arrived.pop(number, None)) is None:
                raise Conflict(f"Part {number} of {self.count} has not arrived.", field="parts")
            if part.size_bytes != self.length(number):
                raise Invalid(
                    f"Part {number} has {part.size_bytes} bytes and not {self.length(number)}: send it again.",
                    field="parts",
                )
            if claims is not None and number not in claims:
                raise Invalid(f"Part {number} of {self.count} is not among the parts to join.", field="parts")
        for number in arrived:
            raise Invalid(f"Part {number} does not belong to the upload.", field="parts")


def plan_parts(size: int, *, threshold: int, part_size: int, asked: int | None = None) -> PartPlan | None:
    """Plan the parts of a blob of *size* bytes; ``None`` if it is sent as a whole.

    It is sent in parts of about *part_size* if it is larger than *threshold*,
    or in parts of exactly the size that the client has *asked* for.  Raises
    ``Invalid`` if that makes too many parts, or parts that no store takes.
    """
    if size == 0 or (asked is None and size <= threshold):
        return None
    if asked is None:
        planned = -(-size // MOST_PARTS)
        return PartPlan(size_bytes=size, part_size=max(part_size, -(-planned // MIB) * MIB))
    if not SMALLEST_PART <= asked <= LARGEST_PART:
        raise Invalid(f"A part has {SMALLEST_PART} to {LARGEST_PART} bytes.", field="part_size")
    plan = PartPlan(size_bytes=size, part_size=asked)
    if plan.count > MOST_PARTS:
        raise Invalid(f"{plan.count} parts are too many: a file has at most {MOST_PARTS}.", field="part_size")
    return plan


def plan_of(upload: Upload) -> PartPlan:
    """Return the plan of the upload's parts.  Raises ``Conflict`` if it has none."""
    if not upload.multipart:
        raise Conflict("The bytes of this upload are not sent in parts.")
    return PartPlan(size_bytes=upload.size_bytes, part_size=upload.part_size)


@runtime_checkable
class PartSigner(Protocol):
    """A store to which clients send the parts of a blob, by signed requests.

    *multipart* is the store's id of the parts that belong together.  It becomes
    invalid when they are joined or aborted, and the requests with it.  Every
    method may raise ``StoreUnavailable``.
    """

    @property
    def signs_parts(self) -> bool:
        """Whether the store, as it was probed, lets the holder of a signed request send that part and nothing else."""
        ...

    async def begin_parts(self, key: ObjectKey) -> str:
        """Prepare the store for the parts of a blob and return their id."""
        ...

    async def presign_part(
        self, key: ObjectKey, multipart: str, number: int, *, size: int, expires_at: datetime
    ) -> SignedRequest:
        """A request that stores part *number* with exactly *size* bytes.  A later one replaces it."""
        ...

    def stored_parts(self, key: ObjectKey, multipart: str, *, after: int = 0) -> AsyncIterator[StoredPart]:
        """The parts that have arrived, by number, from the one after number *after*.  Raises ``NotFound``."""
        ...

    async def join_parts(self, key: ObjectKey, multipart: str, parts: Sequence[StoredPart]) -> None:
        """Make *parts* the blob, unless the key has a blob.  When this returns, it has one.

        Idempotent.  Raises ``NotFound`` if the parts were aborted, and ``Invalid`` if one of them has been replaced.
        """

    async def head_in_parts(self, key: ObjectKey, multipart: str) -> BlobInfo:
        """Describe the blob, and ensure that no parts with that id will replace it.  Raises ``NotFound``."""
        ...

    async def abort_parts(self, key: ObjectKey, multipart: str) -> None:
        """Delete the parts that have not been joined.  Idempotent."""
