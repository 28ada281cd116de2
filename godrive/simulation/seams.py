"""Where production code meets the machine: replaced while a simulation runs.

Nearly all of it is Python's own: the sources of time and chance, threads, sockets,
and the connections of SQLite; and in the modules of the disk store, ``os``.  Only
the hash of passwords is not, because it is slow by design.  So production code
needs no parameter for it and pays nothing, new code is covered without being
told, and libraries are covered too.  What would reach the real world by another
way fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import resource
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, TypeVar
from unittest.mock import patch
from urllib.parse import quote

import aiohttp.connector
import aiosqlite.core
import anyio.to_thread
import bcrypt
from anyio._backends import _asyncio as anyio_backend

from godrive import blobs, ids, reserve, tree
from godrive.blobs import disk as _disk  # noqa: F401 - imported, so that it is found
from godrive.bridge import webhooks
from godrive.runtime import ref
from godrive.runtime.actor import ActorCell
from godrive.simulation.file_system import FileSystem
from godrive.simulation.letters import Letter, dead_letter
from godrive.simulation.loop import SimulatedLoop, process
from godrive.simulation.machine import Connection, Life
from godrive.simulation.network import SimulatedSocket
from godrive.simulation.threads import Calls, NoThread

T = TypeVar("T")

_SALT, _HASH = 29, 31
"""Characters of the two parts of a hash of bcrypt."""


class OrderedSet(dict[Any, None]):
    """In place of a set whose order would follow from addresses in memory."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def remove(self, item: Any) -> None:
        del self[item]


class OrderedScope(anyio_backend.CancelScope):
    """A cancel scope that cancels in the order of entering."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._child_scopes = OrderedSet()  # type: ignore[assignment]
        self._tasks = OrderedSet()  # type: ignore[assignment]


class _LogHandler(logging.Handler):
    """Passes records on."""

    def __init__(self, log: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record)


def _adopt(_file: object, _folder: object) -> None:
    """Files of a simulated disk have no owner."""


def _lengthen(handle: int, size: int) -> None:
    """Set no space aside."""
    if os.fstat(handle).st_size < size:
        os.ftruncate(handle, size)


def _modules_within(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of the stores on a disk.  To look at all that are imported would copy the memory of each."""
    for name, module in sorted(vars(package).items()):
        if isinstance(module, ModuleType) and module.__name__ == f"{package.__name__}.{name}" and name != "s3":
            yield module
            yield from _modules_within(module)


def _hash(password: bytes, salt: bytes) -> bytes:
    """In place of ``bcrypt.hashpw``, which is slow by design."""
    salt = salt[:_SALT]
    return salt + hashlib.sha256(salt + password).hexdigest()[:_HASH].encode()


def _check(password: bytes, hashed: bytes) -> bool:
    return _hash(password, hashed) == hashed


@contextmanager
def installed(
    loop: SimulatedLoop,
    entropy: random.Random,
    log: Callable[[logging.LogRecord], None] | None = None,
    *,
    also: Iterable[tuple[Any, str, Any]] = (),
) -> Iterator[None]:
    """Have all code of this thread see the simulated machine.

    *log* gets what it logs.  *also* has more to replace: an owner, a name, and the value.
    """

    def wall_time() -> float:
        return process().wall_time()

    def wall_time_ns() -> int:
        return int(process().wall_time() * 1e9)

    def usage(_who: int) -> resource.struct_rusage:
        # What the real process has read from a disk is no part of a run.
        return resource.struct_rusage([0] * 16)

    def refuse_sleep(_seconds: float) -> None:
        raise RuntimeError("a simulated process may not block")

    connect = sqlite3.connect

    def connect_sqlite(path: Any, **options: Any) -> sqlite3.Connection:
        # All simulated processes are one real process, so SQLite need not ask the kernel for its locks.  It writes
        # whole pages, so small ones take less time and memory.
        connection = connect(f"file:{quote(str(path))}?vfs=unix-excl", uri=True, factory=Connection, **options)
        assert isinstance(connection, Connection)  # noqa: S101
        sqlite3.Connection.execute(connection, "PRAGMA page_size = 1024")
        connection.is_catalog = str(path).endswith("godrive.db")
        connection.create_function("randomblob", 1, entropy.randbytes)
        if isinstance(owner := process(), Life):
            owner.connections.append(connection)
        return connection

    def submit(pool: ThreadPoolExecutor, call: Callable[..., T], *values: Any) -> None:
        loop.threads.submit(pool, call, *values)

    async def run_sync(call: Callable[..., T], *values: Any, **_options: Any) -> T:
        return await loop.threads.run(None, call, *values)

    def refuse_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("a simulated process has no threads of its own")

    replaced: list[tuple[Any, str, Any]] = [
        (os, "urandom", entropy.randbytes),
        (ids, "tails", deque()),
        (random, "_urandom", entropy.randbytes),  # what the module secrets draws from
        (time, "time", wall_time),
        (time, "time_ns", wall_time_ns),
        (time, "monotonic", loop.time),
        (time, "perf_counter", loop.time),
        (aiohttp.connector, "monotonic", lambda: 0.0),  # connections that nobody uses are kept, as in a quick run
        (time, "clock_gettime", lambda _clock: loop.time()),
        (time, "sleep", refuse_sleep),
        (resource, "getrusage", usage),
        (sqlite3, "connect", connect_sqlite),
        (ThreadPoolExecutor, "submit", submit),
        (anyio.to_thread, "run_sync", run_sync),
        (threading.Thread, "start", refuse_thread),
        (bcrypt, "hashpw", _hash),
        (bcrypt, "checkpw", _check),
        (aiosqlite.core, "Thread", NoThread),
        (aiosqlite.core, "SimpleQueue", Calls),
        (socket, "socket", SimulatedSocket),
        (anyio_backend, "CancelScope", OrderedScope),
        (ref, "Envelope", Letter),
        (ActorCell, "_dead_letter", dead_letter),
        (tree, "SETTLE_EVERY", 2.0),  # an idle drive spends its time on these
        (tree, "INDEX_EVERY", 2.0),
        (webhooks, "EVERY", 5.0),
        (reserve, "_allocate", _lengthen),  # the disk of the catalog is never full: its statements fail
        (tree, "SETTLED_AT_ONCE", 3),  # so that a folder takes several steps
        (tree, "INDEXED_AT_ONCE", 3),
        *also,
    ]
    disk = FileSystem()
    for module in _modules_within(blobs):
        if vars(module).get("os") is os:
            replaced.append((module, "os", disk))
        replaced += [(module, adopts, _adopt) for adopts in ("adopt", "adopt_file") if adopts in vars(module)]
    before = random.getstate()
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        if log is None:
            logging.disable(logging.CRITICAL)
            stack.callback(logging.disable, logging.NOTSET)
        else:
            handler = _LogHandler(log)
            logging.getLogger().addHandler(handler)
            stack.callback(logging.getLogger().removeHandler, handler)
        random.seed(entropy.random())
        stack.callback(random.setstate, before)
        yield
