"""A ref that stands in for an actor, for tests of what asks one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import anyio

from godrive.errors import AskTimeout
from godrive.runtime import Ask
from godrive.runtime.message import A, Message

R = TypeVar("R")
M = TypeVar("M", bound=Message[Any])


class Probe(Generic[A]):
    """Records the messages that it receives, and sends the replies that the test has set::

        metadata = Probe(Metadata)
        metadata.answer(ListFiles, lambda ask: Page(items=[]))
        ...
        asked = await metadata.expect(ListFiles)

    A message without an answer gets ``AskTimeout`` at its deadline, as from an
    actor that hangs.  A message of another contract is a ``TypeError``.
    """

    def __init__(self, contract: type[A]) -> None:
        self._contract = contract
        self._answers: dict[type[Message[Any]], Callable[[Any], Any]] = {}
        self._asked = anyio.Event()
        self.asked: list[Message[A]] = []
        """All messages, oldest first."""

    def answer(self, message: type[Ask[A, R]], how: Callable[[Any], R]) -> None:
        """Answer messages of that type with what *how* returns for them.  It may raise a ``DriveError``."""
        self._answers[message] = how

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        if message.contract is not self._contract:
            raise TypeError(f"{type(message).__name__} is no message to the {self._contract.name} actor")
        self.asked.append(message)
        self._asked.set()
        self._asked = anyio.Event()
        how = self._answers.get(type(message))
        if how is None:
            await anyio.sleep(message.timeout if timeout is None else timeout)
            raise AskTimeout(f"The {self._contract.name} actor did not answer in time.")
        return cast("R", how(message))

    async def expect(self, message: type[M], *, within: float = 1.0) -> M:
        """Return the first message of that type, and forget it.  Raises ``TimeoutError``."""
        with anyio.fail_after(within):
            while True:
                for asked in self.asked:
                    if isinstance(asked, message):
                        self.asked.remove(asked)
                        return asked
                await self._asked.wait()
