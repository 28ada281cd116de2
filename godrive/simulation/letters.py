"""What became of every message between actors: each must be answered, or be a dead letter.

While a simulation runs, refs send a :class:`Letter` in place of an envelope.
"""

from __future__ import annotations

from typing import Any

from godrive.errors import DriveError
from godrive.runtime.actor import ActorCell
from godrive.runtime.mailbox import Envelope
from godrive.simulation.loop import process
from godrive.simulation.machine import Life


class Letter(Envelope):
    """An envelope that its process remembers."""

    is_settled: bool = False
    """Whether the actor has answered it, or given it up as a dead letter."""

    def __post_init__(self) -> None:
        owner = process()
        if isinstance(owner, Life):
            owner.note_letter(self)

    def expired(self, now: float) -> bool:
        is_expired = super().expired(now)
        owner = process()
        if not is_expired and self.deadline <= now and isinstance(owner, Life):
            owner.machine.wrongs.append(f"{self} is handled after its deadline")
        return is_expired

    def answer(self, value: Any) -> None:
        self._settle("")
        super().answer(value)

    def fail(self, error: DriveError) -> None:
        self._settle(error.code)
        super().fail(error)

    def _settle(self, code: str) -> None:
        self.is_settled = True
        owner = process()
        if isinstance(owner, Life) and owner.machine.trace.is_read:
            took = owner.machine.loop.time() - self.sent_at
            what = f"{self.message.contract.name} {type(self.message).__name__}"
            owner.machine.trace.write_only("handled", owner.name, f"{what} in {took:.4f} s{code and ': '}{code}")

    def __str__(self) -> str:
        return f"{type(self.message).__name__} of {self.sent_at:.6f}"


def dead_letter(cell: ActorCell, envelope: Letter, reason: str) -> None:
    """In place of ``ActorCell._dead_letter``."""
    envelope.is_settled = True
    _dead_letter(cell, envelope, reason)


_dead_letter: Any = ActorCell._dead_letter


def unanswered(life: Life) -> list[str]:
    """The messages whose deadline has passed, and that nobody has answered or given up."""
    now = life.machine.loop.time()
    return [str(letter) for letter in life.letters if not letter.is_settled and letter.deadline < now]
