"""What a page of a large folder costs beside one of a small folder, and a look-up by path beside one by id."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import stage
from bench.report import Result, median_of
from godrive.catalog.sqlite import SqliteCatalog
from godrive.messages.files import GetFile, ListFiles, MakeFolder
from godrive.model import At, File, Sort, UserId
from tests.contracts.rig import Rig, host, inside

SMALL = 100
LEVELS = 8
FILL = (  # one in ten is a folder
    "INSERT INTO entries (id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
    "created_at, updated_at, modified_at, revision, height, state) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL "
    "SELECT i + 1 FROM n WHERE i < $3) SELECT $2 || '-' || CAST(i AS TEXT), $1, "
    "CASE WHEN i % 10 = 0 THEN 'folder' ELSE 'file' END, $2, CASE WHEN i % 10 = 0 THEN 'folder' ELSE 'file' END, "
    "'n' || CAST(i * 7919 % 1000003 AS TEXT), 'n' || CAST(i * 7919 % 1000003 AS TEXT), "
    "'n' || CAST(i * 7919 % 1000003 AS TEXT), 'text/plain', CASE WHEN i % 10 = 0 THEN 0 ELSE i * 7919 % 10007 END, "
    "$4 + i, $4 + i, $4 + i * 7919 % 1000003, $4 + i, 0, 'live' FROM n"
)


class Folders:
    """Pages of 100 entries and look-ups, on SQLite, as rules."""

    def __init__(self, *, quick: bool) -> None:
        self.large = 10_000 if quick else 100_000
        self.count = 20 if quick else 200

    def run(self) -> list[Result]:
        """The worst order of a list, of its first page and of one in the middle; the path of a deep entry."""
        with stage.folder() as place:
            return asyncio.run(self._run(place))

    async def _run(self, place: Path) -> list[Result]:
        catalog = SqliteCatalog(place / "godrive.db")
        await catalog.open()
        try:
            rig = Rig(catalog)
            owner = await rig.user()
            return [*await self._pages(rig, owner), await self._paths(rig, owner)]
        finally:
            await catalog.close()

    async def _pages(self, rig: Rig, owner: UserId) -> list[Result]:
        small, large = await self._filled(rig, owner, SMALL), await self._filled(rig, owner, self.large)
        first: dict[str, float] = {}
        later: dict[str, float] = {}
        for sort, folders_first in itertools.product(Sort, (False, True)):
            options: dict[str, Any] = {"sort": sort, "folders_first": folders_first}
            of_small = ListFiles(host(owner), inside(small), **options)
            of_large = ListFiles(host(owner), inside(large), **options)
            page = of_large
            for _ in range(20):
                token = (await rig.ask(page)).next_page
                page = ListFiles(host(owner), inside(large), page=token, **options)
            name = f"{sort.value}{' folders first' if folders_first else ''}"
            first[name] = await self._ratio(lambda ask=of_large: rig.ask(ask), lambda ask=of_small: rig.ask(ask))  # type: ignore[misc]
            later[name] = await self._ratio(lambda ask=page: rig.ask(ask), lambda ask=of_small: rig.ask(ask))  # type: ignore[misc]
        name = f"of {self.large:,} to {SMALL} entries"
        return [
            Result(f"first page, {name}", max(first.values()), "x", 1.5, lower=True, parts=first),
            Result(f"page 21, {name}", max(later.values()), "x", 2.0, lower=True, parts=later),
        ]

    async def _paths(self, rig: Rig, owner: UserId) -> Result:
        path = tuple(f"level {level}" for level in range(LEVELS))
        entry = await rig.ask(MakeFolder(host(owner), At(path=path[:-1], parents=True), path[-1]))
        by_path, by_id = GetFile(host(owner), At(path=path)), GetFile(host(owner), entry.id)
        ratio = await self._ratio(lambda: rig.ask(by_path), lambda: rig.ask(by_id))
        return Result(f"look-up by path, {LEVELS} names, to id", ratio, "x", 3.0, lower=True)

    async def _filled(self, rig: Rig, owner: UserId, entries: int) -> File:
        folder = await rig.folder(owner, f"of {entries}")
        await rig.run(FILL, owner, folder.id, entries, time.time_ns() // 1000)
        return folder

    async def _ratio(self, ours: Callable[[], Awaitable[object]], base: Callable[[], Awaitable[object]]) -> float:
        """The median of five ratios, each of so many calls in turn."""
        return median_of([await self._time(ours) / await self._time(base) for _ in range(5)])

    async def _time(self, call: Callable[[], Awaitable[object]]) -> float:
        began = time.process_time()
        for _ in range(self.count):
            await call()
        return time.process_time() - began
