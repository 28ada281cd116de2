"""Passes bucket events to the ingest actor, whichever way they came.

An event only makes publication faster.  A lost one costs the seconds until the
reconciler runs.  The ingest actor sends a HEAD to the store for each event that
is not certain: one that a stranger could have sent, that came again, or late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import unquote_plus

import anyio

from godrive.blobs import BlobStore, notifications
from godrive.blobs.layout import Layout
from godrive.blobs.notifications import MalformedRecord, ObjectCreated
from godrive.clock import Clock, SystemClock
from godrive.config import S3
from godrive.errors import DriveError, Invalid
from godrive.messages.ingest import Ingest, IngestBlob
from godrive.model import ObjectKey, new_id
from godrive.runtime import Ref

PROBE_FOR = 10.0
"""Seconds after which the event of a probe counts as lost."""

LATE = timedelta(seconds=60)
"""The age from which an event does not say what is there now.  It allows for clocks that differ."""

FOREIGN = "foreign"
"""The count of events for other buckets, or for keys that no blob of this drive can have."""

MALFORMED = "malformed"
"""The count of messages and records that are no bucket event of any known store."""


class MalformedRecords(Invalid):
    """Some records of a message are malformed, and the others were acted on.  ``message`` has only the malformed."""

    def __init__(self, malformed: list[MalformedRecord]) -> None:
        super().__init__(malformed[0].reason)
        self.message = b'{"Records":[%b]}' % b",".join([each.record for each in malformed])


class BucketEventHandler:
    """Passes events of the bucket in *settings* to the ingest actor.

    ``counts`` has the number of events by outcome: ``published``,
    ``rejected``, ``ignored``, :data:`FOREIGN`, :data:`MALFORMED`.
    """

    def __init__(self, ingest: Ref[Ingest], settings: S3, clock: Clock | None = None) -> None:
        self._ingest = ingest
        self._clock = clock or SystemClock()
        self._bucket = settings.bucket
        self._layout = Layout(settings.prefix)
        self._expected: dict[ObjectKey, anyio.Event] = {}
        self.counts: Counter[str] = Counter()

    @property
    def state(self) -> str:
        """``active`` once an event has been received, ``absent`` before."""
        return "active" if self.counts.total() > self.counts[MALFORMED] else "absent"

    async def take(self, body: bytes, *, certain: bool = False) -> None:
        """Act on a message of the store.  Once this returns, the message need not be sent again.

        *certain*: only the store can have sent it, and it came for the first time.
        Raises ``Invalid`` for a malformed message, which is useless to repeat, and
        ``MalformedRecords`` if that is true of only some of its records.
        Any other ``DriveError`` is temporary: repeat the message later.
        """
        try:
            found = notifications.parse(body)
        except Invalid:
            self.counts[MALFORMED] += 1
            raise
        malformed = []
        for each in found:
            if isinstance(each, MalformedRecord):
                malformed.append(each)
            else:
                await self._take(each, certain)
        if malformed:
            self.counts[MALFORMED] += len(malformed)
            raise MalformedRecords(malformed)

    async def _take(self, arrival: ObjectCreated, certain: bool) -> None:
        key = self._object_key(arrival)
        if key is None:
            self.counts[FOREIGN] += 1
            return
        if (expected := self._expected.get(key)) is not None:
            expected.set()
        outcome = await self._ingest.ask(
            IngestBlob(
                key,
                arrival.size_bytes,
                arrival.etag,
                arrival.at,
                arrival.metadata,
                certain and self._is_current(arrival, key),
            )
        )
        self.counts[outcome] += 1

    def _is_current(self, arrival: ObjectCreated, key: ObjectKey) -> bool:
        """Whether the event is new, and of the key that the blob stays under."""
        if arrival.at is None or abs(self._clock.now() - arrival.at) > LATE:
            return False
        return self._layout.object(key) in (arrival.key, unquote_plus(arrival.key))

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
