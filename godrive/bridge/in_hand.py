"""Whether any process still has a message in hand.

NATS tells an asker neither that the process that took its message has died nor
that the reply was lost.  So an asker that has waited for a while asks all
processes that run the actor, on ``<namespace>.<actor>.in-hand.look``, and the one
that has the message answers.  If none does twice in a row, the ask ends long
before its deadline.  The outcome is unknown.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from anyio import CancelScope
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NoAnswer

from godrive.backoff import Backoff

LOOK = "in-hand.look"
"""The last tokens of the subject.  Two, so that the subscription that receives messages does not match."""

EVERY = Backoff(1.0, 5.0)
"""Seconds before the first look, and between later ones."""

ANSWERED = 2.0
"""Seconds within which the process that has the message answers."""

TRIES = 2
"""Looks in a row after which nobody has the message.  One may meet a process that is just connecting again."""


class Watch:
    """Looks for the message *name* while its ask waits, and cancels *scope* when no process has it.

    Call :meth:`end` when the ask has ended.
    """

    __slots__ = ("_client", "_name", "_scope", "_subject", "_task", "_timer")

    def __init__(self, client: Client, subject: str, name: str, scope: CancelScope) -> None:
        self._client = client
        self._subject = subject + LOOK
        self._name = name.encode()
        self._scope = scope
        self._task: asyncio.Task[None] | None = None
        # A timer and no task, because nearly all asks end before it fires.
        self._timer = asyncio.get_running_loop().call_later(EVERY.shortest, self._begin)

    def end(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        found = missed = 0
        with suppress(NatsError, OSError):  # the connection was lost, and the ask fails by that
            while True:
                try:
                    await self._client.request(self._subject, self._name, timeout=ANSWERED)
                except (NoRespondersError, NoAnswer):
                    found, missed = 0, missed + 1
                else:
                    found, missed = found + 1, 0
                if missed == TRIES:
                    break
                await asyncio.sleep(EVERY.after(found + 1))
            self._scope.cancel()
