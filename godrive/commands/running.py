"""Run a command on an event loop."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def raise_limit() -> None:
    """Raise the limit on open files to what is allowed.  It starts low, for programs that call ``select``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS reports a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run *main* to its end, on uvloop if it is installed."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
