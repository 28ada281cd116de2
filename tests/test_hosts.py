"""Hosts that open a drive in one task and close it in another: pytest-asyncio, plain asyncio, an ASGI lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from godrive.blobs.memory import MemoryBlobStore
from godrive.drive import GoDrive
from godrive.errors import ActorCrashed, DeliveryError
from godrive.messages.storage import CheckStore
from godrive.model import User
from godrive.runtime import ChildState, GaveUp
from godrive.testing import quick_config, quick_folder, sign_up, upload
from tests.faults import Fault, Faults, FaultyBlobs


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield Path(folder)


@pytest_asyncio.fixture
async def entered(folder: Path) -> AsyncIterator[GoDrive]:
    async with GoDrive(quick_config(folder), serving=True) as drive:
        yield drive


@pytest_asyncio.fixture
async def started(folder: Path) -> AsyncIterator[GoDrive]:
    drive = GoDrive(quick_config(folder), serving=True)
    await drive.start()
    yield drive
    await drive.stop()
    assert {child.state for child in drive.children()} == {ChildState.STOPPED}
    with pytest.raises(DeliveryError, match="has stopped"):
        await drive.storage.ask(CheckStore())


async def use(drive: GoDrive) -> User:
    user = await sign_up(drive)
    assert (await upload(drive, user.id, "a.txt", b"hello")).size_bytes == 5
    return user


@pytest.mark.asyncio
async def test_a_fixture_of_pytest_asyncio_may_enter_a_drive(entered: GoDrive) -> None:
    await use(entered)


@pytest.mark.asyncio
async def test_a_fixture_of_pytest_asyncio_may_start_and_stop_a_drive(started: GoDrive) -> None:
    await use(started)


@pytest.mark.asyncio
async def test_two_fixtures_of_pytest_asyncio_may_overlap(entered: GoDrive, tmp_path: Path) -> None:
    other = GoDrive(quick_config(tmp_path))
    await other.start()
    await use(entered)
    await use(other)
    await other.stop()
    await other.stop()


@pytest.mark.parametrize("way", ["start", "enter"])
def test_plain_asyncio_may_open_a_drive_in_one_task_and_close_it_in_another(folder: Path, way: str) -> None:
    drive = GoDrive(quick_config(folder))

    async def enter() -> None:
        await drive.__aenter__()

    async def leave() -> None:
        await drive.__aexit__(None, None, None)

    async def main() -> None:
        begin, end = (drive.start, drive.stop) if way == "start" else (enter, leave)
        for step in (begin(), use(drive), end()):
            await asyncio.get_running_loop().create_task(step)

    asyncio.run(main())
    assert {child.state for child in drive.children()} == {ChildState.STOPPED}


def test_a_drive_that_is_started_twice_is_refused_and_one_never_started_has_nothing_to_stop(folder: Path) -> None:
    async def main() -> None:
        drive = GoDrive(quick_config(folder))
        await drive.stop()
        with pytest.raises(RuntimeError, match="not open"):
            await drive.wait()
        await drive.start()
        with pytest.raises(RuntimeError, match="opened once"):
            await drive.start()
        await drive.stop()

    asyncio.run(main())


def test_a_started_drive_whose_actor_keeps_crashing_stops_and_says_why(folder: Path) -> None:
    store = FaultyBlobs(MemoryBlobStore())

    async def main() -> None:
        drive = GoDrive(quick_config(folder), blobs=store)
        await drive.start()
        store.faults = Faults(0, Fault.BUG)
        crashes = 0
        while True:
            try:
                await drive.storage.ask(CheckStore())
            except ActorCrashed:
                crashes += 1
                store.faults = Faults(0, Fault.BUG)
            except DeliveryError:
                break
        assert crashes == 6
        with pytest.raises(GaveUp, match="storage ended too often"):
            await drive.wait()
        with pytest.raises(GaveUp):
            await drive.stop()

    asyncio.run(main())
