"""Children as data: what to run, how to stop it, when to start it again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from godrive.runtime.actor import Actor, ActorCell
from godrive.runtime.supervision_events import OnEvent


class Restart(StrEnum):
    """When a child that ended is started again: always, after a crash only, or never."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"

    def wants(self, *, crashed: bool) -> bool:
        """Whether a child that ended so is started again."""
        return self is Restart.PERMANENT or (self is Restart.TRANSIENT and crashed)


class Child(Protocol):
    """What a supervisor can run: one life per call of ``run``."""

    async def run(self, started: Callable[[], None]) -> None:
        """Live one life; *started* is to be called once it is up.  An exception is a crash."""

    def request_stop(self) -> bool:
        """Ask ``run`` to return; ``False`` when it can only be cancelled."""
        ...

    def bury(self) -> None:
        """It will not run again: let go of what waits for it."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """A child that is a coroutine function.

    It stops by being cancelled, or, where there is a *stop*, by that being
    called and ``run`` returning; *shutdown* is how many seconds either may take.
    """

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    stop: Callable[[], None] | None = None
    restart: Restart = Restart.PERMANENT
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> Child:
        return _Task(self.run, self.stop)


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """A child that is an actor.

    ``concurrency`` messages at once, ``capacity`` in the mailbox, ``shutdown``
    seconds to finish the messages in hand (and as many again for ``on_stop``
    when they had to be cancelled).
    """

    name: str
    start: Callable[[], Actor[Any]]
    restart: Restart = Restart.PERMANENT
    concurrency: int = 1
    capacity: int = 1024
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> ActorCell:
        return ActorCell(
            self.name,
            self.start,
            concurrency=self.concurrency,
            capacity=self.capacity,
            shutdown=self.shutdown,
            on_event=on_event,
        )


class ChildState(StrEnum):
    """Where in its life a child is; ``RESTARTING`` from the end of one life until the next has started."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """A child at a glance; ``queued`` and ``in_flight`` are messages, zero for a child with no mailbox."""

    name: str
    state: ChildState
    restarts: int
    queued: int
    in_flight: int


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
