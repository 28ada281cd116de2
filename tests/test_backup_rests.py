"""A backup in the background rests between slices of work."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest

from godrive.backup import rests as module
from godrive.backup.create import Progress, create
from godrive.backup.rests import LONGEST, SLICE, Rests
from godrive.backup.target import open_target
from godrive.backup.verify import prune
from tests.test_backup import drive_in, fill

pytestmark = pytest.mark.anyio


class Clock:
    """A time in which only work and rests pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rested = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rested += seconds

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=clock.asleep, Lock=asyncio.Lock))
    return clock


def rests_of(clock: Clock, share: float) -> Rests:
    return Rests(share, now=clock.monotonic)


async def test_work_takes_its_share_of_the_time_in_a_thread_and_in_the_loop(clock: Clock) -> None:
    rests, worked = rests_of(clock, 0.6), 0.0
    for number in range(1000):
        clock.now += SLICE / 4
        worked += SLICE / 4
        if number % 2:
            rests.rest()
        else:
            await rests.pause()
    assert worked / clock.now == pytest.approx(0.6, abs=0.01)


async def test_what_works_at_once_rests_at_once(clock: Clock) -> None:
    rests = rests_of(clock, 0.5)
    clock.now += SLICE
    await asyncio.gather(*(rests.pause() for _ in range(10)))
    assert clock.rested == SLICE


async def test_a_process_that_was_stopped_does_not_rest_as_long(clock: Clock) -> None:
    rests = rests_of(clock, 0.5)
    clock.now += 3600.0
    await rests.pause()
    assert clock.rested == LONGEST


async def test_to_wait_for_the_rate_is_no_work(clock: Clock) -> None:
    rests = rests_of(clock, 0.5)

    async def rate(_length: int) -> None:
        clock.now += 1.0

    pace = rests.after(rate)
    for _ in range(10):
        await pace(1)
    assert clock.rested == 0.0


async def test_work_that_is_not_in_the_background_never_rests(clock: Clock) -> None:
    rests = rests_of(clock, 1.0)
    clock.now += 10.0
    rests.rest()
    await rests.pause()
    assert clock.rested == 0.0


def test_one_long_statement_rests_in_the_middle(clock: Clock) -> None:
    class Working(Rests):
        def due(self) -> float:
            clock.now += SLICE
            return super().due()

    with closing(sqlite3.connect(":memory:")) as connection:
        Working(0.5, now=clock.monotonic).within(connection)
        count = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT COUNT(*) FROM n"
        )
        assert connection.execute(count).fetchone() == (100_000,)
        assert clock.rested > 10 * SLICE


class Noted(Rests):
    """Rests that take no time, and the functions that could rest."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.where: set[str] = set()

    def due(self) -> float:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            self.where.add(frame.f_code.co_name)
            frame = frame.f_back
        return 0.0


async def test_every_long_step_of_a_backup_and_of_what_deletes_old_ones_can_rest_but_not_while_the_catalog_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEPS", 1)
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock, create=True) as target:
            first, second, old = Noted(), Noted(), Noted()
            await create(drive, target, Progress(), rests=first)
            assert first.where > {"_list", "copy", "put"}
            newest = await create(drive, target, Progress(), rests=second)
            assert second.where > {"_list"}
            assert not {"_begin", "_split", "_pages", "_describe", "total_bytes"} & (first.where | second.where)
            assert (await prune(target, [newest], old))[0] == 1
            assert old.where > {"fetch", "names_all", "_keep", "prune"}
