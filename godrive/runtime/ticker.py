"""Time as a message: a child that asks one thing at an interval.

Tests never wait for a ticker; they ask the same message themselves.
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

    What it is answered is passed to *on_reply*; an error to *on_error*, and it does not end the ticking.
    """

    def __init__(
        self,
        ref: Ref[A],
        message: Ask[A, Any],
        *,
        every: float,
        on_reply: Callable[[Any], None],
        on_error: Callable[[DriveError], None],
    ) -> None:
        self._ref = ref
        self._message = message
        self._every = every
        self._on_reply = on_reply
        self._on_error = on_error

    async def run(self) -> None:
        while True:
            await anyio.sleep(self._every * random.uniform(0.9, 1.1))
            try:
                reply = await self._ref.ask(self._message)
            except DriveError as error:
                self._on_error(error)
            else:
                self._on_reply(reply)
