"""Threads as steps of the loop.

A call that production code makes in a thread (``run_in_executor``,
``asyncio.to_thread``, ``ThreadPoolExecutor.submit``, aiosqlite) begins at a
later step, runs from beginning to end, and is answered at a still later step.
At most as many calls of a pool are in progress as it has workers.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from godrive.simulation.loop import Killed, SimulatedLoop, process

T = TypeVar("T")

_DEFAULT_WORKERS = 8

Call = Callable[[], object]


class _Pool:
    """The calls of one pool."""

    def __init__(self, workers: int) -> None:
        self.free = workers
        self.waiting: deque[Call] = deque()


class Threads:
    """Every pool of every process."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, *, longest: float = 0.002) -> None:
        self._loop = loop
        self._chance = chance.random
        self._longest = longest
        self._pools: dict[object, _Pool] = {}

    def run(self, executor: Executor | None, call: Callable[..., T], *values: Any) -> asyncio.Future[T]:
        """``loop.run_in_executor``."""
        reply: asyncio.Future[T] = self._loop.create_future()
        context = contextvars.copy_context()

        def settle(value: Any, error: BaseException | None) -> None:
            if reply.done():
                return
            if error is None:
                reply.set_result(value)
            else:
                reply.set_exception(error)

        self._begin(executor or process(), executor, partial(call, *values), settle, context)
        return reply

    def submit(self, executor: Executor, call: Callable[..., T], *values: Any) -> None:
        """``ThreadPoolExecutor.submit``, without a future, because nobody looks at it: an error fails the run."""
        self._begin(executor, executor, partial(call, *values), _fail, contextvars.copy_context())

    def _begin(
        self,
        key: object,
        executor: Executor | None,
        call: Callable[[], Any],
        settle: Callable[[Any, BaseException | None], None],
        context: contextvars.Context,
    ) -> None:
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(getattr(executor, "_max_workers", _DEFAULT_WORKERS))
        delay = self._delay()
        if pool.free:
            pool.free -= 1
            self._loop.call_later(delay, self._work, pool, call, settle, context=context)
        else:
            pool.waiting.append(partial(self._loop.call_later, delay, self._work, pool, call, settle, context=context))

    def _delay(self) -> float:
        return self._chance() * self._longest * 0.5

    def _work(self, pool: _Pool, call: Callable[[], Any], settle: Callable[[Any, BaseException | None], None]) -> None:
        value, error = None, None
        try:
            value = call()
        except Killed:
            raise
        except BaseException as failure:
            error = failure
        seconds = process().spent()
        self._loop.call_later(seconds + self._delay(), self._end, pool, settle, value, error)

    def _end(
        self, pool: _Pool, settle: Callable[[Any, BaseException | None], None], value: Any, error: BaseException | None
    ) -> None:
        pool.free += 1
        settle(value, error)
        if pool.waiting and pool.free:
            pool.free -= 1
            pool.waiting.popleft()()


def _fail(_value: object, error: BaseException | None) -> None:
    if error is not None:
        raise error


class Calls:
    """The queue of a thread of aiosqlite: what is put into it runs as a step of the loop."""

    def __init__(self) -> None:
        self._executor = _One()

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        future, call = item
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)  # noqa: S101
        done = loop.threads.run(self._executor, call)
        if future is not None:
            done.add_done_callback(partial(_pass_on, future))


class _One(Executor):
    _max_workers = 1


def _pass_on(reply: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
    if not reply.done():
        if (error := done.exception()) is not None:
            reply.set_exception(error)
        else:
            reply.set_result(done.result())


class NoThread:
    """In place of ``threading.Thread`` where the work is done by the loop."""

    def __init__(self, *_values: Any, **_options: Any) -> None: ...

    def start(self) -> None: ...
