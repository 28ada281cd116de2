"""Operations that change nothing: head, get, list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio

from godrive.blobs.s3.bucket import Bucket
from godrive.blobs.s3.faults import FAULTS, is_passing, translate
from godrive.blobs.s3.info import blob_info, listed_info
from godrive.errors import NotFound, RangeNotSatisfiable, StoreUnavailable
from godrive.model import BlobInfo, ObjectKey

CHUNK = 256 * 1024
"""The largest chunk that ``get`` yields."""

RESUMES = 3
"""How often a download that breaks off is resumed."""


class Reading(Bucket):
    """See :class:`~godrive.blobs.BlobStore`."""

    async def head(self, key: ObjectKey) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.head`.

        If clients' PUTs lead below ``incoming/``, this also publishes what was
        sent, so that its URL cannot change it any more.
        """
        place = self.layout.object(key)
        try:
            return blob_info(key, await self.look(place))
        except NotFound:
            if self.capabilities.direct:
                raise
        await self.settle(key)
        return blob_info(key, await self.look(place))

    def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See :meth:`godrive.blobs.BlobStore.get`.  A transfer that breaks off is resumed."""
        return self.read(self.layout.object(key), start=start, end=end)

    async def read(self, place: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As :meth:`get`, for an object by its key of the bucket."""
        if end is not None and end <= start:
            await self.look(place)
            return
        condition: dict[str, Any] = {}
        resumes = 0
        while True:
            whole = start == 0 and end is None
            wanted: dict[str, Any] = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
            try:
                answer = await self.client.call("get_object", Key=place, **wanted, **condition)
            except RangeNotSatisfiable:
                return  # it starts after the last byte
            condition = {"IfMatch": answer["ETag"]}
            body = answer["Body"]
            try:
                if wanted and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
                    raise StoreUnavailable("The store, or a proxy before it, has answered another range.")
                while piece := await _piece(body, self.client.deadline):
                    start += len(piece)
                    yield piece
            except StoreUnavailable:
                if start == end:
                    return  # it broke off after the last byte, and no range would be left
                if resumes == RESUMES:
                    raise
                resumes += 1
            else:
                return
            finally:
                body.close()

    async def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """See :meth:`godrive.blobs.BlobStore.list`."""
        prefix = self.layout.objects
        begin = {"StartAfter": prefix + after} if after else {}
        async for entry in self.client.pages(
            "list_objects_v2", "Contents", {"NextContinuationToken": "ContinuationToken"}, Prefix=prefix, **begin
        ):
            key = self.layout.object_key(entry["Key"])
            if key is not None:
                yield listed_info(key, entry)

    async def free_bytes(self) -> int | None:
        """Unknown."""
        return None


async def _piece(body: Any, deadline: float) -> bytes:
    try:
        with anyio.fail_after(deadline):
            return bytes(await body.read(CHUNK))
    except TimeoutError:
        raise StoreUnavailable("The store stopped sending.") from None
    except FAULTS as error:
        if not is_passing(error):
            raise translate(error) from error
        raise StoreUnavailable("The store broke off.") from error
