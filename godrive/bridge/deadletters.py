"""Keeps bucket events that could not be handled, for an operator to see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import BadRequestError, NoStreamResponseError, NotFoundError

from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.streams import ensure_stream
from godrive.errors import Conflict, NotFound
from godrive.model import Value

MAX_AGE = 30 * 86_400.0
MAX_LETTERS = 100_000

_HEADROOM = 4096
"""Bytes of the server's message limit that are reserved for headers."""

_REASON = "Godrive-Reason"
_SUBJECT = "Godrive-Subject"
_DELIVERIES = "Godrive-Deliveries"
_REPLAYED = "Godrive-Replayed"


class Letter(Value):
    """A stored event: its ``number``, the subject it was sent to, and why it failed."""

    number: int
    subject: str
    reason: str
    deliveries: int
    died_at: datetime | None
    body: bytes


class DeadLetters:
    """The dead letters of one stream, in a stream of their own: ``<stream>_DEAD``.

    They are kept for 30 days, at most 100 000 of them.  Every method raises
    ``StoreUnavailable`` if NATS does not answer.
    """

    def __init__(self, link: NatsLink, *, stream: str, namespace: str) -> None:
        self._link = link
        self._origin = stream
        self._stream = f"{stream}_DEAD"
        self._subject = f"{namespace}.dead.{stream}"

    async def prepare(self) -> None:
        """Create the stream if absent."""
        js = await self._jetstream()
        with answering():
            await ensure_stream(js, self._stream, self._subject, max_age=MAX_AGE, max_msgs=MAX_LETTERS)

    async def bury(self, message: Msg, reason: str, body: bytes | None = None) -> None:
        """Store a message, or of it only *body*, truncated if it leaves no room for the reason.

        Idempotent for two minutes: the server drops the repetition.
        """
        metadata = message.metadata
        headers = {
            _REASON: _one_line(reason),
            _SUBJECT: message.subject,
            _DELIVERIES: str(metadata.num_delivered),
            "Nats-Msg-Id": f"{self._origin}.{metadata.sequence.stream}.{metadata.timestamp.timestamp()}",
        }
        await self.prepare()  # if someone subscribes to the subject, a missing stream is not an error
        client = await self._link.client()
        data = (message.data if body is None else body)[: client.max_payload - _HEADROOM]
        with answering():
            await client.jetstream().publish(self._subject, data, headers=headers)

    async def list(self, *, after: int = 0) -> AsyncIterator[Letter]:
        """All letters with a greater number, oldest first."""
        js = await self._jetstream()
        while True:
            try:
                with answering(NotFoundError):
                    found = await js.get_msg(self._stream, seq=after + 1, subject=self._subject, next=True)
            except NotFoundError:
                return
            yield _letter(found)
            after = found.seq or after + 1

    async def get(self, number: int) -> Letter:
        """One letter.  Raises ``NotFound``."""
        js = await self._jetstream()
        try:
            with answering(NotFoundError, BadRequestError):
                return _letter(await js.get_msg(self._stream, seq=number))
        except (NotFoundError, BadRequestError):  # the latter for a number that no letter can have
            raise NotFound(f"There is no dead letter {number}.") from None

    async def replay(self, number: int) -> None:
        """Send a letter again to its original subject, and delete it.

        Raises ``NotFound``, and ``Conflict`` if no stream has that subject.
        """
        letter = await self.get(number)
        js = await self._jetstream()
        try:
            with answering(NoStreamResponseError):
                await js.publish(letter.subject, letter.body, headers={_REPLAYED: str(number)})
        except NoStreamResponseError:
            raise Conflict(
                f"No stream has the subject {letter.subject}: start the ingest process, which creates it."
            ) from None
        await self.drop(number)

    async def drop(self, number: int) -> None:
        """Delete a letter.  Raises ``NotFound``."""
        await self.get(number)
        js = await self._jetstream()
        with answering():
            await js.delete_msg(self._stream, number)

    async def _jetstream(self) -> JetStreamContext:
        return (await self._link.client()).jetstream()


def _letter(found: RawStreamMsg) -> Letter:
    headers = found.headers or {}
    return Letter(
        number=found.seq or 0,
        subject=headers.get(_SUBJECT, ""),
        reason=headers.get(_REASON, ""),
        deliveries=int(count) if (count := headers.get(_DELIVERIES, "")).isdecimal() else 0,
        died_at=found.time.astimezone(UTC) if found.time else None,
        body=found.data or b"",
    )


def _one_line(reason: str) -> str:
    """The reason as a header value: short, ASCII, without line breaks."""
    line = " ".join(reason.split()).encode("ascii", "backslashreplace").decode()
    return "".join(mark for mark in line if mark.isprintable())[:500]
