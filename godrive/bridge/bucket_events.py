"""From a bucket event to the ingest actor: one way in, however the event came.

An event only makes things faster.  What it says is not believed: the ingest
actor asks the store.  So a lost event costs seconds, until the reconciler
looks, and a doubled, late or forged one costs nothing but the asking.
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
"""Seconds in which an event is there, or does not come."""

FOREIGN = "foreign"
"""The count of events for other buckets, or for keys that are not blobs of this drive."""

MALFORMED = "malformed"
"""The count of messages that no known store sends."""


class BucketEventHandler:
    """Takes bucket events of the bucket in *settings* and tells the ingest actor.

    ``counts`` is how many there were of each outcome: ``published``,
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
        """``active`` once any event has come in, before that ``absent``: shown, never assumed."""
        return "active" if self.counts.total() > self.counts[MALFORMED] else "absent"

    async def take(self, body: bytes) -> None:
        """Act on a message of the store.  When this returns, it need not be sent again.

        Raises ``Invalid`` for one that no store sends: sending it again is no
        use.  Any other ``DriveError`` passes, and so does what caused it.
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
        # Releases of one store differ in whether keys are encoded; ours are the same either way but for slashes.
        return self._layout.object_key(arrival.key) or self._layout.object_key(unquote_plus(arrival.key))

    async def probe(self, blobs: BlobStore, *, within: float = PROBE_FOR) -> bool:
        """Whether the store's events get here: store a blob of one byte, wait for its event, delete it.

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
