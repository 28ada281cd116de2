"""Work on many items at once: the first error comes out, and the others are not left behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from godrive.backup.together import AT_ONCE, for_each

pytestmark = pytest.mark.anyio


async def numbers(many: int) -> AsyncIterator[int]:
    for number in range(many):
        yield number


async def test_each_item_is_worked_on_once_and_no_more_than_some_at_a_time() -> None:
    running = most = 0
    done: list[int] = []

    async def act(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    await for_each(numbers(3 * AT_ONCE), act)
    assert (sorted(done), most) == ([*range(3 * AT_ONCE)], AT_ONCE)


@pytest.mark.slow
async def test_several_errors_are_one_and_nobody_reports_the_others() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    ready = asyncio.Event()

    async def fail(number: int) -> None:
        if number == AT_ONCE - 1:
            ready.set()
        await ready.wait()
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"\d"):
        await for_each(numbers(AT_ONCE), fail)
    gc.collect()
    assert told == []
