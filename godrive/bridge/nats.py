"""Actors in other processes: a ref that goes out over NATS.

An ask is a request to ``<namespace>.<actor>.<Message>``; every process that
runs the actor subscribes to ``<namespace>.<actor>.*`` in one queue group (see
``exposer``), so exactly one of them gets it.  The body is the message as the
codec writes it.  ``Godrive-Timeout`` says how many seconds are left, and not
until when: clocks of two machines differ.  ``Godrive-Request-Id`` goes with it
where there is one.  The reply's body is the reply; with ``Godrive-Error``,
which is the code, it is the error.  A tell is published and not answered.

Delivery is at most once.  Nothing here asks a second time: where a message may
have been handled already, the asker gets ``AskTimeout``, or ``DeliveryError``
when the connection was lost meanwhile; the outcome is unknown, and repeating an
idempotent command is up to it.  Where it was certainly not handled (no
connection, or nobody runs the actor) the asker is told so at once.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import anyio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import Error as NatsError

from godrive.backoff import Backoff
from godrive.bridge.connection import NatsLink
from godrive.bridge.failures import Failures
from godrive.errors import AskTimeout, DeliveryError, DriveError, TooLarge
from godrive.runtime import Ask, OnEvent, Tell, codec, request_id
from godrive.runtime.message import A, Message
from godrive.runtime.ref import misdirected
from godrive.runtime.supervision_events import DeadLetter, ignore

R = TypeVar("R")

TIMEOUT = "Godrive-Timeout"
REQUEST_ID = "Godrive-Request-Id"
ERROR = "Godrive-Error"

PING = "ping"
"""What follows the actor in the subject that asks whether anybody runs it; no message is written so."""

LARGEST = 1_048_576
"""Bytes of a message or reply, at most; the server's own limit (``max_payload``) may be lower."""

HEADROOM = 1024
"""Bytes of the server's limit that are left for headers."""


MOST_UNSENT = 16 * LARGEST
"""Bytes that may wait for a server that has stopped to take them; then asks fail until it goes on."""


class NatsRef(Generic[A]):
    """A ref to an actor of another process.

    Errors are those of a near actor, and ``DeliveryError`` (``unavailable``)
    when there is no connection or nobody runs the actor, ``TooLarge`` for a
    message that is over the limit.  A peer that dies with the message in hand
    is an ``AskTimeout``.  A tell that cannot be sent is a dead letter, or,
    where that is known at once, a ``DeliveryError``.
    """

    def __init__(self, contract: type[A], link: NatsLink, *, namespace: str, on_event: OnEvent = ignore) -> None:
        self._contract = contract
        self._link = link
        self._subject = f"{namespace}.{contract.name}."
        self._on_event = on_event
        self._telling: set[asyncio.Task[None]] = set()

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        seconds = message.timeout if timeout is None else timeout
        client, body, headers = self._pack(message, seconds)
        reply = await self._request(client, type(message).__name__, body, headers, seconds)
        if reply.headers and ERROR in reply.headers:
            raise codec.decode_error(reply.data)
        decoded: R = codec.decode_reply(type(message), reply.data)
        return decoded

    def tell(self, message: Tell[A]) -> None:
        client, body, headers = self._pack(message, message.timeout)
        task = asyncio.get_running_loop().create_task(self._publish(client, type(message).__name__, body, headers))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def ping(self, *, timeout: float) -> None:
        """Return when a process that runs the actor answers.  Raises ``DeliveryError``."""
        await self._request(self._client(), PING, b"", None, timeout)

    async def _request(
        self, client: Client, name: str, body: bytes, headers: dict[str, str] | None, seconds: float
    ) -> Msg:
        if seconds <= 0:
            raise self._timed_out()
        if self._telling:
            await asyncio.wait(self._telling)  # what was told before comes first
        try:
            return await client.request(self._subject + name, body, timeout=seconds, headers=headers)
        except NoRespondersError:
            raise DeliveryError(f"No process runs the {self._contract.name} actor.") from None
        except TimeoutError:
            raise self._timed_out() from None
        except ConnectionClosedError:
            raise DeliveryError(
                f"The connection was lost before the {self._contract.name} actor answered: the outcome is unknown."
            ) from None
        except (NatsError, OSError) as error:
            raise self._unreachable() from error

    async def _publish(self, client: Client, name: str, body: bytes, headers: dict[str, str]) -> None:
        try:
            await client.publish(self._subject + name, body, headers=headers)
        except (NatsError, OSError):
            self._on_event(DeadLetter(self._contract.name, name, "unavailable", request_id.get()))

    def _pack(self, message: Message[A], seconds: float) -> tuple[Client, bytes, dict[str, str]]:
        if message.contract is not self._contract:
            raise misdirected(message, self._contract)
        client, body = self._client(), codec.encode(message)
        if len(body) > largest(client):
            raise TooLarge(
                f"{type(message).__name__} is {len(body)} bytes, and NATS takes {largest(client)} from us.",
                hint="Raise max_payload of the NATS server, where that is the limit.",
            )
        headers = {TIMEOUT: f"{seconds:.6f}"}
        if (chosen := request_id.get()) is not None:
            headers[REQUEST_ID] = chosen
        return client, body, headers

    def _client(self) -> Client:
        client = self._link.connected
        if client is None or client.pending_data_size > MOST_UNSENT:
            raise self._unreachable()
        return client

    def _unreachable(self) -> DeliveryError:
        return DeliveryError(f"The {self._contract.name} actor cannot be reached: NATS does not answer.")

    def _timed_out(self) -> AskTimeout:
        return AskTimeout(f"The {self._contract.name} actor did not answer in time.")


class Reconnector:
    """The child that keeps the connection up: it looks every *every* seconds, and reports each outage once."""

    def __init__(self, link: NatsLink, *, on_event: OnEvent, every: float = 1.0) -> None:
        self._link = link
        self._failures = Failures("nats", on_event, Backoff(every, every))
        self._every = every

    async def run(self) -> None:
        """Reconnect forever."""
        generation = self._link.generation
        while True:
            try:
                await self._link.client()
            except DriveError as error:
                if self._link.generation != generation:  # it was up since the last look
                    self._failures.clear()
                generation = self._link.generation
                await anyio.sleep(self._failures.note(error))
            else:
                self._failures.clear()
                await anyio.sleep(self._every)


def largest(client: Client) -> int:
    """Bytes of a body, at most, that the server on the other end takes."""
    return min(LARGEST, client.max_payload - HEADROOM)
