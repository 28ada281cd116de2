"""What an engine owes to the rules: all or nothing, one at a time for each owner, readers that do not wait."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import pytest

from godrive.catalog import Catalog, Tx
from godrive.errors import Conflict, Invalid, NotFound, StoreUnavailable
from godrive.model import UserId
from tests.contracts.rig import Rig

pytestmark = pytest.mark.anyio


class Bug(Exception):
    """What a rule must never raise."""


async def count(tx: Tx) -> int:
    row = await tx.one("SELECT COUNT(*) FROM leases")
    assert row is not None
    return int(row[0])


async def add(tx: Tx, name: str) -> int:
    return await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)", name, "x", 0)


@pytest.mark.parametrize("error", [Conflict, Bug])
async def test_an_operation_that_raises_leaves_nothing_behind_and_spoils_no_other(
    catalog: Catalog, error: type[Exception]
) -> None:
    outcomes: dict[int, object] = {}

    async def one(number: int) -> None:
        async def operation(tx: Tx) -> int:
            await add(tx, str(number))
            if number % 3 == 0:
                raise error(str(number))
            return number

        try:
            outcomes[number] = await catalog.write(operation)
        except error as raised:
            outcomes[number] = str(raised)

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(one, number)
    assert outcomes == {number: number if number % 3 else str(number) for number in range(30)}
    assert await catalog.read(count) == 20


async def test_an_operation_sees_its_own_changes_and_returns_what_it_likes(catalog: Catalog) -> None:
    async def operation(tx: Tx) -> tuple[int, int, int]:
        changed = await add(tx, "a")
        return changed, await count(tx), await tx.run("UPDATE leases SET holder = $1 WHERE name = $2", "y", "b")

    assert await catalog.write(operation) == (1, 1, 0)


async def test_what_was_acknowledged_is_seen_by_the_next_read(catalog: Catalog) -> None:
    for number in range(20):
        await catalog.write(partial(add, name=str(number)))
        assert await catalog.read(count) == number + 1


async def test_a_parameter_may_be_used_twice_and_in_any_order(catalog: Catalog) -> None:
    async def operation(tx: Tx) -> list[tuple[object, ...]]:
        await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($2, $3, $1)", 5, "n", "h")
        found = await tx.all("SELECT name, holder, expires_at FROM leases WHERE expires_at = $1 OR expires_at < $1", 5)
        return [tuple(row) for row in found]

    assert await catalog.write(operation) == [("n", "h", 5)]


async def test_a_statement_is_run_with_each_row_of_values(catalog: Catalog) -> None:
    async def operation(tx: Tx) -> int:
        rows = [(str(number), "x", number) for number in range(300)]
        await tx.run_each("INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)", rows)
        await tx.run_each("DELETE FROM leases WHERE expires_at = $1", [(number,) for number in range(0, 300, 2)])
        await tx.run_each("DELETE FROM leases WHERE name = $1", [])
        return await count(tx)

    assert await catalog.write(operation) == 150

    async def failing(tx: Tx) -> None:
        await tx.run_each("DELETE FROM leases WHERE name = $1", [("1",), ("3",)])
        await tx.run_each("DELETE FROM leases WHERE name = $1", [("5",), ("\ud800",)])

    with pytest.raises(Invalid):
        await catalog.write(failing)
    assert await catalog.read(count) == 150


async def test_a_hundred_writers_at_once_all_succeed(rig: Rig) -> None:
    owners = [await rig.user() for _ in range(4)]

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(rig.file, owners[number % 4], f"{number}")
    assert await rig.drift() == 0
    assert sorted(await rig.names(owners[0]), key=int) == [str(number) for number in range(0, 100, 4)]


async def test_a_writer_that_leaves_does_not_stop_the_others(catalog: Catalog) -> None:
    impatient = [asyncio.ensure_future(catalog.write(partial(add, name=f"gone {n}"))) for n in range(5)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)
    await catalog.write(partial(add, name="stays"))

    async def holder(tx: Tx) -> object:
        return await tx.one("SELECT holder FROM leases WHERE name = 'stays'")

    assert tuple(await catalog.read(holder)) == ("x",)  # type: ignore[arg-type]


async def test_a_closed_catalog_says_so_and_closes_again_without_harm(catalog: Catalog) -> None:
    await catalog.close()
    await catalog.close()
    for run in (catalog.read, catalog.write):
        with pytest.raises(StoreUnavailable):
            await run(count)


async def test_what_is_under_way_is_finished_by_closing(catalog: Catalog) -> None:
    seen = []

    async def operation(tx: Tx) -> int:
        for number in range(50):
            await add(tx, str(number))
        return await count(tx)

    async def write() -> None:
        seen.append(await catalog.write(operation))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        await catalog.close()
    assert seen == [50]


async def test_a_rule_that_finds_nothing_to_lock_goes_on(catalog: Catalog) -> None:
    async def operation(tx: Tx) -> None:
        await tx.lock(UserId("nobody"))
        raise NotFound

    with pytest.raises(NotFound):
        await catalog.write(operation)
