"""The priority of threads, where the system grants it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def give_way(by: int) -> None:
    """Let the threads of other work run before this one.  *by* is added to its niceness, of which 19 is the most.

    Best effort: elsewhere than on Linux niceness is of the whole process, and a
    service manager or a container may forbid the call.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(by)
