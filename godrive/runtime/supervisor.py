"""Supervisors: children as data, restarted one for one, stopped in reverse.

A child that crashes is built again after a back-off with jitter.  After more
than ``intensity`` restarts within ``period`` seconds the supervisor gives up: it
cancels the body of its ``async with``, stops the children in order and raises
:class:`GaveUp`.

The children run below a task of the supervisor's own.  A cancel scope must be
left by the task that entered it, so this is what lets a host start the
supervisor in one task and stop it in another, as the fixtures of pytest-asyncio
and the lifespan hooks of many frameworks do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from godrive.backoff import Backoff
from godrive.errors import GaveUp
from godrive.runtime.actor import ActorCell, Crash, is_bug
from godrive.runtime.child import ActorSpec, Child, ChildDetails, ChildSpec, ChildState, ChildStatus, LastCrash
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


class Supervisor:
    """Runs *specs*: starts them in order, stops them in reverse.  It runs once.

    Use it as an ``async with``, or call :meth:`start` and :meth:`stop`, from
    different tasks if need be.

    A child that cannot start the first time fails the start with its own error.
    An exception of the body comes out as itself, never in a group.

    Cancelling the host cancels the body and not the children: they are stopped
    in order, as at any other end.  A second native cancellation while they stop
    cuts that short.

    Each ``ChildStarted`` event is followed by ``ChildStopped``, by
    ``StopTimedOut``, or by one or more ``ChildCrashed`` before the child starts
    again.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec | ActorSpec],
        *,
        intensity: int = 5,
        period: float = 30.0,
        backoff: Backoff = Backoff(0.05, 5.0),  # noqa: B008 - frozen
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
        self._start_error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = anyio.CancelScope()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._body: anyio.CancelScope | None = None
        self._host: asyncio.Task[object] | None = None

    def ref(self, contract: type[A]) -> LocalRef[A]:
        """The ref of the actor of that contract.  Raises ``KeyError`` if it is no child."""
        child = self._nodes[contract.name].child
        if not isinstance(child, ActorCell):
            raise KeyError(f"{contract.name} is not an actor")
        return LocalRef(contract, child.mailboxes)

    def children(self) -> list[ChildStatus]:
        """The status of each child, in start order."""
        return [node.status() for node in self._nodes.values()]

    def details(self) -> list[ChildDetails]:
        """More about each child, in start order."""
        return [node.details() for node in self._nodes.values()]

    async def start(self) -> None:
        """Start the children, in order.  If one cannot start, stop those that have, and raise its error."""
        try:
            await self._launch()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the children, in reverse order.  Idempotent.  Raises ``GaveUp`` if the supervisor has given up.

        A native cancellation meanwhile (``asyncio.wait_for``) cancels the children that still run.
        """
        self._stopping.set()
        self._starting.cancel()
        if self._task is None:
            self._bury_all()
            return
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([self._task])
        except BaseException:
            for node in self._nodes.values():
                self._cut_short(node)
            await asyncio.wait([self._task])
            raise
        await self.wait()

    async def wait(self) -> None:
        """Wait until the children have stopped.  Raises ``GaveUp`` if the supervisor has given up."""
        if self._task is None:
            raise RuntimeError("the supervisor has not been started")
        await asyncio.wait([self._task])
        self._task.result()
        if self._failure is not None:
            raise self._failure

    async def __aenter__(self) -> Self:
        self._host, self._body = asyncio.current_task(), anyio.CancelScope()
        self._body.__enter__()
        try:
            await self._launch()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        body, self._body = self._body, None
        swallowed = None
        if body is not None and self._host is asyncio.current_task():  # else the scope ended with the task
            swallowed = body.__exit__(kind, error, trace)
        await self.stop()
        return swallowed

    async def _launch(self) -> None:
        if self._task is not None or self._stopping.is_set():
            raise RuntimeError("a supervisor runs once; make another one")
        self._task = asyncio.get_running_loop().create_task(self._run(), name="supervisor")
        await self._started.wait()
        if self._start_error is not None:
            raise self._start_error

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await self._start_all(tasks)
                    await self._stopping.wait()
                except BaseException:  # a child raised what ends the process
                    self._cancel_body()
                    raise
                finally:
                    with anyio.CancelScope(shield=True):
                        for node in reversed(self._nodes.values()):
                            await self._stop(node)
        finally:
            self._started.set()

    async def _start_all(self, tasks: TaskGroup) -> None:
        with self._starting:
            for node in self._nodes.values():
                node.launched = True
                tasks.start_soon(self._supervise, node, name=f"supervise {node.spec.name}")
                await node.ready.wait()
                if node.start_error is not None:
                    self._start_error = node.start_error
                    self._stopping.set()
                    return
            self._started.set()

    def _cancel_body(self) -> bool:
        """``False`` if there is none: it was never entered, or its task has ended without leaving it."""
        if self._body is None or self._host is None or self._host.done():
            return False
        self._body.cancel()
        return True

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
            await anyio.sleep(self._backoff.jittered(len(self._restarts)))

    async def _life(self, node: _Node) -> BaseException | None:
        """Live one life of the child.  Returns the error that ended it."""

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
            node.crashed_at = anyio.current_time()
            cause, doing, reported = error, None, False
            if isinstance(error, Crash):
                doing, reported = error.doing, error.reported
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            node.crash = repr(cause), doing
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

    def _give_up(self, node: _Node, error: BaseException | None) -> None:
        self._on_event(RestartsExhausted(node.spec.name, self._intensity, self._period))
        self._failure = GaveUp(
            f"{node.spec.name} ended too often: more than {self._intensity} restarts in {self._period:g} seconds"
        )
        self._failure.__cause__ = error
        if not self._cancel_body():
            self._stopping.set()

    def _bury_all(self) -> None:
        for node in self._nodes.values():
            node.bury()


class _Node:
    """A child, its spec and its state."""

    def __init__(self, spec: ChildSpec | ActorSpec, child: Child) -> None:
        self.spec = spec
        self.child = child
        self.state = ChildState.STARTING
        self.restarts = 0
        self.crash: tuple[str, str | None] | None = None
        self.crashed_at = 0.0
        self.launched = False
        self.stopping = False
        self.overdue = False
        self.start_error: BaseException | None = None
        # Shielded, so that what fails the task group does not cancel all children at once.
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

    def details(self) -> ChildDetails:
        child, last = self.child, None
        if self.crash is not None:
            last = LastCrash(*self.crash, anyio.current_time() - self.crashed_at)
        in_hand, oldest = (child.in_hand(), child.oldest_queued()) if isinstance(child, ActorCell) else ([], 0.0)
        return ChildDetails(self.status(), oldest, in_hand, last)
