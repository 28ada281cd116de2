"""Supervisors: children as data, restarted one for one, stopped in reverse.

A crash is met by building the child again after a back-off with jitter.  More
than ``intensity`` restarts within ``period`` seconds and the supervisor gives
up: the body of its ``async with`` is cancelled, the children are stopped in
good order and :class:`GaveUp` comes out.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import anyio

from godrive.runtime.actor import ActorCell, Crash, is_bug
from godrive.runtime.child import ActorSpec, Child, ChildSpec, ChildState, ChildStatus
from godrive.runtime.message import A
from godrive.runtime.ref import LocalRef
from godrive.runtime.supervision_events import (
    ChildCrashed,
    ChildStarted,
    ChildStopped,
    OnEvent,
    RestartsExhausted,
    StopTimedOut,
    guarded,
    ignore,
)


class GaveUp(Exception):
    """The supervisor's restart budget is spent; the last crash is chained."""


class Supervisor:
    """Runs *specs* for the length of an ``async with``: starts in order, stops in reverse.

    A child that cannot start the first time fails the start, as itself.  An
    exception of the body comes out as itself, never in a group.

    Children are shielded from the cancellation of the host: that cancels the
    body, and then they are stopped in good order like at any other end.  A
    host that cancels natively a second time, while they stop, cuts that short.

    Of the events, each ``ChildStarted`` is followed by ``ChildStopped`` or
    ``StopTimedOut`` or one or more ``ChildCrashed`` before the child starts again.
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
        self._on_event = guarded(on_event)
        self._nodes = {spec.name: _Node(spec, spec.build(self._on_event)) for spec in specs}
        if len(self._nodes) < len(specs):
            raise ValueError("two children of one name")
        self._restarts: deque[float] = deque()
        self._failure: GaveUp | None = None
        self._tasks = anyio.create_task_group()
        self._body = anyio.CancelScope()

    def ref(self, contract: type[A]) -> LocalRef[A]:
        """The ref of the actor child of that contract's name."""
        child = self._nodes[contract.name].child
        if not isinstance(child, ActorCell):
            raise KeyError(f"{contract.name} is not an actor")
        return LocalRef(contract, child.mailboxes)

    def children(self) -> list[ChildStatus]:
        """How every child is, in start order."""
        return [node.status() for node in self._nodes.values()]

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._body.__enter__()
        try:
            for node in self._nodes.values():
                node.launched = True
                self._tasks.start_soon(self._supervise, node, name=f"supervise {node.spec.name}")
                await node.ready.wait()
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
        try:
            with anyio.CancelScope(shield=True):
                for node in reversed(self._nodes.values()):
                    await self._stop(node)
        except BaseException as insistence:
            for node in self._nodes.values():
                self._cut_short(node)
            await self._tasks.__aexit__(type(insistence), insistence, insistence.__traceback__)
            raise
        await self._tasks.__aexit__(None, None, None)
        if self._failure is not None:
            raise self._failure
        return swallowed

    async def _supervise(self, node: _Node) -> None:
        try:
            with node.scope:
                await self._lives(node)
        finally:
            if node.scope.cancelled_caught and node.state is ChildState.RUNNING:
                self._ended_well(node)
            node.bury()

    async def _lives(self, node: _Node) -> None:
        while True:
            error = await self._life(node)
            if not node.ready.is_set():
                node.start_error = error
                return
            if node.stopping:
                return
            if not self._may_restart():
                self._give_up(node, error)
                return
            node.restarts += 1
            await anyio.sleep(self._delay())

    async def _life(self, node: _Node) -> BaseException | None:
        """One life of the child, and the error that ended it."""

        def started() -> None:
            node.state = ChildState.RUNNING
            self._on_event(ChildStarted(node.spec.name))
            node.ready.set()

        try:
            await node.child.run(started)
        except BaseException as error:
            if not is_bug(error):
                raise
            node.state = ChildState.RESTARTING
            cause, doing, reported = error, None, False
            if isinstance(error, Crash):
                doing, reported = error.doing, error.reported
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            if node.ready.is_set() and not reported:
                self._on_event(ChildCrashed(node.spec.name, cause, doing))
            return cause
        node.state = ChildState.RESTARTING
        self._ended_well(node)
        return None

    async def _stop(self, node: _Node) -> None:
        if not node.launched:
            node.bury()
            return
        node.stopping = True
        if not node.child.request_stop() or node.state is not ChildState.RUNNING:
            node.scope.cancel()
        with anyio.move_on_after(node.spec.shutdown):
            await node.stopped.wait()
            return
        self._cut_short(node)
        await node.stopped.wait()

    def _cut_short(self, node: _Node) -> None:
        if node.launched and not node.overdue and node.state is not ChildState.STOPPED:
            node.overdue = True
            self._on_event(StopTimedOut(node.spec.name))
            node.scope.cancel()

    def _ended_well(self, node: _Node) -> None:
        if not node.overdue:
            self._on_event(ChildStopped(node.spec.name))

    def _may_restart(self) -> bool:
        now = anyio.current_time()
        while self._restarts and self._restarts[0] <= now - self._period:
            self._restarts.popleft()
        self._restarts.append(now)
        return len(self._restarts) <= self._intensity

    def _delay(self) -> float:
        """Doubling with each recent restart, within the bounds, between half and all of it by chance."""
        shortest, longest = self._backoff
        doubled: float = shortest * 2 ** min(len(self._restarts) - 1, 30)
        return min(longest, doubled) * random.uniform(0.5, 1.0)

    def _give_up(self, node: _Node, error: BaseException | None) -> None:
        self._on_event(RestartsExhausted(node.spec.name, self._intensity, self._period))
        self._failure = GaveUp(
            f"{node.spec.name} ended once too often: more than {self._intensity} restarts in {self._period:g} seconds"
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
        self.launched = False
        self.stopping = False
        self.overdue = False
        self.start_error: BaseException | None = None
        # Shielded, so that a cancelled host does not tear down all children at once.
        self.scope = anyio.CancelScope(shield=True)
        self.ready = anyio.Event()
        self.stopped = anyio.Event()

    def bury(self) -> None:
        self.state = ChildState.STOPPED
        self.child.bury()
        self.ready.set()
        self.stopped.set()

    def status(self) -> ChildStatus:
        child = self.child
        queued, in_flight = (child.queued, child.in_flight) if isinstance(child, ActorCell) else (0, 0)
        return ChildStatus(self.spec.name, self.state, self.restarts, queued, in_flight)
