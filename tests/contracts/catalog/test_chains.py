"""Statements of which each uses the row of one before it: the same on both engines, one round trip on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from godrive.actors.metadata import MetadataActor
from godrive.catalog import Catalog, Final, Row, Tx
from godrive.catalog.chains import ChainStep, chain
from godrive.errors import DriveError, Gone, Invalid, NameTaken, NotFound, QuotaExceeded
from godrive.messages.files import ReadList, UpdateFile
from godrive.messages.uploads import BeginUpload, FindUpload, GetUpload, PublishUpload, StoreFile
from godrive.model import (
    Anywhere,
    At,
    File,
    FileId,
    In,
    ObjectKey,
    OnConflict,
    Root,
    Spot,
    UploadId,
    UploadState,
    UserId,
    new_id,
)
from godrive.rules import lists, stored_files
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
    found = ChainStep("found", FIND, (of,), "expires_at", again="leases WHERE name = $1")
    made = ChainStep("made", FOLLOW, (new, holder), "name")
    end = Final(new, UserId("owner")) if final else None
    return new if await chain(tx, found, made, final=end) else None


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


async def test_of_two_chains_with_one_key_one_is_undone(catalog: Catalog) -> None:
    await catalog.write(partial(add, name="a"))
    same = [catalog.write(partial(follow, new="b")) for _ in range(2)]
    outcomes = await asyncio.gather(*same, return_exceptions=True)
    assert outcomes.count("b") == 1
    assert await catalog.read(rows) == [("a", "x", 1), ("b", "y", 1)]


async def test_an_upload_without_room_or_a_free_name_is_told_which(rig: Rig) -> None:
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


async def test_an_upload_into_a_folder_that_is_gone_is_told_so(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    outer = await rig.folder(owner, "outer")
    folder, strange = await rig.folder(owner, "folder", where=inside(outer)), await rig.folder(other)
    file = await rig.file(owner, "first", where=inside(folder))
    pending = [await rig.begin(owner, f"{number}", where=inside(folder)) for number in range(3)]
    by, blob = host(owner), rig.blob(pending[2])

    async def refusals(where: In) -> list[DriveError | None]:
        found: list[DriveError | None] = []
        key, upload_id = ObjectKey(new_id()), UploadId(new_id())
        for asked in (
            rig.ask(BeginUpload(by, where, "a", "a/b", 1)),
            rig.ask(StoreFile(by, where, "a", "a/b", replace(blob, key=key), upload_id)),
        ):
            try:
                await asked
            except DriveError as error:
                found.append(error)
            else:
                found.append(None)
        return found

    for where in (inside(file), inside(strange), In(folder_id=FileId(new_id()))):
        found = await refusals(where)
        assert [(type(error), error and error.field) for error in found] == [(NotFound, "parent_id")] * 2
    assert await refusals(inside(folder)) == [None, None]
    await rig.trash(outer)
    assert [type(error) for error in await refusals(inside(folder))] == [NotFound] * 2
    for by_ in (SERVER, host(owner)):
        with pytest.raises(Gone):
            await rig.ask(PublishUpload(by_, pending[0].id, rig.blob(pending[0]), pending[0]))
    await rig.restore(outer)
    assert [type(error) for error in await refusals(inside(folder))] == [NameTaken] * 2
    moved = await rig.ask(UpdateFile(by, folder.id, where=ROOT))
    published = await rig.ask(PublishUpload(SERVER, pending[0].id, rig.blob(pending[0]), pending[0]))
    assert published.parent_id == moved.id
    with pytest.raises(NotFound):
        await rig.ask(PublishUpload(host(other), pending[1].id, rig.blob(pending[1]), pending[1]))
    assert (await rig.ask(GetUpload(SERVER, pending[1].id))).state is UploadState.PENDING
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", owner)
    assert [type(error) for error in await refusals(inside(folder))] == [NotFound] * 2
    await rig.run("UPDATE users SET state = 'active' WHERE id = $1", owner)
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


@ON_POSTGRES
async def test_a_file_stored_at_a_path_is_a_look_and_a_statement(rig: Rig, sent: Counter[str]) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    await rig.file(owner, "first", where=inside(inner))  # the first file of a folder raises the heights above it
    pending = await rig.ask(BeginUpload(host(owner), ROOT, "pending", "a/b", 1))

    async def store(*path: str, name: str) -> File:
        ask = StoreFile(host(owner), At(path=path), name, "a/b", rig.blob(pending), UploadId(new_id()))
        sent.clear()
        return await rig.ask(replace(ask, on_conflict=OnConflict.REPLACE))

    file = await store(name="a")
    assert (sent, file.parent_id) == ({"fetchmany": 1}, None)
    for path, folder in ((("outer",), outer), (("outer", "inner"), inner)):
        file = await store(*path, name="b")
        assert (sum(sent.values()), sent["fetchmany"], file.parent_id) == (2, 1, folder.id)
        assert await rig.get(owner, file.id) == file
    again = await store("outer", name="b")
    assert (again.name, again.parent_id) == ("b", outer.id)
    for absent in (("inner",), ("outer", "b"), ("outer", "inner", "none"), ("outer", "..")):
        with pytest.raises(DriveError) as found:
            await store(*absent, name="c")
        assert found.value.field == "path"
    await rig.trash(outer)
    with pytest.raises(NotFound):
        await store("outer", "inner", name="c")
    assert await rig.drift() == 0


@ON_POSTGRES
async def test_a_path_that_leads_elsewhere_since_it_was_seen_is_looked_up_again(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    await rig.file(owner, "first", where=inside(inner))
    pending = await rig.ask(BeginUpload(host(owner), ROOT, "pending", "a/b", 1))

    async def store_late(name: str, meanwhile: Callable[[], Awaitable[Any]]) -> File:
        where = At(path=("outer", "inner"))
        ask = StoreFile(host(owner), where, name, "a/b", rig.blob(pending), UploadId(new_id()))
        question = stored_files.see(ask)
        assert question is not None
        (row,) = await rig.rows(question.sql, *question.values)
        await meanwhile()
        return await rig.write(stored_files.store, ask, replace(rig.env, seen=row))

    for folder in (outer, inner):
        rig.clock.advance(1)
        with pytest.raises(NotFound):
            await store_late("a", lambda folder=folder: rig.rename(folder, "renamed"))  # type: ignore[misc]
        await rig.rename(folder, folder.name)
    other = await rig.folder(owner, "other")
    await rig.folder(owner, "inner", where=inside(other))

    async def exchange() -> None:
        await rig.rename(outer, "old")
        await rig.rename(other, "outer")

    file = await store_late("b", exchange)
    assert file.parent_id not in (None, inner.id)
    assert await rig.get(owner, file.id) == file
    assert await rig.drift() == 0


@ON_POSTGRES
async def test_an_intent_a_publish_and_a_stored_file_are_one_round_trip_each(rig: Rig, sent: Counter[str]) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    await rig.file(owner, "first", where=inside(inner))  # the first file of a folder raises the heights above it
    by = host(owner)
    places: list[Spot] = [ROOT, inside(outer), inside(inner)]
    for number, where in enumerate(places):
        for on_conflict in OnConflict:
            name = f"{number} {on_conflict}"
            sent.clear()
            pending = await rig.ask(BeginUpload(by, where, name, "a/b", 1, on_conflict=on_conflict))
            assert sent == {"fetchmany": 1}, (where, on_conflict)
            sent.clear()
            file = await rig.ask(PublishUpload(SERVER, pending.id, rig.blob(pending), pending))
            assert sent == {"fetchmany": 1}, (where, on_conflict)
            assert (file.name, file.parent_id) == (name, pending.parent_id)
            sent.clear()
            pending = await rig.ask(BeginUpload(by, where, f"{name} by its user", "a/b", 1, on_conflict=on_conflict))
            await rig.ask(PublishUpload(by, pending.id, rig.blob(pending), pending))
            assert sent == {"fetchmany": 2}
            sent.clear()
            stored = StoreFile(
                by, where, f"{name} stored", "a/b", rig.blob(pending), UploadId(new_id()), on_conflict=on_conflict
            )
            file = await rig.ask(stored)
            assert sent == {"fetchmany": 1}
            assert await rig.ask(stored) == file
            assert (await rig.get(owner, file.id)) == file
    assert await rig.drift() == 0


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
async def test_statements_that_run_together_lock_users_in_the_order_of_ids(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = sorted([await rig.user() for _ in range(10)], reverse=True)
    locked: list[list[str]] = []
    fetchmany = asyncpg.Connection.fetchmany

    async def noted(self: Any, sql: str, values: Any, **options: Any) -> Any:
        locked.append([row[0] for row in values])
        return await fetchmany(self, sql, values, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetchmany", noted)
    await asyncio.gather(*(rig.ask(BeginUpload(host(owner), ROOT, "a", "a/b", 1)) for owner in owners))
    assert sum(map(len, locked)) == 10
    assert all(batch == sorted(batch) for batch in locked)
    assert max(map(len, locked)) > 1


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


async def test_uploads_that_events_name_together_are_found_together(rig: Rig, sent: Counter[str]) -> None:
    owner, metadata = await rig.user(), MetadataActor(rig.catalog, rig.config, rig.clock, rig.tokens)
    begun = [await rig.begin(owner, f"{number}") for number in range(20)]
    keys = [*(upload.object_key for upload in begun), ObjectKey("missing")]
    sent.clear()
    asks = [metadata.find_upload(FindUpload(SERVER, key)) for key in keys]
    *found, missing = await asyncio.gather(*asks, return_exceptions=True)
    assert found == begun
    assert isinstance(missing, NotFound)
    assert sum(sent.values()) <= 2  # one that is sent at once, and all others
    other = await rig.user()
    with pytest.raises(NotFound):
        await metadata.find_upload(FindUpload(host(other), keys[0]))
    assert await metadata.find_upload(FindUpload(host(owner), keys[0])) == begun[0]
