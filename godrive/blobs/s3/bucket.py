"""The base of all operations: the bucket, its layout, what the store honours, and a lock for each key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.layout import Layout
from godrive.blobs.s3.body import MIB, PART_SIZE, PartReader
from godrive.blobs.s3.client import BODY_DEADLINE, DEADLINE, S3Client
from godrive.blobs.s3.exposure import refuse
from godrive.blobs.s3.multipart import Multipart
from godrive.blobs.s3.probe import Capabilities, probe
from godrive.blobs.s3.slots import BodySlots
from godrive.clock import Clock, SystemClock
from godrive.config import S3
from godrive.errors import NotFound, StoreUnavailable, UploadFinished
from godrive.memory import MemoryBudget
from godrive.model import ObjectKey

COPY_LIMIT = 5 * 1024 * MIB
"""The most bytes that one CopyObject moves (Amazon S3 API reference)."""

UNLIMITED = 1_000
COPY_PART = 512 * MIB

_PROBES = 3


class Bucket:
    """The base of :class:`~godrive.blobs.s3.store.S3BlobStore`.

    *capabilities* replaces the probe at ``open``.  A *guest* does without one
    until it first writes or signs: what reads, lists and deletes takes a store to
    honour nothing, which costs a few requests more.  Bodies over *part* bytes are
    uploaded in parts, objects over *copy_limit* are copied in parts.  *deadline*
    is the time limit in seconds of a request without a body.  Bodies on their way
    count against *memory*.
    """

    def __init__(
        self,
        settings: S3,
        *,
        clock: Clock | None = None,
        capabilities: Capabilities | None = None,
        part: int = PART_SIZE,
        copy_limit: int = COPY_LIMIT,
        copy_part: int = COPY_PART,
        deadline: float = DEADLINE,
        memory: MemoryBudget | None = None,
        guest: bool = False,
    ) -> None:
        self.client = S3Client(settings, clock or SystemClock(), deadline=deadline)
        self.multipart = Multipart(self.client)
        self.layout = Layout(settings.prefix)
        self.capabilities = capabilities or Capabilities()
        self._probed = capabilities is not None
        self._probing = anyio.Lock()
        self._guest = guest
        self._accepted = settings.accept_faults
        self.part = part
        self.memory = memory
        self.slots = BodySlots(max(1, memory.limit // (4 * part)) if memory else UNLIMITED, part)
        self._copy_limit = copy_limit
        self.copy_part = copy_part
        self.arriving: dict[ObjectKey, list[PartReader]] = {}
        self._locks: dict[ObjectKey, tuple[anyio.Lock, int]] = {}

    async def open(self) -> None:
        """Connect, make or check the bucket, and find out what the store honours.

        Raises ``ConfigError``, also for a fault of the store that is not accepted.
        """
        await self.client.open()
        if not self._guest:
            await self.honours()

    async def honours(self) -> Capabilities:
        """Return what the store honours, and find it out if need be.

        Raises ``ConfigError`` for a fault of the store that is not accepted, and
        ``StoreUnavailable`` if the store fails three times meanwhile.
        """
        async with self._probing:
            if not self._probed:
                with self.client.refusals_are_mistakes():
                    self.capabilities = await self._probe()
                self._probed = True
        refuse(self.capabilities.faults, self._accepted)
        return self.capabilities

    async def _probe(self) -> Capabilities:
        """Probe again if an answer is lost.

        A store may announce what the probe writes to the very process that is
        starting.  When nothing listens there yet, Ceph 16.2 leaves about one PUT
        in a thousand without an answer.
        """
        for _ in range(_PROBES - 1):
            with suppress(StoreUnavailable):
                return await probe(self.client, self.layout)
        return await probe(self.client, self.layout)

    async def close(self) -> None:
        """See :meth:`godrive.blobs.BlobStore.close`."""
        await self.client.close()

    @asynccontextmanager
    async def publishing(self, key: ObjectKey) -> AsyncIterator[None]:
        """Hold the lock of *key*, so that this process publishes it once at a time."""
        lock, users = self._locks.get(key, (anyio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1

    async def look(self, bucket_key: str) -> dict[str, Any]:
        """The store's HEAD.  Raises ``NotFound``.

        A 404 without a body may mean that the bucket is gone, which is an outage.
        """
        options: dict[str, Any] = {"ChecksumMode": "ENABLED"} if self.capabilities.checksums else {}
        try:
            head: dict[str, Any] = await self.client.call("head_object", Key=bucket_key, **options)
        except NotFound:
            await self.client.check_bucket()
            raise
        return head

    async def look_if_any(self, bucket_key: str) -> dict[str, Any] | None:
        """The store's HEAD, or ``None`` if there is no such object."""
        try:
            return await self.look(bucket_key)
        except NotFound:
            return None

    async def refuse_existing(self, bucket_key: str) -> None:
        """Raises ``UploadFinished`` if the object exists."""
        if await self.look_if_any(bucket_key) is not None:
            raise UploadFinished

    async def transfer(self, source: str, head: dict[str, Any], target: str) -> None:
        """Copy the object that *head* describes.  Raises ``UploadFinished`` if it has changed since."""
        place = {"Bucket": self.client.bucket, "Key": source}
        same: dict[str, Any] = {"CopySource": place, "CopySourceIfMatch": head["ETag"]}
        if head["ContentLength"] <= self._copy_limit:
            await self.client.call("copy_object", Key=target, deadline=BODY_DEADLINE, **same)
            return
        kind, metadata = head.get("ContentType", UNKNOWN), head.get("Metadata", {})
        multipart = await self.multipart.begin(target, kind, metadata)
        try:
            parts = []
            for number, first in enumerate(range(0, head["ContentLength"], self.copy_part), start=1):
                last = min(first + self.copy_part, head["ContentLength"]) - 1
                asked = {**same, "CopySourceRange": f"bytes={first}-{last}"}
                parts.append((number, await self.multipart.copy(target, multipart, number, **asked)))
            await self.multipart.join(target, multipart, parts)
        except BaseException:
            await self.multipart.give_up(target, multipart)
            raise

    async def settle(self, key: ObjectKey) -> None:
        """Publish what a client sent to ``incoming/``.  Idempotent.  Raises ``NotFound``."""
        place, arrival = self.layout.object(key), self.layout.arrival(key)
        async with self.publishing(key):
            if await self.look_if_any(place) is None:
                await self.transfer(arrival, await self.look(arrival), place)
        await self.client.call("delete_object", Key=arrival)

    async def join_once(self, bucket_key: str, multipart: str, parts: list[tuple[int, str]]) -> None:
        """Join the parts unless the object exists.  The caller holds :meth:`publishing`."""
        if (await self.honours()).conditional_complete:
            await self.multipart.join(bucket_key, multipart, parts, IfNoneMatch="*")
        else:
            await self.refuse_existing(bucket_key)
            await self.multipart.join(bucket_key, multipart, parts)
