"""Messages of other processes taken in from NATS, for one actor of this process."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Generic

import anyio
from anyio.abc import TaskGroup
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from godrive.bridge.connection import NatsLink
from godrive.bridge.nats import ERROR, LARGEST, PING, REQUEST_ID, TIMEOUT, largest
from godrive.errors import ActorCrashed, DriveError, Invalid, MailboxFull, TooLarge
from godrive.runtime import Ask, OnEvent, Ref, Tell, codec, request_id
from godrive.runtime.message import A, Message
from godrive.runtime.supervision_events import ChildCrashed, ChildWaiting, DeadLetter, ignore

ROUND_TRIP = 2.0
"""Seconds in which the server answers, or is taken to be away."""

RETRY_AFTER = 1.0
"""Seconds until the next attempt to subscribe."""

LONGEST_TIMEOUT = 3600.0
LONGEST_REQUEST_ID = 128


@dataclass(frozen=True, slots=True)
class _Order(Generic[A]):
    """What came in."""

    message: Message[A]
    seconds: float
    request_id: str | None


class Exposer(Generic[A]):
    """The child that takes messages for one actor in, and asks it.

    At most *limit* messages are in hand; one more is answered with
    ``MailboxFull``.  What is unknown, malformed or oversize is answered with
    ``Invalid`` or ``TooLarge``, reported as a dead letter, and never gets to
    the actor.  Once told to :meth:`stop` it takes no more, and ends when those
    in hand are answered.
    """

    def __init__(
        self,
        contract: type[A],
        link: NatsLink,
        *,
        namespace: str,
        limit: int = 1024,
        on_event: OnEvent = ignore,
    ) -> None:
        self.name = f"{contract.name}-exposer"
        self.in_hand = 0
        self._contract = contract
        self._link = link
        self._subject = f"{namespace}.{contract.name}."
        self._limit = limit
        self._on_event = on_event
        self._stopping = anyio.Event()
        self._subscribed = anyio.Event()

    def stop(self) -> None:
        """Begin to end."""
        self._stopping.set()

    async def subscribed(self) -> None:
        """Wait until messages come in for the first time."""
        await self._subscribed.wait()

    async def run(self, ref: Ref[A]) -> None:
        """Serve *ref*, over one connection after another."""
        self.in_hand = 0
        seen = 0
        current: tuple[Client, Subscription] | None = None
        async with anyio.create_task_group() as asks:
            try:
                while await self._newer_than(seen):
                    generation = self._link.generation
                    previous, current = current, await self._subscribe(ref, asks) or current
                    if current is previous:
                        await self._pause()
                        continue
                    # The new one first: in between, nobody would answer.
                    seen = generation
                    if previous is not None:
                        await self._end(*previous)
            finally:
                if current is not None:
                    await self._end(*current)

    async def _newer_than(self, seen: int) -> bool:
        """Wait for a connection after that one; ``False`` when told to stop."""
        async with anyio.create_task_group() as race:

            async def stop() -> None:
                await self._stopping.wait()
                race.cancel_scope.cancel()

            race.start_soon(stop)
            await self._link.newer_than(seen)
            race.cancel_scope.cancel()
        return not self._stopping.is_set()

    async def _pause(self) -> None:
        with anyio.move_on_after(RETRY_AFTER):
            await self._stopping.wait()

    async def _subscribe(self, ref: Ref[A], asks: TaskGroup) -> tuple[Client, Subscription] | None:
        """Have messages come in from now on, unless the connection is gone again."""
        client = self._link.connected
        if client is None:
            return None

        async def take(message: Msg) -> None:
            await self._take(client, ref, asks, message)

        subscription: Subscription | None = None
        try:
            subscription = await client.subscribe(self._subject + "*", queue=self._contract.name, cb=take)
            # Not flush(): its ping may overtake the subscription (nats-py 2.16).  This also finds out when the
            # server does not permit the subscription, which it tells nobody who waits.
            await client.request(self._subject + PING, timeout=ROUND_TRIP)
        except (NatsError, OSError, TimeoutError) as error:
            self._on_event(ChildWaiting(self.name, error))
            if subscription is not None:
                await self._end(client, subscription)
            return None
        self._subscribed.set()
        return client, subscription

    async def _end(self, client: Client, subscription: Subscription) -> None:
        """Take no more messages, once those that the server has sent are taken."""
        if not client.is_connected:
            return
        with anyio.move_on_after(ROUND_TRIP, shield=True), suppress(NatsError, OSError, TimeoutError):
            await client._send_unsubscribe(subscription._id)
            with suppress(NoRespondersError):
                # drain() flushes too, but its ping overtakes the word to send no more.
                await client.request(self._subject + PING, timeout=ROUND_TRIP)
            await subscription.drain()  # type: ignore[no-untyped-call]

    async def _take(self, client: Client, ref: Ref[A], asks: TaskGroup, incoming: Msg) -> None:
        name = incoming.subject.rpartition(".")[2]
        if name == PING:
            await _reply(client, incoming, b"")
            return
        try:
            order = self._unpack(name, incoming)
        except (Invalid, TooLarge) as error:
            await self._refuse(client, incoming, error)
            return
        if self.in_hand >= self._limit:
            full = MailboxFull(f"The {self._contract.name} actor has too much to do.")
            if isinstance(order.message, Tell):
                self._dead_letter(name, full.code, order.request_id)
            await _reply_error(client, incoming, full)
            return
        self.in_hand += 1
        asks.start_soon(self._answer, client, ref, incoming, order)

    def _unpack(self, name: str, incoming: Msg) -> _Order[A]:
        if len(incoming.data) > LARGEST:
            raise TooLarge(f"A message may have {LARGEST} bytes.")
        message = codec.decode(self._contract, name, incoming.data)
        headers = incoming.headers or {}
        if isinstance(message, Ask) and not incoming.reply.startswith("_INBOX."):
            # Whoever may publish here must not make us publish elsewhere.
            raise Invalid(f"{name} wants an answer, and not to an inbox.")
        seconds = message.timeout
        if (text := headers.get(TIMEOUT)) is not None:
            try:
                seconds = float(text)
            except ValueError:
                raise Invalid(f"{TIMEOUT} is not a number.") from None
            if not isfinite(seconds):
                raise Invalid(f"{TIMEOUT} is not a number of seconds.")
        chosen = headers.get(REQUEST_ID)
        if chosen is not None and (len(chosen) > LONGEST_REQUEST_ID or not chosen.isprintable()):
            raise Invalid(f"{REQUEST_ID} is not an id.")
        return _Order(message, min(seconds, LONGEST_TIMEOUT), chosen)

    async def _refuse(self, client: Client, incoming: Msg, error: DriveError) -> None:
        name = incoming.subject.rpartition(".")[2]
        self._dead_letter(name if name in self._contract.messages else "unknown", error.code, None)
        await _reply_error(client, incoming, error)

    async def _answer(self, client: Client, ref: Ref[A], incoming: Msg, order: _Order[A]) -> None:
        message = order.message
        request_id.set(order.request_id)
        try:
            if isinstance(message, Tell):
                ref.tell(message)
                return
            assert isinstance(message, Ask)  # noqa: S101 - there are two kinds
            body = codec.encode_reply(await ref.ask(message, timeout=order.seconds))
        except DriveError as error:
            if isinstance(message, Tell):
                self._dead_letter(type(message).__name__, error.code, order.request_id)
            await _reply_error(client, incoming, error)
        except Exception as error:  # a bug of ours, which must not end the answers to others
            self._on_event(ChildCrashed(self.name, error, type(message).__name__))
            await _reply_error(client, incoming, ActorCrashed(f"The {self._contract.name} actor failed."))
        else:
            if len(body) > largest(client):
                limit = largest(client)
                await _reply_error(client, incoming, TooLarge(f"The reply is {len(body)} bytes, over {limit}."))
            else:
                await _reply(client, incoming, body)
        finally:
            self.in_hand -= 1

    def _dead_letter(self, name: str, reason: str, chosen: str | None) -> None:
        self._on_event(DeadLetter(self._contract.name, name, reason, chosen))


async def _reply(client: Client, incoming: Msg, body: bytes, headers: dict[str, str] | None = None) -> None:
    if incoming.reply.startswith("_INBOX."):
        with suppress(NatsError, OSError):  # the asker hears by its deadline
            await client.publish(incoming.reply, body, headers=headers)


async def _reply_error(client: Client, incoming: Msg, error: DriveError) -> None:
    await _reply(client, incoming, codec.encode_error(error), {ERROR: error.code})
