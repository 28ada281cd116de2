"""The log of changes: a row for each change of an entry or of the top of a tree, in the order of commits."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from godrive import config
from godrive.catalog import Catalog
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import NameTaken
from godrive.messages.files import UpdateFile
from godrive.model import UserId
from tests.contracts.rig import GRACE, Rig, host, inside

pytestmark = pytest.mark.anyio

_ROW = "SELECT what, entry_id, kind, parent_id, from_id FROM changes WHERE owner_id = $1 ORDER BY change"


async def test_every_change_of_an_entry_leaves_one_row_with_its_folders(rig: Rig) -> None:
    owner = await rig.user()
    a, b = await rig.folder(owner, "a"), await rig.folder(owner, "b")
    file = await rig.file(owner, "x", where=inside(a))
    await rig.rename(file, "y")
    await rig.ask(UpdateFile(host(owner), file.id, where=inside(b)))
    await rig.trash(b)
    await rig.settle()
    await rig.restore(b)
    await rig.trash(b)
    rig.clock.advance(GRACE)
    await rig.purge_all()
    assert await rig.rows(_ROW, owner) == [
        ("created", a.id, "folder", "", ""),
        ("created", b.id, "folder", "", ""),
        ("created", file.id, "file", a.id, a.id),
        ("renamed", file.id, "file", a.id, a.id),
        ("moved", file.id, "file", b.id, a.id),
        ("trashed", b.id, "folder", "", ""),
        ("restored", b.id, "folder", "", ""),
        ("trashed", b.id, "folder", "", ""),
        ("purged", b.id, "folder", "", ""),
    ]
    ((numbers, rows),) = await rig.rows(
        "SELECT COUNT(DISTINCT change), COUNT(*) FROM changes WHERE owner_id = $1", owner
    )
    assert await rig.rows("SELECT log_rows FROM users WHERE id = $1", owner) == [(rows,)]
    assert numbers == rows


async def test_a_change_that_is_refused_leaves_no_row(rig: Rig) -> None:
    owner = await rig.user()
    await rig.folder(owner, "a")
    before = await rig.rows("SELECT changes, log_rows FROM users WHERE id = $1", owner)
    with pytest.raises(NameTaken):
        await rig.folder(owner, "a")
    assert await rig.rows("SELECT changes, log_rows FROM users WHERE id = $1", owner) == before
    assert len(await rig.rows(_ROW, owner)) == 1


def another(catalog: Catalog, database: str | None) -> Catalog:
    """The same catalog, as another process opens it."""
    if isinstance(catalog, SqliteCatalog):
        return SqliteCatalog(catalog._path)
    assert database is not None
    return PostgresCatalog(config.Catalog(dsn=database, pool_size=4))


async def test_a_reader_never_sees_a_lower_number_appear_after_a_higher_one(
    rig: Rig, request: pytest.FixtureRequest
) -> None:
    """Two processes write for one owner at once.  What a reader has seen stays the beginning of what it sees later."""
    is_postgres = isinstance(rig.catalog, PostgresCatalog)
    second = another(rig.catalog, request.getfixturevalue("database") if is_postgres else None)
    await second.open()
    try:
        await _race(rig, Rig(second), await rig.user())
    finally:
        await second.close()


async def _race(rig: Rig, other: Rig, owner: UserId) -> None:
    done, seen = False, [tuple[int]()]

    async def watch() -> None:
        while not done:
            found = await rig.rows("SELECT change FROM changes WHERE owner_id = $1 ORDER BY change", owner)
            seen.append(tuple(row[0] for row in found))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(some.folder(owner, f"{n} {some is rig}") for n in range(40) for some in (rig, other)))
    done = True
    await watching
    assert len(seen) > 2
    for before, after in itertools.pairwise(seen):
        assert after[: len(before)] == before
    assert len(await rig.rows(_ROW, owner)) == 80
