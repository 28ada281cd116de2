"""Work that takes longer than somebody waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import anyio
import pytest

from godrive.actors.concurrent import Patient

pytestmark = pytest.mark.anyio


async def test_work_whose_caller_is_cancelled_goes_on_and_its_key_is_free_again() -> None:
    patient, may_end = Patient[str, int](60, 8), anyio.Event()

    async def work() -> int:
        await may_end.wait()
        return 1

    caller = asyncio.create_task(patient.run("a", work))
    await anyio.wait_all_tasks_blocked()
    caller.cancel()
    await asyncio.wait([caller])
    assert patient.collect() == []
    may_end.set()
    await anyio.wait_all_tasks_blocked()
    assert patient.collect() == [1]
    assert await patient.run("a", work) == 1


async def test_work_that_fails_keeps_no_other_from_being_collected() -> None:
    patient, may_end = Patient[str, int](0, 8), anyio.Event()

    async def work(*, fails: bool) -> int:
        await may_end.wait()
        if fails:
            raise ZeroDivisionError
        return 1

    assert await patient.run("a", partial(work, fails=True)) is None
    assert await patient.run("b", partial(work, fails=False)) is None
    may_end.set()
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(ZeroDivisionError):
        patient.collect()
    again = Counter[str]()

    async def count(key: str) -> int:
        again[key] += 1
        return 1

    for key in ("a", "b"):
        await patient.run(key, partial(count, key))
    await anyio.wait_all_tasks_blocked()
    assert again == {"a": 1, "b": 1}
