"""Children as data: what to run, and how to stop it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from godrive.runtime.actor import Actor, ActorCell, InHand, Slots
from godrive.runtime.message import Lane
from godrive.runtime.supervision_events import OnEvent


class Child(Protocol):
    """What a supervisor can run: one life per call of ``run``."""

    async def run(self, started: Callable[[], None]) -> None:
        """Live one life.  Call *started* once it is up.  An exception is a crash."""

    def request_stop(self) -> bool:
        """Ask ``run`` to return.  ``False`` if it can only be cancelled."""
        ...

    def bury(self) -> None:
        """Release everything that waits for this child: it will not run again."""


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A child that is a coroutine function.  It is started again whenever it ends.

    To stop it, the supervisor calls *stop* and lets ``run`` return; without a
    *stop*, it cancels ``run``.  Either may take *shutdown* seconds.
    """

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], None] | None = None
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> Child:
        return _Task(self.run, self.stop)


class ActorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A child that is an actor.

    It handles ``concurrency`` messages at once, and ``capacity`` more may wait.
    ``lanes`` gives lanes a mailbox and slots of their own; messages of other
    lanes share the rest.  ``shutdown`` is the seconds it has to finish the
    messages in hand (and as many again for ``on_stop`` if they were cancelled).
    """

    name: str
    start: Callable[[], Actor[Any]]
    concurrency: int = 1
    capacity: int = 1024
    lanes: Mapping[Lane, Slots] = msgspec.field(default_factory=dict)
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> ActorCell:
        return ActorCell(
            self.name,
            self.start,
            slots=Slots(self.concurrency, self.capacity),
            lanes=self.lanes,
            shutdown=self.shutdown,
            on_event=on_event,
        )


class ChildState(StrEnum):
    """The state of a child; ``RESTARTING`` from the end of one life until the next has started."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class ChildStatus(msgspec.Struct, frozen=True):
    """The status of a child; ``queued`` and ``in_flight`` count messages, and are zero for a child that is no actor."""

    name: str
    state: ChildState
    restarts: int
    queued: int
    in_flight: int


class LastCrash(msgspec.Struct, frozen=True):
    """The last crash of a child: what it was doing, and *age* seconds ago."""

    error: str
    doing: str | None
    age: float


class ChildDetails(msgspec.Struct, frozen=True):
    """What an operator looks at when something hangs.  *oldest* is how long the first queued message has waited."""

    status: ChildStatus
    oldest: float
    in_hand: list[InHand]
    last_crash: LastCrash | None


class _Task:
    """The child behind a :class:`ChildSpec`."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], None] | None) -> None:
        self._function = function
        self._stop = stop

    async def run(self, started: Callable[[], None]) -> None:
        started()
        await self._function()

    def request_stop(self) -> bool:
        if self._stop is None:
            return False
        self._stop()
        return True

    def bury(self) -> None:
        """Nothing is queued."""
