"""The simulated disk, and memory of killed processes that is finalised while others run."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import pytest

from godrive.simulation.disk import Disk
from godrive.simulation.file_system import FileSystem
from godrive.simulation.loop import within
from godrive.simulation.machine import Life


def life(disk: Disk) -> Life:
    """A process of the machine with that disk, of which nothing runs."""
    made = Life.__new__(Life)
    made.alive, made.machine = True, SimpleNamespace(disk=disk, deaths=[])  # type: ignore[assignment]
    made.effects, made.dies_at = 0, -1
    made.wall_time = lambda: 0.0  # type: ignore[method-assign]
    return made


def disk() -> Disk:
    made = Disk(random.Random(1))
    made.at("/data")
    return made


def opened(files: FileSystem, name: str) -> int:
    folder = files.open("/data", os.O_RDONLY | os.O_DIRECTORY)
    return files.open(name, os.O_RDWR | os.O_CREAT, dir_fd=folder)


@pytest.fixture
def files() -> FileSystem:
    return FileSystem()


def test_what_a_killed_process_had_open_closes_nothing_of_the_next_one(files: FileSystem) -> None:
    one = disk()
    killed = within(life(one), opened, files, "a")
    one.cut_power()
    running = life(one)
    handle = within(running, opened, files, "b")
    within(running, files.close, killed)
    assert within(running, files.fstat, handle).st_size == 0


def test_what_a_process_of_another_machine_had_open_closes_nothing(files: FileSystem) -> None:
    disks = [disk(), disk()]
    other, own = [within(life(each), opened, files, "a") for each in disks]
    within(life(disks[1]), files.close, other)
    within(life(disks[1]), files.close, own)
    with pytest.raises(OSError, match="Bad file descriptor"):
        within(life(disks[1]), files.close, own)


def test_a_sync_saves_all_of_a_file_however_it_was_changed(files: FileSystem) -> None:
    chance, one = random.Random(1), disk()
    for _ in range(40):
        process = life(one)
        handle = within(process, opened, files, "a")
        inode = one.handles[handle].inode
        for _ in range(10):
            for _ in range(chance.randrange(3)):
                size = chance.randrange(1, 40)
                if chance.random() < 0.2:
                    within(process, files.ftruncate, handle, size)
                else:
                    within(process, files.pwrite, handle, chance.randbytes(size), chance.randrange(60))
            within(process, files.fsync, handle)
            assert inode.saved_data == inode.data
        within(process, files.pwrite, handle, b"not synced", chance.randrange(20))
        assert inode.is_dirty()
        one.cut_power()
