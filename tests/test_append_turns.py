"""The turns of appends: nobody waits without an end."""

from __future__ import annotations

import asyncio

import pytest

from godrive import append_turns
from godrive.append_turns import AppendTurns
from godrive.errors import StoreUnavailable
from godrive.model import UploadId

pytestmark = pytest.mark.anyio

UPLOAD = UploadId("upload")


async def test_who_comes_while_a_turn_passes_on_waits_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_turns, "PATIENCE", 0.01)
    turns, hung = AppendTurns(), asyncio.Event()

    async def take(until: asyncio.Event) -> None:
        async with turns.take(UPLOAD):
            await until.wait()

    async with asyncio.timeout(30):
        async with turns.take(UPLOAD):
            next_one = asyncio.create_task(take(hung))
            await asyncio.sleep(0)
            late = asyncio.create_task(take(asyncio.Event()))
        # Now the lock is free, and the next one was woken but does not run yet.
        with pytest.raises(StoreUnavailable):
            await late
        hung.set()
        await next_one
    assert not turns.is_taken(UPLOAD)
