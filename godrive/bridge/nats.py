"""Refs to actors of other processes, over NATS.

An ask is a request to ``<namespace>.<actor>.<Message>``.  Every process that
runs the actor subscribes to ``<namespace>.<actor>.*`` in one queue group (see
``exposer``), so exactly one of them receives it.  The body is the message as
the codec writes it.  The header ``Godrive-Timeout`` has the seconds that are
left, and not an instant, because the clocks of two machines differ.
``Godrive-Request-Id`` has the id of the request, if there is one, and
``Godrive-Ask`` names the ask (see ``in_hand``).  The body of the reply is the
reply, or with the header ``Godrive-Error`` (the code) the error.

Delivery is at most once: nothing here repeats a message.  If the message may
have been handled, the asker gets ``AskTimeout``: at its deadline, or earlier if
the connection was lost meanwhile, or if no process has the message in hand any
more.  The outcome is then unknown, and the asker may repeat an idempotent
command.  If it was certainly not handled (no connection,
or no process runs the actor), the asker gets ``DeliveryError`` at once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

import anyio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import Error as NatsError

from godrive.backoff import Backoff
from godrive.bridge.connection import NatsLink
from godrive.bridge.failures import Failures
from godrive.bridge.in_hand import Watch
from godrive.errors import AskTimeout, DeliveryError, DriveError, TooLarge
from godrive.model import new_id
from godrive.runtime import Ask, OnEvent, codec, request_id
from godrive.runtime.message import A, Message
from godrive.runtime.ref import misdirected

R = TypeVar("R")

TIMEOUT = "Godrive-Timeout"
REQUEST_ID = "Godrive-Request-Id"
ASK = "Godrive-Ask"
ERROR = "Godrive-Error"

PING = "ping"
"""The last token of the subject that asks whether any process runs the actor.  No message has this name."""

LARGEST = 1_048_576
"""The most bytes of a message or reply.  The server's limit (``max_payload``) may be lower."""

HEADROOM = 1024
"""Bytes of the server's limit that are reserved for headers."""


MOST_UNSENT = 16 * LARGEST
"""Bytes that may wait for a server that stopped reading.  Beyond that, asks fail until it reads again."""


class NatsRef(Generic[A]):
    """A ref to an actor of another process.

    It raises what a local ref raises, ``DeliveryError`` (``unavailable``) if there
    is no connection or no process runs the actor, and ``TooLarge`` for a message
    over the limit.  If the peer dies with the message in hand, or its reply is
    lost, the ask ends with ``AskTimeout`` within some seconds.
    """

    def __init__(
        self,
        contract: type[A],
        link: NatsLink,
        *,
        namespace: str,
        carry: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        self._contract = contract
        self._link = link
        self._carry = carry
        """Adds headers to each message that belongs to a request."""
        self._subject = f"{namespace}.{contract.name}."
        self._id = new_id()
        self._asks = count()

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        seconds = message.timeout if timeout is None else timeout
        client, body, headers = self._pack(message, seconds)
        with anyio.CancelScope() as watched:
            watch = Watch(client, self._subject, headers[ASK], watched)
            try:
                reply = await self._request(client, type(message).__name__, body, headers, seconds)
            finally:
                watch.end()
        if watched.cancelled_caught:
            raise AskTimeout(
                f"No process has the message to the {self._contract.name} actor in hand: the outcome is unknown."
            )
        if reply.headers and ERROR in reply.headers:
            raise codec.decode_error(reply.data)
        decoded: R = codec.decode_reply(type(message), reply.data)
        return decoded

    async def ping(self, *, timeout: float) -> None:
        """Return when a process that runs the actor answers.  Raises ``DeliveryError``."""
        await self._request(self._client(), PING, b"", None, timeout)

    async def _request(
        self, client: Client, name: str, body: bytes, headers: dict[str, str] | None, seconds: float
    ) -> Msg:
        if seconds <= 0:
            raise self._timed_out()
        try:
            return await client.request(self._subject + name, body, timeout=seconds, headers=headers)
        except NoRespondersError:
            raise DeliveryError(f"No process runs the {self._contract.name} actor.") from None
        except TimeoutError:
            raise self._timed_out() from None
        except ConnectionClosedError:
            raise AskTimeout(
                f"The connection was lost before the {self._contract.name} actor answered: the outcome is unknown."
            ) from None
        except (NatsError, OSError) as error:
            raise self._unreachable() from error

    def _pack(self, message: Message[A], seconds: float) -> tuple[Client, bytes, dict[str, str]]:
        if message.contract is not self._contract:
            raise misdirected(message, self._contract)
        client, body = self._client(), codec.encode(message)
        if len(body) > largest(client):
            raise TooLarge(
                f"{type(message).__name__} is {len(body)} bytes, over the limit of {largest(client)}.",
                hint="If max_payload of the NATS server is the limit, raise it.",
            )
        headers = {TIMEOUT: f"{seconds:.6f}", ASK: f"{self._id}-{next(self._asks)}"}
        if (chosen := request_id.get()) is not None:
            headers[REQUEST_ID] = chosen
            if self._carry is not None:
                self._carry(headers)
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
    """The most bytes of a body that the connected server accepts."""
    return min(LARGEST, client.max_payload - HEADROOM)
