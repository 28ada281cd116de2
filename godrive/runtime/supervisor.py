"""Supervisors: children as data, restarted one for one, stopped in reverse.

A crash is met by building the child again after a back-off with jitter.  More
than ``intensity`` restarts within ``period`` seconds and the supervisor gives
up: the body of its ``async with`` is cancelled, the children are stopped in
good order and :class:`GaveUp` comes out.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
from anyio.abc import TaskStatus

from godrive.runtime.actor import Actor, ActorCell, Crash
from godrive.runtime.events import (
    ChildCrashed,
    ChildStarted,
    ChildStopped,
    OnEvent,
    RestartsExhausted,
    StopTimedOut,
    ignore,
)
from godrive.runtime.message import A
from godrive.runtime.ref import LocalRef


class Restart(StrEnum):
    """When a child that ended is started again: always, after a crash only, or never."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Child(Protocol):
    """What a supervisor can run: one life per call of ``run``."""

    async def run(self, started: Callable[[], None]) -> None: ...

    def request_stop(self) -> None: ...

    def bury(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """A child that is a coroutine function.  It stops by being cancelled."""

    name: str
    run: Callable[[], Coroutine[Any, Any, None]]
    restart: Restart = Restart.PERMANENT
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> Child:
        return _Task(self.run)


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """A child that is an actor.

    ``concurrency`` messages at once, ``capacity`` in the mailbox, ``shutdown``
    seconds to finish the message in hand.
    """

    name: str
    start: Callable[[], Actor[Any]]
    restart: Restart = Restart.PERMANENT
    concurrency: int = 1
    capacity: int = 1024
    shutdown: float = 5.0

    def build(self, on_event: OnEvent) -> ActorCell:
        return ActorCell(self.name, self.start, concurrency=self.concurrency, capacity=self.capacity, on_event=on_event)


class ChildState(StrEnum):
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


class GaveUp(Exception):
    """The supervisor's restart budget is spent; the last crash is chained."""


class Supervisor:
    """Runs *specs* for the length of an ``async with``: starts in order, stops in reverse.

    A child that cannot start the first time fails the start, as itself.  An
    exception of the body comes out as itself, never in a group.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec | ActorSpec],
        *,
        intensity: int = 5,
        period: float = 30.0,
        backoff: tuple[float, float] = (0.05, 5.0),
        on_event: OnEvent = ignore,
    ) -> None:
        self._intensity = intensity
        self._period = period
        self._backoff = backoff
        self._on_event = on_event
        self._nodes = {spec.name: _Node(spec, spec.build(on_event)) for spec in specs}
        self._restarts: deque[float] = deque()
        self._stopping = False
        self._failure: GaveUp | None = None
        self._tasks = anyio.create_task_group()
        self._body = anyio.CancelScope()

    def ref(self, contract: type[A]) -> LocalRef[A]:
        """The ref of the actor child of that contract's name."""
        child = self._nodes[contract.name].child
        if not isinstance(child, ActorCell):
            raise KeyError(f"{contract.name} is not an actor")
        return LocalRef(contract, child.mailbox)

    def children(self) -> list[ChildStatus]:
        """How every child is, in start order."""
        return [node.status() for node in self._nodes.values()]

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._body.__enter__()
        try:
            for node in self._nodes.values():
                await self._tasks.start(self._supervise, node)
                if node.start_error is not None:
                    raise node.start_error
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        swallowed = self._body.__exit__(kind, error, trace)
        self._stopping = True
        with anyio.CancelScope(shield=True):
            for node in reversed(self._nodes.values()):
                await self._stop(node)
        await self._tasks.__aexit__(None, None, None)
        if self._failure is not None:
            raise self._failure
        return swallowed

    async def _supervise(self, node: _Node, *, task_status: TaskStatus[None]) -> None:
        first = True

        def started() -> None:
            nonlocal first
            node.state = ChildState.RUNNING
            self._on_event(ChildStarted(node.spec.name))
            if first:
                first = False
                task_status.started()

        try:
            with node.scope:
                while True:
                    last: BaseException | None = None
                    try:
                        await node.child.run(started)
                    except Exception as error:
                        cause = (error.__cause__ or error) if isinstance(error, Crash) else error
                        doing = error.doing if isinstance(error, Crash) else None
                        if first:
                            node.start_error = cause
                            task_status.started()
                            return
                        self._on_event(ChildCrashed(node.spec.name, cause, doing))
                        last = cause
                    if self._stopping or not _wants_restart(node.spec.restart, crashed=last is not None):
                        return
                    if not self._may_restart():
                        self._give_up(node, last)
                        return
                    node.state = ChildState.RESTARTING
                    node.restarts += 1
                    await anyio.sleep(self._delay())
        finally:
            node.state = ChildState.STOPPED
            node.child.bury()
            node.stopped.set()
            self._on_event(ChildStopped(node.spec.name))

    async def _stop(self, node: _Node) -> None:
        if node.state is ChildState.STARTING:
            return
        node.child.request_stop()
        if node.state is ChildState.RESTARTING or isinstance(node.child, _Task):
            node.scope.cancel()
        with anyio.move_on_after(node.spec.shutdown):
            await node.stopped.wait()
            return
        self._on_event(StopTimedOut(node.spec.name))
        node.scope.cancel()
        await node.stopped.wait()

    def _may_restart(self) -> bool:
        now = anyio.current_time()
        while self._restarts and self._restarts[0] <= now - self._period:
            self._restarts.popleft()
        self._restarts.append(now)
        return len(self._restarts) <= self._intensity

    def _delay(self) -> float:
        """Doubling with each recent restart, within the bounds, between half and all of it by chance."""
        shortest, longest = self._backoff
        doubled: float = shortest * 2 ** (len(self._restarts) - 1)
        return min(longest, doubled) * random.uniform(0.5, 1.0)

    def _give_up(self, node: _Node, error: BaseException | None) -> None:
        self._on_event(RestartsExhausted(node.spec.name, self._intensity, self._period))
        self._failure = GaveUp(
            f"{node.spec.name} crashed more than {self._intensity} times in {self._period:g} seconds"
        )
        self._failure.__cause__ = error
        self._body.cancel()


class _Node:
    """A child in its place: its spec, and how it is."""

    def __init__(self, spec: ChildSpec | ActorSpec, child: Child) -> None:
        self.spec = spec
        self.child = child
        self.state = ChildState.STARTING
        self.restarts = 0
        self.start_error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self.stopped = anyio.Event()

    def status(self) -> ChildStatus:
        child = self.child
        queued, in_flight = (len(child.mailbox), child.in_flight) if isinstance(child, ActorCell) else (0, 0)
        return ChildStatus(self.spec.name, self.state, self.restarts, queued, in_flight)


class _Task:
    """The child behind a :class:`ChildSpec`."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._function = function

    async def run(self, started: Callable[[], None]) -> None:
        started()
        await self._function()

    def request_stop(self) -> None:
        """Stopping is being cancelled."""

    def bury(self) -> None:
        """Nothing is queued."""


def _wants_restart(restart: Restart, *, crashed: bool) -> bool:
    return restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and crashed)
