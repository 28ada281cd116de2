"""The priority of threads and of processes, where the system grants it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

_LEAST = 19


def give_way(by: int) -> None:
    """Let the threads of other work run before this one.  *by* is added to its niceness, of which 19 is the most.

    Best effort: elsewhere than on Linux niceness is of the whole process, and a
    service manager or a container may forbid the call.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(by)


def run_in_background() -> None:
    """Let all other processes run before this one.

    Linux compares the niceness of processes only within a session, and gives
    sessions equal shares, unless a service manager divides the processor (``sched(7)``, "The autogroup feature").  So
    a process that leads its session lowers the session too.  Another does not: the session may be the one of a
    server, or of a shell, which would stay slow.
    """
    give_way(_LEAST)
    if sys.platform == "linux" and os.getsid(0) == os.getpid():
        with suppress(OSError):  # the kernel or the container has no such groups
            Path("/proc/self/autogroup").write_text(f"{_LEAST}", encoding="ascii")
