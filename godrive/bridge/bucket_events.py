"""Passes bucket events to the ingest actor, whichever way they came.

An event only makes publication faster.  The ingest actor does not believe it,
but asks the store.  So a lost event costs the seconds until the reconciler runs,
and a repeated, late or forged event costs one HEAD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import unquote_plus

import anyio

from godrive.blobs import BlobStore, notifications
from godrive.blobs.layout import Layout
from godrive.blobs.notifications import ObjectCreated
from godrive.config import S3
from godrive.errors import DriveError, Invalid
from godrive.messages.ingest import Ingest, IngestBlob
from godrive.model import ObjectKey, new_id
from godrive.runtime import Ref

PROBE_FOR = 10.0
"""Seconds after which the event of a probe counts as lost."""

FOREIGN = "foreign"
"""The count of events for other buckets, or for keys that no blob of this drive can have."""

MALFORMED = "malformed"
"""The count of messages that are no bucket event of any known store."""


class BucketEventHandler:
    """Passes events of the bucket in *settings* to the ingest actor.

    ``counts`` has the number of events by outcome: ``published``,
    ``rejected``, ``ignored``, :data:`FOREIGN`, :data:`MALFORMED`.
    """

    def __init__(self, ingest: Ref[Ingest], settings: S3) -> None:
        self._ingest = ingest
        self._bucket = settings.bucket
        self._layout = Layout(settings.prefix)
        self._expected: dict[ObjectKey, anyio.Event] = {}
        self.counts: Counter[str] = Counter()

    @property
    def state(self) -> str:
        """``active`` once an event has been received, ``absent`` before."""
        return "active" if self.counts.total() > self.counts[MALFORMED] else "absent"

    async def take(self, body: bytes) -> None:
        """Act on a message of the store.  Once this returns, the message need not be sent again.

        Raises ``Invalid`` for a malformed message, which is useless to repeat.
        Any other ``DriveError`` is temporary: repeat the message later.
        """
        try:
            arrivals = notifications.parse(body)
        except Invalid:
            self.counts[MALFORMED] += 1
            raise
        for arrival in arrivals:
            await self._take(arrival)

    async def _take(self, arrival: ObjectCreated) -> None:
        key = self._object_key(arrival)
        if key is None:
            self.counts[FOREIGN] += 1
            return
        if (expected := self._expected.get(key)) is not None:
            expected.set()
        outcome = await self._ingest.ask(IngestBlob(key, arrival.size_bytes, arrival.etag))
        self.counts[outcome] += 1

    def _object_key(self, arrival: ObjectCreated) -> ObjectKey | None:
        if arrival.bucket != self._bucket:
            return None
        # Releases of one store differ in whether they encode keys.  Ours contain nothing to encode except slashes.
        return self._layout.object_key(arrival.key) or self._layout.object_key(unquote_plus(arrival.key))

    async def probe(self, blobs: BlobStore, *, within: float = PROBE_FOR) -> bool:
        """Whether events of the store arrive: store a blob of one byte, wait for its event, delete it.

        Raises ``StoreUnavailable``.
        """
        key = ObjectKey(f"00000000/{new_id()}")
        expected = self._expected[key] = anyio.Event()
        try:
            await blobs.put(key, _one_byte(), size=1)
            with anyio.move_on_after(within):
                await expected.wait()
        finally:
            del self._expected[key]
            with anyio.CancelScope(shield=True):
                await _forget(blobs, key)
        return expected.is_set()


async def _one_byte() -> AsyncIterator[bytes]:
    yield b"?"


async def _forget(blobs: BlobStore, key: ObjectKey) -> None:
    try:
        await blobs.delete(key)
    except DriveError:
        return  # the orphan sweep finds it
