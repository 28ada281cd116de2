"""Serves the messages that other processes send to one actor of this process over NATS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any, Generic

import anyio
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from godrive.backoff import Backoff
from godrive.bridge.connection import NatsLink
from godrive.bridge.failures import Failures
from godrive.bridge.in_hand import LOOK
from godrive.bridge.nats import ASK, ERROR, LARGEST, PING, REQUEST_ID, TIMEOUT, largest
from godrive.bridge.nats_internals import PromptClient
from godrive.errors import ActorCrashed, AskTimeout, DriveError, Invalid, MailboxFull, NotUnderstood, TooLarge
from godrive.runtime import Ask, Lane, OnEvent, Ref, codec, request_id
from godrive.runtime.message import A
from godrive.runtime.supervision_events import ChildCrashed, DeadLetter, ignore

ROUND_TRIP = 2.0
"""Seconds within which a server answers, or else counts as unreachable."""

BACKOFF = Backoff(0.2, 5.0)
"""Seconds between two attempts to subscribe."""

MOST_IN_HAND = 1024
"""Messages of one lane in hand, unless the caller says otherwise."""

LONGEST_TIMEOUT = 3600.0
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class _Order(Generic[A]):
    """A message that was received and is valid."""

    message: Ask[A, Any]
    seconds: float
    request_id: str | None
    ask: bytes
    """Its asker's name for it; empty if that is an older release."""


@dataclass(frozen=True, slots=True)
class _Subscribed:
    """One connection, and what comes in over it: messages, and looks for those in hand."""

    client: PromptClient
    messages: Subscription
    looks: Subscription


class Exposer(Generic[A]):
    """The child that receives the messages of one contract, and asks the actor.

    *limits* is how many messages of each lane may be in hand.  One more is
    answered with ``MailboxFull``, and other lanes are not affected.  A message
    that is unknown, malformed or too large is answered with ``Invalid`` or
    ``TooLarge``, reported as a dead letter, and never reaches the actor.  After
    :meth:`stop` the exposer takes no more messages, and ends when those in hand
    are answered.
    """

    def __init__(
        self,
        contract: type[A],
        link: NatsLink,
        *,
        namespace: str,
        limits: Mapping[Lane, int] | None = None,
        on_event: OnEvent = ignore,
        receive: Callable[[str | None, Mapping[str, str]], str | None] | None = None,
    ) -> None:
        self._receive = receive
        """Makes the id of a request of what came with it."""
        self.name = f"{contract.name}-exposer"
        self._contract = contract
        self._link = link
        self._subject = f"{namespace}.{contract.name}."
        self._limits = limits or dict.fromkeys(Lane, MOST_IN_HAND)
        self._in_hand: Counter[Lane] = Counter()
        self._asks: set[bytes] = set()
        self._on_event = on_event
        self._failures = Failures(self.name, on_event, BACKOFF)
        self._retry_after = BACKOFF.shortest
        self._stopping = anyio.Event()

    @property
    def in_hand(self) -> int:
        """Messages that were received and are not answered yet, in all lanes."""
        return self._in_hand.total()

    def stop(self) -> None:
        """Take no more messages, answer those in hand, then end."""
        self._stopping.set()

    async def run(self, ref: Ref[A]) -> None:
        """Serve *ref*, over one connection after another."""
        self._in_hand.clear()
        self._asks.clear()
        seen = 0
        current: _Subscribed | None = None
        try:
            async with anyio.create_task_group() as asks:
                try:
                    while await self._newer_than(seen):
                        generation = self._link.generation
                        previous, current = current, await self._subscribe(ref, asks) or current
                        if current is previous:
                            await self._pause()
                            continue
                        self._failures.clear()
                        # The new subscription comes first, so that there is always one.
                        seen = generation
                        if previous is not None:
                            await self._end(previous.client, previous.messages)
                            await self._unsubscribe(previous.looks)
                finally:
                    if current is not None:
                        await self._end(current.client, current.messages)
        finally:
            if current is not None:  # only now, because askers look as long as messages are in hand
                await self._unsubscribe(current.looks)

    async def _newer_than(self, seen: int) -> bool:
        """Wait for a connection newer than *seen*.  ``False`` when asked to stop."""
        async with anyio.create_task_group() as race:

            async def stop() -> None:
                await self._stopping.wait()
                race.cancel_scope.cancel()

            race.start_soon(stop)
            await self._link.newer_than(seen)
            race.cancel_scope.cancel()
        return not self._stopping.is_set()

    async def _pause(self) -> None:
        with anyio.move_on_after(self._retry_after):
            await self._stopping.wait()

    async def _subscribe(self, ref: Ref[A], asks: TaskGroup) -> _Subscribed | None:
        """Subscribe.  ``None`` if that failed."""
        client = self._link.connected
        if client is None:
            return None

        async def take(message: Msg) -> None:
            await self._take(client, ref, asks, message)

        async def tell(message: Msg) -> None:
            if message.data in self._asks:
                await _reply(client, message, b"")

        looks: Subscription | None = None
        subscription: Subscription | None = None
        try:
            looks = await client.subscribe(self._subject + LOOK, cb=tell)
            subscription = await client.subscribe(self._subject + "*", queue=self._contract.name, cb=take)
            # Not flush(): its ping may overtake the subscription (nats-py 2.16).  A request to ourselves also fails
            # when the server does not permit the subscription, which nats-py reports to no caller.
            await client.request(self._subject + PING, timeout=ROUND_TRIP)
        except (NatsError, OSError, TimeoutError) as error:
            self._retry_after = self._failures.note(error)
            if subscription is not None:
                await self._end(client, subscription)
            if looks is not None:
                await self._unsubscribe(looks)
            return None
        return _Subscribed(client, subscription, looks)

    async def _unsubscribe(self, subscription: Subscription) -> None:
        with anyio.move_on_after(ROUND_TRIP, shield=True), suppress(NatsError, OSError):
            await subscription.unsubscribe()

    async def _end(self, client: PromptClient, subscription: Subscription) -> None:
        """Unsubscribe, after receiving the messages that the server has sent already."""
        if not client.is_connected:
            return
        with anyio.move_on_after(ROUND_TRIP, shield=True), suppress(NatsError, OSError, TimeoutError):
            await client.stop_delivery(subscription)
            with suppress(NoRespondersError):
                # drain() flushes too, but its ping overtakes the unsubscription.
                await client.request(self._subject + PING, timeout=ROUND_TRIP)
            await subscription.drain()  # type: ignore[no-untyped-call]

    async def _take(self, client: PromptClient, ref: Ref[A], asks: TaskGroup, incoming: Msg) -> None:
        name = incoming.subject.rpartition(".")[2]
        if name == PING:
            await _reply(client, incoming, b"")
            return
        try:
            order = self._unpack(name, incoming)
        except (Invalid, NotUnderstood, TooLarge) as error:
            await self._refuse(client, incoming, error)
            return
        lane = order.message.lane
        if self._in_hand[lane] >= self._limits[lane]:
            full = MailboxFull(f"The {self._contract.name} actor is overloaded.")
            await _reply_error(client, incoming, full)
            return
        self._in_hand[lane] += 1
        self._asks.add(order.ask)
        asks.start_soon(self._answer, client, ref, incoming, order)

    def _unpack(self, name: str, incoming: Msg) -> _Order[A]:
        if len(incoming.data) > LARGEST:
            raise TooLarge(f"A message may be at most {LARGEST} bytes.")
        message = codec.decode(self._contract, name, incoming.data)
        headers = incoming.headers or {}
        if not incoming.reply.startswith("_INBOX."):
            # A client that may publish here must not make us publish to a subject of its choice.
            raise Invalid(f"{name} must be answered, but the reply subject is no inbox.")
        seconds = message.timeout
        if (text := headers.get(TIMEOUT)) is not None:
            try:
                seconds = float(text)
            except ValueError:
                raise Invalid(f"{TIMEOUT} is not a number.") from None
            if not isfinite(seconds):
                raise Invalid(f"{TIMEOUT} is not a number of seconds.")
        ask = headers.get(ASK, "")
        if len(ask) > LONGEST_ID:
            raise Invalid(f"{ASK} is not an id.")
        chosen = headers.get(REQUEST_ID)
        if chosen is not None and (len(chosen) > LONGEST_ID or not chosen.isprintable()):
            raise Invalid(f"{REQUEST_ID} is not an id.")
        if self._receive is not None:
            chosen = self._receive(chosen, headers)
        return _Order(message, min(seconds, LONGEST_TIMEOUT), chosen, ask.encode())

    async def _refuse(self, client: PromptClient, incoming: Msg, error: DriveError) -> None:
        name = incoming.subject.rpartition(".")[2]
        known = name if name in self._contract.messages else "unknown"
        self._on_event(DeadLetter(self._contract.name, known, error.code, None))
        await _reply_error(client, incoming, error)

    async def _answer(self, client: PromptClient, ref: Ref[A], incoming: Msg, order: _Order[A]) -> None:
        message = order.message
        request_id.set(order.request_id)
        try:
            body = codec.encode_reply(await ref.ask(message, timeout=order.seconds))
        except DriveError as error:
            await _reply_error(client, incoming, error)
        except Exception as error:  # a bug of ours, which must not stop the replies to others
            self._on_event(ChildCrashed(self.name, error, type(message).__name__))
            await _reply_error(client, incoming, ActorCrashed(f"The {self._contract.name} actor failed."))
        else:
            if len(body) > (limit := largest(client)):
                said = f"The reply is {len(body)} bytes, over {limit}."
                # A command has been carried out, and only its reply is lost.
                lost = TooLarge(said) if message.lane is Lane.READ else AskTimeout(f"{said} The outcome is unknown.")
                await _reply_error(client, incoming, lost)
            else:
                await _reply(client, incoming, body)
        finally:
            self._in_hand[message.lane] -= 1
            self._asks.discard(order.ask)


async def _reply(client: PromptClient, incoming: Msg, body: bytes, headers: dict[str, str] | None = None) -> None:
    if incoming.reply.startswith("_INBOX."):
        with suppress(NatsError, OSError):  # the asker times out at its deadline
            await client.publish(incoming.reply, body, headers=headers)


async def _reply_error(client: PromptClient, incoming: Msg, error: DriveError) -> None:
    await _reply(client, incoming, codec.encode_error(error), {ERROR: error.code})
