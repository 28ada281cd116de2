"""Nobody takes the last slot of another: slow writes, scans and log-ins delay no list and no session check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from godrive.catalog import Catalog, Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.drive import GoDrive
from godrive.errors import DriveError, NotFound
from godrive.messages.files import ListFiles, TrashFile
from godrive.messages.metadata import Metadata
from godrive.messages.system import UploadCounts
from godrive.model import FileId, Root
from godrive.principal import HostUser
from godrive.runtime import Ask
from godrive.testing import open_drive, quick_folder, sign_up

pytestmark = pytest.mark.anyio

T = TypeVar("T")

MANY = 300
"""More than any lane has slots."""


@dataclass
class Slow:
    """A catalog in which some operations wait until they are let go."""

    catalog: Catalog
    reads: bool = False
    writes: bool = False
    chores: bool = False
    waiting: int = 0
    go_on: anyio.Event = field(default_factory=anyio.Event)

    @property
    def problem(self) -> DriveError | None:
        return self.catalog.problem

    async def open(self) -> None:
        await self.catalog.open()

    async def close(self) -> None:
        await self.catalog.close()

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        await self._hold(self.chores if chore else self.reads)
        return await self.catalog.read(operation, chore=chore)

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        await self._hold(self.chores if chore else self.writes)
        return await self.catalog.write(operation, chore=chore)

    async def _hold(self, slow: bool) -> None:
        if slow:
            self.waiting += 1
            await self.go_on.wait()


async def test_slow_writes_and_chores_delay_no_list_and_slow_lists_no_write(drive_class: type[GoDrive]) -> None:
    with quick_folder() as folder:
        store = Slow(SqliteCatalog(Path(folder, "lanes.db")))
        async with open_drive(drive_class=drive_class, catalog_store=store) as drive:
            by = HostUser(user_id=(await sign_up(drive)).id)
            listing, trashing = ListFiles(by=by, where=Root()), TrashFile(by=by, file_id=FileId("absent"))
            slow: dict[str, Ask[Metadata, Any]] = {"writes": trashing, "chores": UploadCounts(), "reads": listing}
            for lane, message in slow.items():
                setattr(store, lane, True)
                async with anyio.create_task_group() as tasks:
                    before = store.waiting
                    for _ in range(MANY):
                        tasks.start_soon(ask, drive, message)
                    while store.waiting == before:
                        await anyio.sleep(0)
                    await anyio.wait_all_tasks_blocked()
                    assert store.waiting - before < MANY, "it should be more than there are slots"
                    with anyio.fail_after(30):
                        for other, quick in slow.items():
                            if other != lane:
                                await ask(drive, quick)
                    setattr(store, lane, False)
                    store.go_on.set()
                store.go_on = anyio.Event()


async def ask(drive: GoDrive, message: Ask[Metadata, Any]) -> None:
    try:
        await drive.metadata.ask(message)
    except NotFound:
        assert isinstance(message, TrashFile)
