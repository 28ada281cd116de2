"""Faults at the refs of a drive: messages that are refused, and answers that are lost."""

from __future__ import annotations

from collections import Counter
from typing import Any, Generic, TypeVar

from godrive.errors import AskTimeout, DriveError
from godrive.runtime import Ask, Ref
from godrive.runtime.message import A, Message

R = TypeVar("R")


class FaultPoints:
    """What goes wrong with messages, by their type::

        faults = FaultPoints()
        async with open_drive(faults=faults) as drive:
            faults.lose_answer(SignUp)

    Messages between the actors of the drive pass here too.
    """

    def __init__(self) -> None:
        self._refused: dict[type[Message[Any]], tuple[DriveError, int]] = {}
        self._lost: Counter[type[Message[Any]]] = Counter()

    def refuse(self, message: type[Message[Any]], error: DriveError, *, times: int = 1) -> None:
        """Answer the next *times* messages of that type with *error*.  The actor never gets them."""
        self._refused[message] = error, times

    def lose_answer(self, message: type[Message[Any]], *, times: int = 1) -> None:
        """Have the actor handle the next *times* messages of that type, and answer ``AskTimeout``."""
        self._lost[message] += times

    def at(self, ref: Ref[A]) -> Ref[A]:
        """Return the ref with these faults."""
        return _FaultyRef(ref, self)

    def check(self, message: Message[Any]) -> None:
        """Raise what the message is to be refused with."""
        error, times = self._refused.get(type(message), (None, 0))
        if error is not None and times:
            self._refused[type(message)] = error, times - 1
            raise error

    def loses(self, message: Message[Any]) -> bool:
        """Whether the answer to the message is lost."""
        if not self._lost[type(message)]:
            return False
        self._lost[type(message)] -= 1
        return True


class _FaultyRef(Generic[A]):
    def __init__(self, ref: Ref[A], faults: FaultPoints) -> None:
        self._ref = ref
        self._faults = faults

    async def ask(self, message: Ask[A, R], *, timeout: float | None = None) -> R:
        self._faults.check(message)
        is_lost = self._faults.loses(message)
        reply = await self._ref.ask(message, timeout=timeout)
        if is_lost:
            raise AskTimeout("The answer was lost.")
        return reply
