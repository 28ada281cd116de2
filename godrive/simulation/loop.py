"""An event loop with virtual time and seeded scheduling.

Nothing here sleeps, opens a socket or starts a thread.  When no callback is
ready, the time jumps to the next timer.  Of the callbacks that are ready, a
seeded choice runs next, within what asyncio promises: the steps of one task
stay in order, and so do callbacks that are not steps of a task and the first
steps of tasks.  Calls that production code makes in threads become steps of
this loop (see ``threads``).

Every callback belongs to the process (:data:`PROCESS`) in whose context it was
scheduled.  The callbacks of a killed process are dropped when their turn comes,
so none of its code runs again: no ``finally``, no ``__aexit__``.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from typing_extensions import TypeVarTuple, Unpack

if TYPE_CHECKING:
    from godrive.simulation.network import Network
    from godrive.simulation.threads import Threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = 1_767_225_600.0
"""When every run begins: the first of January 2026."""

_MOST_AHEAD = 6
"""A callback may overtake this many others."""


class Killed(BaseException):
    """The process of the running code was killed.  Not an ``Exception``, so that no code handles it."""


class Stuck(Exception):
    """No callback is ready and no timer is set, but the run has not ended."""


class Process:
    """A simulated operating-system process: what its code may reach, and whether it still runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.suspended: list[Handle] | None = None
        """While its machine is suspended, what to run when it goes on, in order."""

    def check(self) -> None:
        """Raise :class:`Killed` if code of a dead process asks for an effect on the world."""
        if not self.alive:
            raise Killed(self.name)

    def wall_time(self) -> float:
        """The wall clock of the machine, in seconds since the epoch."""
        return EPOCH + asyncio.get_running_loop().time()

    def before_statement(self, *, is_catalog: bool) -> None:
        """A statement of SQLite is about to be executed."""

    def effect(self, kind: str) -> None:
        """The process is about to change the world, or just has."""
        self.check()

    def delay(self, seconds: float) -> None:
        """The current call in a thread takes that much longer."""

    def spent(self) -> float:
        """Seconds that the call in a thread which just ended has taken."""
        return 0.0


WORLD = Process("world")
PROCESS: ContextVar[Process] = ContextVar("process", default=WORLD)


process: Callable[[], Process] = PROCESS.get
"""The process of the running code."""


def within(owner: Process, call: Callable[..., T], *values: Any) -> T:
    """Call in the context of a process, so that all that the call schedules belongs to it."""
    context = copy_context()
    context.run(PROCESS.set, owner)
    return context.run(call, *values)


class Handle(msgspec.Struct, eq=False):
    """A scheduled callback.  A struct, because a run makes twenty thousand of them."""

    callback: Callable[..., Any] | None
    args: tuple[Any, ...]
    context: Context
    due: float
    begins: bool = False
    """Whether this is the first step of a task."""

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due

    def __repr__(self) -> str:
        return f"<Handle {self.callback} at {self.due}>"


def _strand(handle: Handle) -> asyncio.Task[Any] | None:
    """The task of which this is a later step; ``None`` for all other callbacks, which keep their order."""
    task = None if handle.begins else getattr(handle.callback, "__self__", None)
    return task if type(task) is asyncio.Task else None


class SimulatedLoop(asyncio.AbstractEventLoop):
    """The loop.  *chance* chooses what runs next; *most_steps* bounds a run that never ends."""

    def __init__(self, chance: random.Random, *, most_steps: int = 400_000) -> None:
        self._chance = chance.random
        self.now = 0.0
        """The time of the loop, for code that asks for it often."""
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._timer_count = 0
        self._stopping = False
        self._closed = False
        self._left = most_steps
        self.digest = 0
        """A hash of every choice and of the time at which it was made."""
        self.unhandled: list[dict[str, Any]] = []
        """What was passed to the exception handler by processes that are alive."""
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.network: Network
        self.threads: Threads

    # Time and callbacks

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context, self.now)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        when = self.now + delay
        handle = Handle(callback, args, copy_context() if context is None else context, when)
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, handle))
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        handle = Handle(callback, args, copy_context() if context is None else context, when)
        self._timer_count += 1
        heappush(self._timers, (when, self._timer_count, handle))
        return handle

    # Running

    def run_forever(self) -> None:
        events._set_running_loop(self)
        ready, wait, chance = self._ready, self._wait, self._chance
        try:
            while not self._stopping:
                if not ready:
                    wait()
                count = len(ready)
                if count == 1:
                    at, handle = 0, ready.pop()
                else:
                    at = int(chance() * min(count, _MOST_AHEAD))
                    handle = ready.pop(self._first_of(at) if at else 0)
                callback = handle.callback
                if callback is None:
                    continue
                owner = handle.context.get(PROCESS, WORLD)
                if not owner.alive:
                    continue
                if owner.suspended is not None:
                    owner.suspended.append(handle)
                    continue
                self.digest = hash((self.digest, at, count, self.now))
                self._left -= 1
                try:
                    handle.context.run(callback, *handle.args)
                except Killed:
                    pass
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    problem = {"message": f"Exception in {callback!r}", "exception": error}
                    handle.context.run(self.call_exception_handler, problem)
        finally:
            self._stopping = False
            events._set_running_loop(None)

    def _wait(self) -> None:
        """Let the time jump to the next timer."""
        if self._left < 0:
            raise Stuck(f"the run has not ended after many steps, at {self.now:.6f}")
        ready, timers = self._ready, self._timers
        while not ready:
            if not timers:
                raise Stuck(f"nothing is left to do at {self.now:.6f}")
            due, _, handle = heappop(timers)
            if handle.callback is None:
                continue
            self.now = max(self.now, due)
            ready.append(handle)
            while timers and timers[0][0] <= self.now:
                ready.append(heappop(timers)[2])

    def _first_of(self, at: int) -> int:
        """The place of the first callback of the strand that was chosen."""
        ready = self._ready
        strand = _strand(ready[at])
        for earlier in range(at):
            if _strand(ready[earlier]) is strand:
                return earlier
        return at

    def suspend(self, owner: Process, seconds: float) -> None:
        """Run none of its code for a while."""
        if owner.suspended is None:
            owner.suspended = []
            within(WORLD, self.call_later, seconds, self.resume, owner)

    def resume(self, owner: Process) -> None:
        """End the suspension of a process, if it is suspended."""
        if owner.suspended is not None:
            self._ready += owner.suspended
            owner.suspended = None

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(self._stop_at)
        self.run_forever()
        return task.result()

    def _stop_at(self, _task: object) -> None:
        self._stopping = True

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    get_debug = staticmethod(bool)
    """Always false.  Each task and each future asks, so this is a function that costs nothing."""

    def set_debug(self, enabled: bool) -> None:
        """Ignored: the debug mode of asyncio measures real time."""

    async def shutdown_asyncgens(self) -> None:
        """Leave generators alone: a killed process does not end them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There are no threads."""

    # Tasks and futures

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = asyncio.Task(coro, loop=self, **options)
        # A protocol that starts a task in connection_made relies on it to begin before connection_lost.
        self._ready[-1].begins = True
        return task

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if process().alive and not isinstance(context.get("exception"), Killed):
            self.unhandled.append(context)

    # Threads

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        return self.threads.run(executor, func, *args)

    # The network

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self.network.connect(protocol_factory, host, port, sock=options.get("sock"))

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return self.network.listen(protocol_factory, host, port, sock=options.get("sock"))

    async def sock_connect(self, sock: Any, address: Any) -> None:
        sock.peer = address

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return self.network.look_up(host, port)

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Refused as asyncio refuses it outside the main thread: a simulated process is killed or stopped, not told."""
        raise RuntimeError("a simulated process gets no signals")
