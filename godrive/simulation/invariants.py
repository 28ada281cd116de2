"""What must be true once nothing goes wrong any more."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from godrive.messages.janitor import Sweep
from godrive.messages.system import UsageDrift
from godrive.rules.names import search_key
from godrive.simulation.account import Violation
from godrive.simulation.loop import within
from godrive.simulation.machine import Life, Machine
from godrive.simulation.model import known

if TYPE_CHECKING:
    from godrive.simulation.user import User
    from godrive.simulation.world import World

LONGEST_RETRY = 3_700.0
"""Seconds after which everything that was begun and not finished is due again."""

_UNFINISHED = {
    "uploads that have not ended": "SELECT id, kind, name FROM uploads WHERE state = 'pending'",
    "purges that have not ended": "SELECT id, name FROM entries WHERE state = 'purging'",
    "versions that are not purged": "SELECT id FROM versions WHERE next_purge_at IS NOT NULL",
    "folders that are not settled": "SELECT * FROM unsettled",
}


async def check_all(world: World) -> None:
    """Check everything.  Raises :class:`Violation`."""
    life = await _serving(world)
    await _ask(life, life.drive.janitor.ask, Sweep(trust_clock=True))  # what an operator does once the clock is right
    await _let_all_end(world)
    life = await _serving(world)
    for user in world.users:
        await user.check()
        await _check_contents(user)
        await _check_search(user)
        await _check_usage(user)
        await user.check_more()
    drift = await _ask(life, life.drive.metadata.ask, UsageDrift())
    if drift:
        raise Violation(f"the stored usage differs from the rows: {drift}")
    await _check_blobs(world, await _serving(world, world.store_machine))
    for machine in world.machines:
        _check_mailboxes(await _serving(world, machine))
    await world.check_more()


async def _serving(world: World, machine: Machine | None = None) -> Life:
    """The process of a machine, or of that with the catalog, once it serves."""
    for _ in range(600):
        life = (machine or world.machine).life
        if life is not None and life.serving.is_set():
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
    for _ in range(3):
        until = world.loop.time() + world.patience
        while world.loop.time() < until:
            left = {name: found for name, sql in _UNFINISHED.items() if (found := rows(world, sql))}
            if not left:
                return
            await asyncio.sleep(2)
        world.skip(LONGEST_RETRY)
        life = await _serving(world)
        await _ask(life, life.drive.janitor.ask, Sweep(trust_clock=True))
    raise Violation(f"long after the last fault there are {left}")


def rows(world: World, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the catalog."""
    with closing(sqlite3.connect(world.machine.config.catalog_path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


async def _check_contents(user: User) -> None:
    """Every version of every file that can be seen is whole and readable."""
    for node in user.tree.live():
        if node.is_folder:
            continue
        listed = (await user.read(f"/v1/files/{node.id}/versions?limit=1000"))["versions"]
        expected = [(known(digest), size) for digest, size in node.versions]
        if [(version["sha256"], version["size_bytes"]) for version in listed] != expected:
            user.fail(f"the versions of {node.id} are {listed}, not {node.versions}")
        for version, (digest, _) in list(zip(listed, node.versions, strict=True))[:2]:
            answer = await user.get(f"/v1/files/{node.id}/versions/{version['id']}/content")
            if hashlib.sha256(answer.body).hexdigest() != digest.lstrip("?"):
                user.fail(f"version {version['id']} of {node.id} has other bytes than were acknowledged")


async def _check_search(user: User) -> None:
    for text in ("a", "notes"):
        expected = {node.id for node in user.tree.live() if any(w.startswith(text) for w in _words(node.name))}
        found = {row["id"] for row in await user.pages(f"/v1/search?q={text}&limit=1000")}
        if found != expected:
            missed = [user.tree.nodes[id_].name for id_ in expected - found]
            user.fail(f"a search for {text} finds {found - expected} too much, and not {missed}")


def _words(name: str) -> list[str]:
    return search_key(name).replace(".", " ").replace("(", " ").replace("%", " ").split()


async def _check_usage(user: User) -> None:
    usage = (await user.read("/v1/me"))["usage"]
    live = sum(node.versions[0][1] for node in user.tree.live() if node.versions)
    every = sum(size for node in user.tree.nodes.values() for _, size in node.versions)
    if (usage["live_bytes"], usage["used_bytes"], usage["reserved_bytes"]) != (live, every, 0):
        user.fail(f"the usage is {usage}, but {live} bytes are live and {every} are used")


async def _check_blobs(world: World, life: Life) -> None:
    """Every row that needs bytes has them, and every blob is needed, or is about to be deleted."""

    async def every() -> dict[str, int]:
        return {blob.key: blob.size_bytes async for blob in life.drive.blobs.list()}

    blobs = await _ask(life, every)
    needed = dict(rows(world, "SELECT object_key, size_bytes FROM versions"))
    missing = {key: size for key, size in needed.items() if blobs.get(key) != size}
    if missing:
        raise Violation(f"these blobs are lost or have another size: {missing}")
    leaving = {key for (key,) in rows(world, "SELECT object_key FROM uploads WHERE cleanup_at IS NOT NULL")}
    if orphans := blobs.keys() - needed.keys() - leaving:
        world.orphans |= orphans


def _check_mailboxes(life: Life) -> None:
    waiting = [child for child in life.drive.children() if child.queued]
    if waiting:
        raise Violation(f"messages wait although nobody asks: {waiting}")
