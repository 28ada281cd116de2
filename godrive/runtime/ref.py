"""Refs: the only way to reach an actor.  A ref outlives every crash of the actor behind it."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Protocol, TypeVar

from godrive.errors import AskTimeout, DeliveryError, MailboxFull
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.message import A, Ask, Contract, Message, Tell, request_id

R = TypeVar("R")


class Ref(Protocol[A]):
    """An address for messages of one contract, near or far.

    ``ask`` returns the reply, raises the actor's own :class:`DriveError`, or a
    :class:`DeliveryError`: ``AskTimeout`` (the deadline passed: the outcome is
    unknown, and the message may still be handled), ``MailboxFull``,
    ``ActorCrashed``.  *timeout* is in seconds and finite; without one the
    message's own counts.  A cancelled ask stops waiting; the work goes on.

    ``tell`` returns once the message is on its way and raises ``MailboxFull``
    at once when there is no room.
    """

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R: ...

    def tell(self, message: Tell[A]) -> None: ...


class LocalRef(Generic[A]):
    """A ref to an actor of this process: the frozen message itself goes into the mailbox."""

    __slots__ = ("_contract", "_mailbox")

    def __init__(self, contract: type[A], mailbox: Mailbox) -> None:
        self._contract = contract
        self._mailbox = mailbox

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        if message.contract is not self._contract:
            raise misdirected(message, self._contract)
        mailbox, loop = self._mailbox, asyncio.get_running_loop()
        reply: asyncio.Future[R] = loop.create_future()
        deadline = loop.time() + (message.timeout if timeout is None else timeout)
        envelope = Envelope(message, reply, deadline, request_id.get())
        if not mailbox.offer(envelope):
            await self._wait_for_room(envelope)
        mailbox.deadlines.add(reply, deadline)
        try:
            return await reply
        except TimeoutError:
            raise AskTimeout(f"The {self._contract.name} actor did not answer in time.") from None
        finally:
            mailbox.deadlines.discard(reply)

    def tell(self, message: Tell[A]) -> None:
        if message.contract is not self._contract:
            raise misdirected(message, self._contract)
        loop = asyncio.get_running_loop()
        envelope = Envelope(message, None, loop.time() + message.timeout, request_id.get())
        if not self._mailbox.offer(envelope):
            raise self._refusal()

    async def _wait_for_room(self, envelope: Envelope) -> None:
        try:
            delivered = await self._mailbox.put(envelope)
        except TimeoutError:
            raise self._refusal() from None
        except asyncio.CancelledError:
            if envelope.reply is not None:
                envelope.reply.cancel()  # there may just have been room, and then the answer would find nobody
            raise
        if not delivered:
            raise self._refusal()

    def _refusal(self) -> DeliveryError:
        if self._mailbox.closed:
            return DeliveryError(f"The {self._contract.name} actor has stopped.")
        return MailboxFull(f"The {self._contract.name} actor has too much to do.")


def misdirected(message: Message[Any], contract: type[Contract]) -> TypeError:
    """The asker's bug, and so the asker's crash: the actor must not fall over a message that is not for it."""
    return TypeError(f"{type(message).__name__} is for the {message.contract.name} actor, not for {contract.name}")
