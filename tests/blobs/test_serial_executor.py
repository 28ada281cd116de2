"""Calls one after another in threads: an error is never taken for the end of a call."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import anyio
import pytest

from godrive.blobs.staged_write import Batch, SerialExecutor
from godrive.errors import StorageFull

pytestmark = pytest.mark.anyio


class LatePool(Executor):
    """A thread that is held up between the end of its call and telling what came of it."""

    def submit(self, call: Callable[..., Any], /, *values: Any, **_options: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        tell: Callable[[Any], None] = outcome.set_result
        value: Any = None
        try:
            value = call(*values)
        except OSError as error:
            tell, value = outcome.set_exception, error
        asyncio.get_running_loop().call_later(0.01, tell, value)
        return outcome


def fail(_batch: Batch) -> None:
    raise OSError(errno.ENOSPC, "no space")


async def test_a_call_that_has_failed_is_not_settled_before_its_error_is_known() -> None:
    calls = SerialExecutor(LatePool(), fail)
    calls.push([b"lost"])
    with anyio.fail_after(30):
        for left in (0, 1, 0):
            with pytest.raises(StorageFull):
                await calls.settle(left)


async def test_a_call_that_has_ended_is_settled_at_once() -> None:
    written: list[Batch] = []
    calls = SerialExecutor(LatePool(), written.append)
    calls.push([b"one"])
    with anyio.fail_after(30):
        await calls.settle(0)
    assert written == [[b"one"]]
    assert not calls.is_busy
