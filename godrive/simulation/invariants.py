"""What must be true once nothing goes wrong any more."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from godrive.errors import NotFound
from godrive.messages.janitor import Sweep
from godrive.messages.system import UsageDrift
from godrive.paths import exists
from godrive.simulation.account import Violation
from godrive.simulation.letters import unanswered
from godrive.simulation.loop import EPOCH, within
from godrive.simulation.machine import Life, Machine
from godrive.simulation.model import known

if TYPE_CHECKING:
    from godrive.simulation.user import User
    from godrive.simulation.world import World

LONGEST_RETRY = 3_700.0
"""Seconds after which everything that was begun and not finished is due again."""

CLOCK_ERROR = 90 * 86_400.0
"""Seconds by which a clock may have been ahead when it stamped a blob."""

_UNFINISHED = (
    "SELECT 'an upload that has not ended', id FROM uploads WHERE state = 'pending' "
    "UNION ALL SELECT 'a purge that has not ended', id FROM entries WHERE state = 'purging' "
    "UNION ALL SELECT 'a version that is not purged', id FROM versions WHERE next_purge_at IS NOT NULL "
    "UNION ALL SELECT 'a folder that is not settled', folder_id FROM unsettled "
    "UNION ALL SELECT 'a name that is not indexed', entry_id FROM unindexed "
    "UNION ALL SELECT 'bytes that are not cleaned up', id FROM uploads WHERE state <> 'pending' AND cleanup_at <= {now}"
)


async def check_all(world: World) -> None:
    """Check everything.  Raises :class:`Violation`."""
    for user in world.users:
        user.conclude()
    life = await _serving(world)
    await _forget_what_is_due(world)
    await _ask(life, life.drive.janitor.ask, Sweep(trust_clock=True))  # what an operator does once the clock is right
    await _let_all_end(world)
    life = await _serving(world)
    for user in world.users:
        await user.check()
        await _check_contents(user)
        for text in ("a", "notes"):
            await user.search(text, but=set())
        await _check_usage(user)
        await user.check_more()
    drift = await _ask(life, life.drive.metadata.ask, UsageDrift())
    if drift:
        raise Violation(f"the stored usage differs from the rows: {drift}")
    await _check_blobs(world, await _serving(world, world.store_machine))
    for machine in world.machines:
        _check_messages(await _serving(world, machine))
    await world.check_more()


async def _forget_what_is_due(world: World) -> None:
    """Purge in the model what was trashed while the clock was so far behind that it is due once the clock is right."""
    due = rows(world, f"SELECT id FROM entries WHERE state = 'trashed' AND purge_at <= {_now(world)}")  # noqa: S608
    for user in world.users:
        if mine := [id_ for (id_,) in due if id_ in user.tree.nodes]:
            await user.check()  # until somebody says that the clock is right, all of it must be there
            note_referred(world)
            for id_ in mine:
                user.tree.purge(id_)


def _now(world: World) -> int:
    """Microseconds of the epoch on the clock of the catalog."""
    return int((EPOCH + world.loop.time() + world.machine.offset) * 1e6)


async def _serving(world: World, machine: Machine | None = None) -> Life:
    """The process of a machine, or of that with the catalog, once it serves."""
    for _ in range(600):
        life = (machine or world.machine).life
        if life is not None and life.is_going_on():
            return life
        await asyncio.sleep(0.1)
    raise Violation("the server does not serve although nothing goes wrong")


async def _ask(life: Life, call: Any, *values: Any) -> Any:
    """Await a call as the process itself."""
    return await within(life, life.machine.loop.create_task, call(*values))


async def _let_all_end(world: World) -> None:
    """Wait until nothing is pending.

    What was claimed by a process that was killed becomes due again after an hour.  An hour of every ticker would
    take long, so the clock is set forward instead, and an operator says that it is right.
    """
    for passing in (LONGEST_RETRY, LONGEST_RETRY, CLOCK_ERROR, 1.0):
        until = world.loop.time() + world.patience
        while world.loop.time() < until:
            left = rows(world, _UNFINISHED.format(now=_now(world)))
            if not left:
                return
            await asyncio.sleep(2)
        if passing == CLOCK_ERROR:  # a clock that was ahead has set some deadlines
            for user in world.users:
                await user.empty()  # the trash does not last so long
        await let_pass(world, passing)
    raise Violation(f"long after the last fault there is {left}")


async def let_pass(world: World, seconds: float) -> None:
    """Set the clocks forward, say that they are right, and sweep."""
    world.skip(seconds)
    life = await _serving(world)
    await _ask(life, life.drive.janitor.ask, Sweep(trust_clock=True))


def note_referred(world: World) -> None:
    """Note the blobs that have rows: what is purged later must not stay as an orphan."""
    world.referred |= {key for (key,) in rows(world, "SELECT object_key FROM versions")}


def rows(world: World, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the catalog."""
    life = world.machine.life
    if life is not None and life.is_going_on():
        return life.reader().execute(sql).fetchall()
    with closing(sqlite3.connect(world.machine.config.catalog_path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


def has_noted_time(world: World) -> bool:
    """Whether the catalog has what a clock has shown, which the first reconciliation or sweep writes."""
    return (
        exists(world.machine.config.catalog_path)
        and bool(rows(world, "SELECT 1 FROM sqlite_schema WHERE name = 'catalog'"))
        and bool(rows(world, "SELECT 1 FROM catalog WHERE time_noted_at > 0"))
    )


async def _check_contents(user: User) -> None:
    """Every file that can be seen is readable and whole, and has its versions."""
    for node in user.tree.live():
        if node.is_folder:
            continue
        expected = [(known(digest), size) for digest, size in node.versions]
        if len(expected) > 1 and (found := await user.versions(node.id)) != expected:
            user.fail(f"the versions of {node.id} are {found}, not {expected}")
        answer = await user.get(f"/v1/files/{node.id}/content")
        if hashlib.sha256(answer.body).hexdigest() != node.versions[0][0].lstrip("?"):
            user.fail(f"{node.id} has other bytes than were acknowledged")


async def _check_usage(user: User) -> None:
    usage = (await user.read("/v1/me"))["usage"]
    live = sum(node.versions[0][1] for node in user.tree.live() if node.versions)
    every = sum(size for node in user.tree.nodes.values() for _, size in node.versions)
    if (usage["live_bytes"], usage["used_bytes"], usage["reserved_bytes"]) != (live, every, 0):
        user.fail(f"the usage is {usage}, but {live} bytes are live and {every} are used")


async def _check_blobs(world: World, life: Life) -> None:
    """Every row that needs bytes has them, and every blob has a row, or is set aside by the janitor."""
    blobs = await _ask(life, _digests, life)
    needed = {key: (sha256, size) for key, size, sha256 in rows(world, _VERSIONS)}
    wrong = {
        key: (blobs.get(key), row)
        for key, row in needed.items()
        if key not in blobs or row not in (blobs[key], (None, blobs[key][1]))  # of some, nobody knows the digest
    }
    if wrong:
        raise Violation(f"these blobs are lost or damaged: {wrong}")
    if purged := (blobs.keys() - needed.keys()) & world.referred - world.may_be_back():
        raise Violation(f"these blobs had rows, which are gone: {purged}")
    orphans = blobs.keys() - needed.keys() - {key for (key,) in rows(world, _TO_CLEAN)}
    if orphans:  # of a server that was killed between its two commits
        for seconds in (world.machine.config.janitor.orphan_age, CLOCK_ERROR):
            await let_pass(world, seconds)
            await let_pass(world, 1.0)  # two sweeps must have seen it
            orphans &= (await _ask(life, _digests, life)).keys()
            if not orphans:
                return
        raise Violation(f"no row needs these blobs, and the janitor leaves them: {orphans}")


_VERSIONS = "SELECT object_key, size_bytes, sha256 FROM versions"
_TO_CLEAN = "SELECT object_key FROM uploads WHERE cleanup_at IS NOT NULL"


async def _digests(life: Life) -> dict[str, tuple[str, int]]:
    """The digest and the size of every blob, by key, from its bytes."""
    found: dict[str, tuple[str, int]] = {}
    async for blob in life.drive.blobs.list():
        with suppress(NotFound):  # the janitor has deleted it meanwhile
            data = b"".join([bytes(chunk) async for chunk in life.drive.blobs.get(blob.key)])
            found[blob.key] = (hashlib.sha256(data).hexdigest(), len(data))
    return found


def _check_messages(life: Life) -> None:
    """No message waits, and every one has got an answer or is a dead letter."""
    waiting = [child for child in life.drive.children() if child.queued]
    if waiting:
        raise Violation(f"messages wait although nobody asks: {waiting}")
    if lost := unanswered(life):
        raise Violation(f"these messages were neither answered nor given up: {lost}")
    if life.machine.wrongs:
        raise Violation(life.machine.wrongs[0])
