"""Time as a message: a child that asks the same message at an interval.

Tests do not wait for a ticker but ask the message themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import anyio

from godrive.errors import DriveError
from godrive.runtime.message import A, Ask
from godrive.runtime.ref import Ref


class Ticker:
    """Asks *message* of *ref* every *every* seconds, a tenth more or less, never twice at once.

    While *has_more* says so of a reply, it asks again at once.  Replies are
    passed to *on_reply* and errors to *on_error*; neither ends the ticking.
    """

    def __init__(
        self,
        ref: Ref[A],
        message: Ask[A, Any],
        *,
        every: float,
        on_reply: Callable[[Any], None],
        on_error: Callable[[DriveError], None],
        has_more: Callable[[Any], bool] = lambda reply: False,
    ) -> None:
        self._ref = ref
        self._message = message
        self._every = every
        self._on_reply = on_reply
        self._on_error = on_error
        self._has_more = has_more

    async def run(self) -> None:
        while True:
            await anyio.sleep(self._every * random.uniform(0.9, 1.1))
            while await self._tick():
                pass

    async def _tick(self) -> bool:
        """Ask once.  Returns whether to ask again at once."""
        try:
            reply = await self._ref.ask(self._message)
        except DriveError as error:
            self._on_error(error)
            return False
        self._on_reply(reply)
        return self._has_more(reply)
