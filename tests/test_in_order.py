"""Several items at a time, and the results in their order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from godrive.in_order import in_order

pytestmark = pytest.mark.anyio


async def test_results_come_in_the_order_of_the_items_of_which_no_more_than_some_are_in_hand() -> None:
    running: set[int] = set()
    most = 0
    begun = asyncio.Event()

    async def act(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        if number == 0:
            await begun.wait()  # it ends after those behind it
        if number == 3:
            begun.set()
        await asyncio.sleep(0)
        running.remove(number)
        return number

    assert [number async for number in in_order(range(10), act, at_most=4)] == [*range(10)]
    assert most == 4
    assert [number async for number in in_order([], act, at_most=4)] == []


async def test_the_first_error_in_that_order_comes_out_and_the_rest_is_cancelled() -> None:
    ended: list[int] = []

    async def act(number: int) -> int:
        if number > 2:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(number)
        if number:
            raise ValueError(number)
        return number

    results = in_order(range(9), act, at_most=5)
    async with aclosing(results):
        assert await anext(results) == 0
        with pytest.raises(ValueError, match="1"):
            await anext(results)
    assert ended == [3, 4]  # 5 had not begun


async def test_closing_it_cancels_what_is_in_hand() -> None:
    ended: list[int] = []

    async def act(number: int) -> int:
        if number:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(number)
        return number

    results = in_order(range(9), act, at_most=3)
    assert await anext(results) == 0
    await results.aclose()
    assert ended == [1, 2]
