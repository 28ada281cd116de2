"""Tasks of which a few run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Crew:
    """Runs at most *most* tasks.  The first error of one comes out of the next call."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* as soon as there is room."""
        try:
            while len(self._running) >= self._most:
                await self.wait()
        except BaseException:
            work.close()
            raise
        self._running.add(asyncio.create_task(work))

    async def wait(self) -> None:
        """Wait until a task has ended."""
        if not self._running:
            return
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        ended = {task for task in self._running if task.done()}
        self._running -= ended
        errors = [error for task in ended if (error := task.exception()) is not None]
        if errors:
            raise errors[0]

    async def finish(self) -> None:
        """Wait for all tasks."""
        while self._running:
            await self.wait()

    async def settle(self) -> None:
        """Wait for all tasks, whatever becomes of them."""
        if self._running:
            await asyncio.wait(self._running)
        for task in self._running:
            if not task.cancelled():
                task.exception()  # or asyncio reports that nobody has looked at it
        self._running.clear()

    async def cancel(self) -> None:
        """Cancel all tasks, and wait for them."""
        for task in self._running:
            task.cancel()
        await self.settle()

    @property
    def is_idle(self) -> bool:
        """Whether no task runs."""
        return not self._running
