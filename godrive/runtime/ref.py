"""Refs: the only way to reach an actor.  A ref survives every crash of the actor behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from godrive.errors import AskTimeout, DeliveryError, MailboxFull
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.message import A, Ask, Contract, Message, request_id

R = TypeVar("R")


class Ref(Protocol[A]):
    """The address of an actor, in this process or another, for messages of one contract.

    ``ask`` returns the reply.  It raises the actor's own :class:`DriveError`, or
    a :class:`DeliveryError`: ``AskTimeout`` (the deadline passed; the outcome is
    unknown, and the message may still be handled), ``MailboxFull`` or
    ``ActorCrashed``.  *timeout* is in seconds and finite; the default is that of
    the message.  Cancelling an ask stops the wait and not the work.
    """

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R: ...


class LocalRef(Generic[A]):
    """A ref to an actor of this process: the frozen message itself goes into the mailbox of its lane."""

    __slots__ = ("_contract", "_mailboxes")

    def __init__(self, contract: type[A], mailboxes: Sequence[Mailbox]) -> None:
        self._contract = contract
        self._mailboxes = mailboxes
        """One for each lane; lanes may share one."""

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        if message.contract is not self._contract:
            raise misdirected(message, self._contract)
        mailbox, loop = self._mailboxes[message.lane], asyncio.get_running_loop()
        reply: asyncio.Future[R] = loop.create_future()
        now = loop.time()
        deadline = now + (message.timeout if timeout is None else timeout)
        envelope = Envelope(message, reply, deadline, request_id.get(), now)
        if not mailbox.offer(envelope):
            await self._wait_for_room(mailbox, envelope)
        mailbox.deadlines.add(reply, deadline)
        try:
            return await reply
        except TimeoutError:
            raise AskTimeout(f"The {self._contract.name} actor did not answer in time.") from None
        finally:
            mailbox.deadlines.discard(reply)

    async def _wait_for_room(self, mailbox: Mailbox, envelope: Envelope) -> None:
        try:
            delivered = await mailbox.put(envelope)
        except TimeoutError:
            raise self._refusal(mailbox) from None
        except asyncio.CancelledError:
            envelope.reply.cancel()  # the envelope may have been put just now; do not leave its answer unread
            raise
        if not delivered:
            raise self._refusal(mailbox)

    def _refusal(self, mailbox: Mailbox) -> DeliveryError:
        if mailbox.closed:
            return DeliveryError(f"The {self._contract.name} actor has stopped.")
        return MailboxFull(f"The {self._contract.name} actor is overloaded.")


def misdirected(message: Message[Any], contract: type[Contract]) -> TypeError:
    """A bug of the asker, so raised to the asker: a message for another actor must not crash this one."""
    return TypeError(f"{type(message).__name__} is for the {message.contract.name} actor, not for {contract.name}")
