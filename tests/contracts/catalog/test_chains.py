"""Statements of which each uses the row of one before it: the same on both engines, one round trip on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from godrive.actors.metadata import MetadataActor
from godrive.catalog import Catalog, Row, Tx
from godrive.catalog.chains import Step, chain
from godrive.errors import DriveError, Invalid, NameTaken, QuotaExceeded
from godrive.messages.files import ReadList
from godrive.messages.uploads import BeginUpload, GetUpload, PublishUpload
from godrive.model import Anywhere, OnConflict, Root, UploadState
from godrive.rules import lists
from tests.cases import ON_POSTGRES
from tests.contracts.rig import ROOT, SERVER, Rig, host, inside

pytestmark = pytest.mark.anyio

FIND = "UPDATE leases SET expires_at = expires_at + 1 WHERE name = $1"
FOLLOW = "INSERT INTO leases (name, holder, expires_at) SELECT $1, $2, found.expires_at FROM found"


async def add(tx: Tx, name: str) -> int:
    return await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)", name, "x", 0)


async def rows(tx: Tx) -> list[Row]:
    return [tuple(row) for row in await tx.all("SELECT name, holder, expires_at FROM leases ORDER BY name")]


async def follow(tx: Tx, new: str, *, of: str = "a", holder: str = "y", final: bool = True) -> str | None:
    found = Step("found", FIND, (of,), "expires_at", again="leases WHERE name = $1")
    made = Step("made", FOLLOW, (new, holder), "name")
    return new if await chain(tx, found, made, final=new if final else None) else None


@pytest.mark.parametrize("final", [True, False])
async def test_a_step_uses_the_row_of_the_one_before(catalog: Catalog, final: bool) -> None:
    await catalog.write(partial(add, name="a"))
    assert await catalog.write(lambda tx: follow(tx, "b", final=final)) == "b"
    assert await catalog.read(rows) == [("a", "x", 1), ("b", "y", 1)]


@pytest.mark.parametrize("final", [True, False])
async def test_a_chain_whose_first_step_finds_nothing_changes_nothing(catalog: Catalog, final: bool) -> None:
    assert await catalog.write(lambda tx: follow(tx, "b", final=final)) is None
    assert await catalog.read(rows) == []


async def test_a_chain_that_was_not_the_end_after_all_is_run_with_what_follows(catalog: Catalog) -> None:
    async def operation(tx: Tx) -> str:
        found = await follow(tx, "b")
        if found is None:
            await add(tx, "c")
        return found or "none"

    assert await catalog.write(operation) == "none"
    assert await catalog.read(rows) == [("c", "x", 0)]


async def test_of_chains_that_run_together_one_that_fails_spoils_no_other(catalog: Catalog) -> None:
    await catalog.write(partial(add, name="a"))
    names = [f"n{number}" for number in range(20)]
    broken = [lambda tx: follow(tx, "z", holder="\ud800"), lambda tx: follow(tx, "y", of="nobody")]
    writes: list[Callable[[Tx], Any]] = [*(partial(follow, new=name) for name in names), *broken]
    outcomes = await asyncio.gather(*map(catalog.write, writes), return_exceptions=True)
    assert outcomes[:20] == names
    assert isinstance(outcomes[20], Invalid)
    assert outcomes[21] is None
    found = await catalog.read(rows)
    assert sorted(row[0] for row in found) == ["a", *sorted(names)]
    assert sorted(row[2] for row in found[1:]) == list(range(1, 21))


async def test_two_chains_with_one_key_are_one(catalog: Catalog) -> None:
    await catalog.write(partial(add, name="a"))
    same = [catalog.write(partial(follow, new="b")) for _ in range(2)]
    outcomes = await asyncio.gather(*same, return_exceptions=True)
    assert outcomes.count("b") == 1
    assert [row[0] for row in await catalog.read(rows)] == ["a", "b"]


async def test_whoever_finds_no_room_or_no_name_is_told_which(rig: Rig) -> None:
    owner = await rig.user(quota=10)
    first = await rig.begin(owner, "a", size=1)
    await rig.ask(PublishUpload(SERVER, first.id, rig.blob(first)))
    outcomes = await asyncio.gather(
        rig.ask(BeginUpload(host(owner), ROOT, "a", "a/b", 1)),
        rig.ask(BeginUpload(host(owner), ROOT, "b", "a/b", 100)),
        rig.ask(BeginUpload(host(owner), ROOT, "a", "a/b", 1, on_conflict=OnConflict.RENAME)),
        rig.ask(BeginUpload(host(owner), ROOT, "a", "a/b", 1, on_conflict=OnConflict.REPLACE)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes[:2]] == [NameTaken, QuotaExceeded]
    assert not [outcome for outcome in outcomes[2:] if isinstance(outcome, BaseException)]
    assert await rig.drift() == 0


async def test_an_upload_that_was_read_before_is_published_like_any_other(rig: Rig) -> None:
    owner = await rig.user()
    plain, read = await rig.begin(owner, "a"), await rig.begin(owner, "b")
    one = await rig.ask(PublishUpload(SERVER, plain.id, rig.blob(plain)))
    other = await rig.ask(PublishUpload(SERVER, read.id, rig.blob(read), read))
    assert (other.name, other.size_bytes, other.mime, other.parent_id) == ("b", one.size_bytes, one.mime, None)
    again = await rig.ask(PublishUpload(SERVER, read.id, rig.blob(read), read))
    assert again == other
    assert (await rig.ask(GetUpload(SERVER, read.id))).state is UploadState.COMMITTED
    assert await rig.drift() == 0


async def test_what_was_read_does_not_count_when_the_row_has_changed(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    pending = await rig.begin(owner, "a")
    for stale in (replace(pending, name="b"), replace(pending, owner_id=other), replace(pending, id=other)):
        file = await rig.ask(PublishUpload(SERVER, pending.id, rig.blob(pending), stale))
        assert (file.name, file.owner_id) == ("a", owner)
    assert await rig.drift() == 0


async def test_a_name_that_was_taken_meanwhile_is_renamed_or_refused(rig: Rig) -> None:
    owner = await rig.user()
    first = [await rig.begin(owner, "a"), await rig.begin(owner, "a", on_conflict=OnConflict.RENAME)]
    second = [await rig.begin(owner, "a"), await rig.begin(owner, "a", on_conflict=OnConflict.RENAME)]
    asks = [rig.ask(PublishUpload(SERVER, each.id, rig.blob(each), each)) for each in (*first, *second)]
    outcomes = await asyncio.gather(*asks, return_exceptions=True)
    names = sorted(outcome.name for outcome in outcomes if not isinstance(outcome, BaseException))
    refused = [outcome for outcome in outcomes if isinstance(outcome, DriveError)]
    assert len(names) == len(set(names)) == 4 - len(refused)
    assert {type(error) for error in refused} <= {NameTaken}
    assert "a" in names
    assert await rig.drift() == 0


@pytest.fixture
def sent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The round trips to PostgreSQL, by the method that makes them."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(asyncpg.Connection, name)

        async def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return await method(self, *arguments, **options)

        monkeypatch.setattr(asyncpg.Connection, name, counted)

    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchmany"):
        count(name)
    return counts


async def test_on_postgresql_an_intent_and_a_publish_are_one_round_trip_each(rig: Rig, sent: Counter[str]) -> None:
    owner = await rig.user()
    is_postgres = bool(sent)
    for number in range(2):  # the first prepares the statements
        sent.clear()
        pending = await rig.ask(BeginUpload(host(owner), ROOT, str(number), "a/b", 1))
        assert sent == ({"fetchmany": 1} if is_postgres else {})
        sent.clear()
        await rig.ask(PublishUpload(SERVER, pending.id, rig.blob(pending), pending))
        assert sent == ({"fetchmany": 1} if is_postgres else {})


async def test_on_postgresql_many_intents_take_few_round_trips(rig: Rig, sent: Counter[str]) -> None:
    owner = await rig.user()
    sent.clear()
    begin = [rig.ask(BeginUpload(host(owner), ROOT, str(number), "a/b", 1)) for number in range(40)]
    pending = await asyncio.gather(*begin)
    assert sum(sent.values()) <= 3
    await asyncio.gather(*(rig.ask(PublishUpload(SERVER, each.id, rig.blob(each), each)) for each in pending))
    assert sum(sent.values()) <= 6
    assert await rig.drift() == 0


@ON_POSTGRES
async def test_a_list_is_one_round_trip_to_postgresql(rig: Rig, sent: Counter[str]) -> None:
    owner, metadata = await rig.user(), MetadataActor(rig.catalog, rig.config, rig.clock, rig.tokens)
    folder = await rig.folder(owner, "folder")
    files = [await rig.file(owner, f"{number}", where=inside(folder)) for number in range(3)]
    await metadata.read_list(ReadList(host(owner), ROOT))  # the first reads the nonce
    for name in ("nothing", "rename"):
        for where in (Anywhere(), Root(), inside(folder)):
            sent.clear()
            listing = await metadata.read_list(ReadList(host(owner), where))
            assert sent == {"fetchmany": 1}, (name, where)
            full = await rig.read(lists.read_list, ReadList(host(owner), where), rig.env, owner, nonce=metadata.nonce)
            assert listing == full
        rig.clock.advance(1)
        await rig.rename(files[1], "renamed")


@ON_POSTGRES
async def test_lists_that_wait_together_are_few_round_trips_to_postgresql(rig: Rig, sent: Counter[str]) -> None:
    owners, metadata = (
        [await rig.user() for _ in range(10)],
        MetadataActor(rig.catalog, rig.config, rig.clock, rig.tokens),
    )
    for owner in owners:
        await rig.file(owner, owner)
    await metadata.read_list(ReadList(host(owners[0]), ROOT))
    sent.clear()
    found = await asyncio.gather(*(metadata.read_list(ReadList(host(owner), ROOT)) for owner in owners * 2))
    assert sum(sent.values()) == 2  # one that is sent at once, and all others
    assert [listing.page and listing.page.items[0].name for listing in found] == owners * 2
