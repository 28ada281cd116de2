"""What only the PostgreSQL engine promises: outages that pass, gateways that share, a schema that one of them makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from asyncpg import exceptions as pg

from godrive import config
from godrive.actors.metadata import MetadataActor
from godrive.catalog import Final, Tx, migrations, postgres, postgres_pool
from godrive.catalog.chains import ChainStep, chain
from godrive.catalog.migrations import Migration
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.postgres_errors import translate
from godrive.catalog.postgres_pool import Connection, connect, shares
from godrive.clock import SystemClock
from godrive.errors import (
    AskTimeout,
    ConfigError,
    DriveError,
    Gone,
    Invalid,
    NameTaken,
    NotFound,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
    Unauthenticated,
)
from godrive.messages.changes import ChangeKind, ListChanges
from godrive.messages.files import GetFile, UpdateFile
from godrive.messages.system import CheckCatalog, ClaimPurges, FinishPurge, IndexNames, SettleTrash
from godrive.messages.uploads import BeginUpload, PublishUpload, StoreFile
from godrive.messages.webhooks import AddWebhook
from godrive.model import File, OnConflict, Sort, Upload, UploadId, UserId, UserState, new_id
from godrive.rules import sessions, users
from godrive.rules.registry import RULES
from tests.conftest import require
from tests.contracts.rig import GRACE, ROOT, SERVER, Rig, host, inside
from tests.servers import PostgresServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def dsn(own_database: str) -> str:
    return own_database


@pytest.fixture
def new_dsn(postgres_server: PostgresServer) -> str:
    """Of a database without a schema."""
    return postgres_server.create_database()


@pytest.fixture
async def catalog(dsn: str) -> AsyncIterator[PostgresCatalog]:
    made = PostgresCatalog(config.Catalog(dsn=dsn, pool_size=4))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def own_server(own_servers: None) -> Iterator[PostgresServer]:
    """A server of the test's own, to stop and start."""
    require(PostgresServer)
    with PostgresServer() as server:
        yield server


async def add(tx: Tx, name: str) -> None:
    await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, 'x', 0)", name)


async def names(tx: Tx) -> list[str]:
    return [row[0] for row in await tx.all("SELECT name FROM leases ORDER BY name")]


async def change(dsn: str, sql: str) -> None:
    """Run a statement as another program would."""
    connection = await connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.mark.parametrize("wrong", [("/t", "/absent"), ("postgres@", "nobody@"), ("postgresql://", "nonsense://")])
async def test_a_dsn_that_leads_nowhere_is_a_config_error(dsn: str, wrong: tuple[str, str]) -> None:
    catalog = PostgresCatalog(config.Catalog(dsn=dsn.replace(*wrong)))
    with pytest.raises(ConfigError) as caught:
        await catalog.open()
    assert "catalog.dsn" in (caught.value.hint or "")


async def test_names_are_in_the_same_order_whatever_language_the_database_speaks(
    postgres_server: PostgresServer, dsn: str
) -> None:
    connection = await connect(postgres_server.dsn)
    name = f"{dsn.rpartition('/')[2]}_german"
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'")
    await connection.close()
    catalog = PostgresCatalog(config.Catalog(dsn=postgres_server.dsn_of(name)))
    await catalog.open()
    try:
        rig = Rig(catalog)
        owner = await rig.user()
        for name in ("z", "ä", "a"):
            await rig.file(owner, name)
        assert [file.name for file in (await rig.page(owner, sort=Sort.NAME)).items] == ["a", "z", "ä"]
        assert await rig.names(owner, sort=Sort.NAME, limit=1) == ["a", "z", "ä"]
    finally:
        await catalog.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_without_all_letters_is_refused(
    postgres_server: PostgresServer, dsn: str, encoding: str
) -> None:
    """A server that was made in the locale C makes databases of SQL_ASCII, in which a search finds only ASCII."""
    name = f"{dsn.rpartition('/')[2]}_{encoding.lower()}"
    await change(dsn, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with pytest.raises(ConfigError, match=encoding) as refused:
        await PostgresCatalog(config.Catalog(dsn=postgres_server.dsn_of(name))).open()
    assert "ENCODING 'UTF8'" in (refused.value.hint or "")


async def test_a_newer_schema_is_refused(dsn: str, catalog: PostgresCatalog) -> None:
    await change(dsn, "INSERT INTO schema_versions VALUES (999, 'future', 'x')")
    with pytest.raises(ConfigError, match="schema 999"):
        await PostgresCatalog(config.Catalog(dsn=dsn)).open()


@pytest.mark.parametrize(
    "sql", ["UPDATE schema_versions SET digest = 'x'", "ALTER TABLE schema_versions DROP COLUMN digest"]
)
async def test_a_schema_of_another_layout_is_refused_with_the_way_out(
    dsn: str, catalog: PostgresCatalog, sql: str
) -> None:
    await change(dsn, sql)
    with pytest.raises(ConfigError, match="layout this version cannot read") as caught:
        await PostgresCatalog(config.Catalog(dsn=dsn)).open()
    assert "empty data folder or database" in (caught.value.hint or "")


async def test_a_guest_migrates_nothing_that_an_older_server_may_be_using(
    new_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opened(*, guest: bool) -> None:
        catalog = PostgresCatalog(config.Catalog(dsn=new_dsn, pool_size=1), guest=guest)
        await catalog.open()
        await catalog.close()

    await opened(guest=True)  # an empty one is made
    newest = migrations.migrations()[-1].version
    steps = [*migrations.migrations(), Migration(newest + 1, "more", "CREATE TABLE more (a {text});")]
    monkeypatch.setattr(migrations, "migrations", lambda: steps)
    with pytest.raises(ConfigError, match=f"schema {newest}, and this version of GoDrive needs {newest + 1}"):
        await opened(guest=True)
    await opened(guest=False)
    await opened(guest=True)


async def test_gateways_that_start_together_make_one_schema(new_dsn: str) -> None:
    gateways = [PostgresCatalog(config.Catalog(dsn=new_dsn, pool_size=1)) for _ in range(4)]
    await asyncio.gather(*[gateway.open() for gateway in gateways])
    for number, gateway in enumerate(gateways):
        await gateway.write(partial(add, name=str(number)))
    assert await gateways[0].read(names) == ["0", "1", "2", "3"]
    for gateway in gateways:
        await gateway.close()


async def test_of_two_gateways_that_want_one_name_one_wins(dsn: str, catalog: PostgresCatalog) -> None:
    other = PostgresCatalog(config.Catalog(dsn=dsn))
    await other.open()
    rig = Rig(catalog)
    owner = await rig.user()
    outcomes: list[str] = []

    async def upload(gateway: PostgresCatalog) -> None:
        async def both(tx: Tx) -> str:
            begin = BeginUpload(by=host(owner), where=ROOT, name="a", mime="a/b", size_bytes=1)
            row: Upload = await RULES[BeginUpload].run(tx, begin, rig.env)
            publish = PublishUpload(by=SERVER, upload_id=row.id, blob=rig.blob(row))
            file: File = await RULES[PublishUpload].run(tx, publish, rig.env)
            return file.name

        try:
            outcomes.append(await gateway.write(both))
        except NameTaken:
            outcomes.append("taken")

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(upload, (catalog, other)[number % 2])
    assert sorted(outcomes) == ["a"] + ["taken"] * 9
    await other.close()


@pytest.fixture
async def rival(dsn: str, catalog: PostgresCatalog) -> AsyncIterator[Connection]:
    """A connection of another program, in a transaction."""
    connection = await connect(dsn)
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


async def add_user(catalog: PostgresCatalog, email: str) -> UserId:
    now = SystemClock().now()
    return (await catalog.write(lambda tx: users.add(tx, email=email, password_hash="", now=now))).id


LOCK = "SELECT 1 FROM users WHERE id = $1 FOR UPDATE"


async def test_a_locked_owner_makes_their_writers_wait_and_nobody_else(
    catalog: PostgresCatalog, rival: Connection
) -> None:
    owner = await add_user(catalog, "a@b.c")
    await rival.execute(LOCK, owner)
    change = asyncio.ensure_future(catalog.write(lambda tx: users.set_quota(tx, owner, 5)))
    await asyncio.gather(*[catalog.write(partial(add, name=f"another's {n}")) for n in range(20)])
    assert (await catalog.read(lambda tx: users.get(tx, owner))).quota_bytes is None
    assert not change.done()
    await rival.execute("COMMIT")
    assert (await change).quota_bytes == 5


async def set_default(dsn: str, name: str, value: str) -> None:
    """Set what the server sets for every connection to the database that does not say otherwise."""
    await change(dsn, f"ALTER DATABASE \"{dsn.rpartition('/')[2]}\" SET {name} = '{value}'")


class Contested:
    """A file, two gateways that act on it, and a rival who holds them up until both are about to.

    The other gateway keeps its place in a line of those who wait: it does not give up in company.
    """

    def __init__(self, one: PostgresCatalog, other: PostgresCatalog, file: File, rival: Connection) -> None:
        self.one, self.other, self.file, self.owner = Rig(one), Rig(other), file, file.owner_id
        self.other.clock = self.one.clock  # or what one has left to purge would not be due for the other
        self.rival = rival

    async def waiting(self, count: int) -> None:
        """Until that many wait for a lock: one that gave up in company waits again by itself."""

        async def blocked(tx: Tx) -> int:
            row = await tx.one(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            assert row is not None
            return int(row[0])

        with anyio.fail_after(30):
            while await self.one.read(blocked) < count:
                await anyio.sleep(0.01)  # the server tells nobody


@pytest.fixture
async def contested(dsn: str, catalog: PostgresCatalog, rival: Connection) -> AsyncIterator[Contested]:
    other = PostgresCatalog(config.Catalog(dsn=dsn, pool_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(postgres_pool._SETTINGS, "lock_timeout", "30s")
        await other.open()
    file = await Rig(catalog).file(await Rig(catalog).user(), size=10)
    yield Contested(catalog, other, file, rival)
    await other.close()


async def test_what_two_gateways_do_to_one_file_is_counted_once(contested: Contested) -> None:
    await contested.rival.execute(LOCK, contested.owner)
    both = [asyncio.ensure_future(rig.trash(contested.file)) for rig in (contested.one, contested.other)]
    await contested.waiting(2)
    await contested.rival.execute("COMMIT")
    one, other = await asyncio.gather(*both)
    assert {one.file_id, other.file_id} == {contested.file.id}
    usage = await contested.one.usage(contested.owner)
    assert (usage.live_bytes, usage.trash_bytes) == (0, 10)
    assert await contested.one.drift() == 0


async def test_what_is_read_under_a_lock_is_current_whatever_isolation_the_database_has(
    dsn: str, rival: Connection
) -> None:
    """Of two webhooks that are added at once where there is room for one, one is refused."""
    await set_default(dsn, "default_transaction_isolation", "repeatable read")
    one, other = (PostgresCatalog(config.Catalog(dsn=dsn, pool_size=2)) for _ in range(2))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(one.close)
        stack.push_async_callback(other.close)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(postgres_pool._SETTINGS, "lock_timeout", "30s")
            await one.open()
            await other.open()
        contested = Contested(one, other, await Rig(one).file(await Rig(one).user()), rival)
        await rival.execute(LOCK, contested.owner)
        both = []
        for rig in (contested.one, contested.other):
            rig.configure("webhooks", per_user=1)
            both.append(asyncio.ensure_future(rig.ask(AddWebhook(host(contested.owner), "https://example.org/"))))
        await contested.waiting(2)
        await rival.execute("COMMIT")
        done = await asyncio.gather(*both, return_exceptions=True)
    assert [type(each) for each in done if isinstance(each, Exception)] == [QuotaExceeded]


@pytest.mark.parametrize(("set_to", "used"), [("off", "local"), ("on", "on"), ("remote_apply", "remote_apply")])
async def test_a_commit_is_durable_whatever_the_database_is_set_to(dsn: str, set_to: str, used: str) -> None:
    await set_default(dsn, "synchronous_commit", set_to)
    catalog = PostgresCatalog(config.Catalog(dsn=dsn))
    await catalog.open()
    try:
        assert await catalog.write(lambda tx: tx.all("SHOW synchronous_commit")) == [(used,)]
    finally:
        await catalog.close()


async def test_a_database_that_takes_no_writes_is_known_though_it_commits_what_writes_nothing(
    dsn: str, catalog: PostgresCatalog
) -> None:
    rig = Rig(catalog)
    metadata = MetadataActor(catalog, rig.config, rig.clock, rig.tokens)
    await metadata.check_catalog(CheckCatalog())
    await set_default(dsn, "default_transaction_read_only", "on")
    await change(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert await catalog.write(names) == []
    with pytest.raises(StoreUnavailable, match="takes no writes"):
        await metadata.check_catalog(CheckCatalog())


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("way", ["publish", "store"])
async def test_a_folder_that_goes_while_its_owner_is_locked_takes_no_file(
    contested: Contested, way: str, depth: int
) -> None:
    rig, owner = contested.one, contested.owner
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    await rig.file(owner, "first", where=inside(inner))
    upload = await rig.begin(owner, "new", where=inside(inner))
    publish = PublishUpload(SERVER, upload.id, rig.blob(upload), upload)
    store = StoreFile(host(owner), inside(inner), "new", "a/b", rig.blob(upload), UploadId(new_id()))
    await contested.rival.execute(LOCK, owner)
    await contested.rival.execute(
        "UPDATE entries SET state = 'trashed', trashed_at = 1, purge_at = 2 WHERE id = $1", (inner, outer)[depth].id
    )
    waiting = asyncio.ensure_future(rig.ask(publish if way == "publish" else store))
    await contested.waiting(1)
    await contested.rival.execute("COMMIT")
    with pytest.raises(Gone if way == "publish" else NotFound):
        await waiting


async def test_a_file_whose_purge_has_been_claimed_is_not_restored_by_another_gateway(contested: Contested) -> None:
    file, one, other = contested.file, contested.one, contested.other
    await one.trash(file)
    one.clock.advance(GRACE)
    await contested.rival.execute("SELECT 1 FROM entries WHERE id = $1 FOR UPDATE", file.id)
    claim = asyncio.ensure_future(other.ask(ClaimPurges(limit=1)))  # it keeps its place in the line
    await contested.waiting(1)
    restore = asyncio.ensure_future(one.restore(file))
    await contested.waiting(2)
    await contested.rival.execute("COMMIT")
    assert [purge.file_id for purge in await claim] == [file.id]
    with pytest.raises(NotFound):
        await restore


async def test_a_file_that_another_gateway_is_restoring_is_not_purged(contested: Contested) -> None:
    file, one, other = contested.file, contested.one, contested.other
    await one.trash(file)
    one.clock.advance(GRACE)
    await contested.rival.execute("SELECT 1 FROM entries WHERE id = $1 FOR UPDATE", file.id)
    restore = asyncio.ensure_future(other.restore(file))
    await contested.waiting(1)
    claim = asyncio.ensure_future(one.ask(ClaimPurges(limit=1)))
    await contested.waiting(2)
    await contested.rival.execute("COMMIT")
    assert (await restore).trashed_at is None
    assert await claim == []
    assert await one.names(contested.owner) == ["a.txt"]


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("way", ["read", "unread", "stored"])
async def test_an_upload_into_the_root_locks_its_owner_before_its_name(
    contested: Contested, way: str, taken: bool
) -> None:
    """Otherwise it deadlocks with a transaction that has the lock and inserts the same name."""
    rig, rival, owner = contested.one, contested.rival, contested.owner
    folder = await rig.folder(owner, "folder")
    upload = await rig.begin(owner, "name")
    ask: StoreFile | PublishUpload = PublishUpload(
        by=SERVER, upload_id=upload.id, blob=rig.blob(upload), upload=upload if way == "read" else None
    )
    if way == "stored":
        ask = StoreFile(host(owner), ROOT, "name", "a/b", rig.blob(upload), UploadId(new_id()))
    await rival.execute(LOCK, owner)
    publish = asyncio.ensure_future(rig.ask(ask))
    await contested.waiting(1)
    if taken:
        await rival.execute("SET LOCAL lock_timeout = 1")  # the upload gives up after 100 ms
        await rival.execute("UPDATE entries SET name = 'name', name_key = 'name' WHERE id = $1", folder.id)
    await rival.execute("COMMIT")
    if taken:
        with pytest.raises(NameTaken):
            await publish
    else:
        assert (await publish).name == "name"
    assert await rig.drift() == 0


@pytest.mark.parametrize("way", ["disable", "delete"])
async def test_the_end_of_a_user_locks_their_uploads_before_them(contested: Contested, way: str) -> None:
    """Otherwise it deadlocks with a transaction that publishes an upload, which has its row and charges the owner."""
    rig, rival, owner = contested.other, contested.rival, contested.owner
    upload = await rig.begin(owner, "name", size=7)
    await rival.execute("UPDATE uploads SET attempts = attempts WHERE id = $1", upload.id)
    ending: asyncio.Future[Any]
    if way == "disable":
        ending = asyncio.ensure_future(rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now))
    else:
        ending = asyncio.ensure_future(rig.write(users.delete, owner, now=rig.now))
    await contested.waiting(1)
    begun = await contested.one.begin(owner, "meanwhile", size=9)
    await rival.execute("SET LOCAL lock_timeout = 1")
    await rival.execute(LOCK, owner)
    await rival.execute("COMMIT")
    await ending
    for ended in (upload, begun):
        assert await rig.rows("SELECT state FROM uploads WHERE id = $1", ended.id) == [("aborted",)]
    assert await rig.drift() == 0


async def test_what_two_gateways_do_to_a_tree_at_once_is_counted_once(contested: Contested) -> None:
    one, other, owner = contested.one, contested.other, contested.owner
    outer = await one.folder(owner, "outer")
    inner = await one.folder(owner, "inner", where=inside(outer))
    for number in range(6):
        await one.file(owner, f"{number}", where=inside(outer if number % 2 else inner))

    async def settle(rig: Rig) -> None:
        for _ in range(40):
            await rig.ask(SettleTrash(limit=1))

    async def change(rig: Rig, folder: File) -> None:
        for _ in range(8):
            with suppress(NotFound):  # the folder above it is in the trash
                await rig.trash(folder)
                await rig.restore(folder, on_conflict=OnConflict.RENAME)

    async with anyio.create_task_group() as tasks:
        for rig in (one, other):
            tasks.start_soon(settle, rig)
            tasks.start_soon(change, rig, outer)
            tasks.start_soon(change, rig, inner)
    for folder in (outer, inner):
        await one.restore(folder, on_conflict=OnConflict.RENAME)
    await one.settle()
    assert await one.drift() == 0
    assert (await one.usage(owner)).live_bytes == 70
    assert len(await one.names(owner)) == 7


async def test_a_name_that_changes_while_it_is_indexed_is_indexed_again(contested: Contested) -> None:
    one, file = contested.one, contested.file
    await one.rename(file, "earlier")
    await contested.rival.execute("BEGIN")
    await contested.rival.execute("UPDATE entries SET search_key = 'later', name = 'later' WHERE id = $1", file.id)
    assert await one.ask(IndexNames(limit=10))
    assert [found.name for found in await one.search(contested.owner, "earlier")] == ["earlier"]
    await contested.rival.execute("COMMIT")
    for _ in range(2):
        assert [found.name for found in await one.search(contested.owner, "later")] == ["later"]
        assert await one.search(contested.owner, "earlier") == []
        await one.index()


async def test_two_gateways_that_index_at_once_index_each_name_once(contested: Contested) -> None:
    one, other, owner = contested.one, contested.other, contested.owner
    made = [await one.file(owner, f"name {number}") for number in range(20)]

    async def index(rig: Rig) -> None:
        for _ in range(10):
            await rig.ask(IndexNames(limit=3))

    async def rename(rig: Rig, prefix: str) -> None:
        for file in made[::3]:
            await rig.rename(file, f"{prefix} {file.name}", on_conflict=OnConflict.RENAME)

    async with anyio.create_task_group() as tasks:
        for rig, prefix in ((one, "first"), (other, "second")):
            tasks.start_soon(index, rig)
            tasks.start_soon(rename, rig, prefix)
    await one.index()
    assert len(await one.search(owner, "name")) == 20
    assert await one.rows("SELECT COUNT(*) FROM names") == [(21,)]


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_tree_that_two_gateways_purge_at_once_goes_once(contested: Contested, deleted: bool) -> None:
    one, other, owner = contested.one, contested.other, contested.owner
    outer = await one.folder(owner, "outer")
    inner = await one.folder(owner, "inner", where=inside(outer))
    for number in range(10):
        await one.file(owner, f"{number}", where=inside(outer if number % 2 else inner))
    if deleted:
        await one.write(users.delete, owner, now=one.now)
    else:
        for entry in (outer, contested.file):
            await one.trash(entry)
            await one.purge(entry)

    async def sweep(rig: Rig) -> None:
        for _ in range(8):
            for purge in await rig.ask(ClaimPurges(limit=4)):
                await rig.ask(FinishPurge(purge.file_id, purge.revision))
            await rig.ask(SettleTrash(limit=2))

    async with anyio.create_task_group() as tasks:
        for rig in (one, other, one, other):
            tasks.start_soon(sweep, rig)
    assert await one.drift() == 0
    one.clock.advance(4000)
    await one.settle()
    await one.purge_all()
    assert await one.drift() == 0
    kept = "SELECT live_bytes, trash_bytes, version_bytes, entry_count FROM users WHERE id = $1"
    assert await one.rows(kept, owner) == [(0, 0, 0, 0)]
    assert await one.rows("SELECT id FROM entries UNION ALL SELECT folder_id FROM unsettled") == []


async def test_a_copy_and_a_purge_by_two_gateways_keep_the_bytes_or_copy_nothing(contested: Contested) -> None:
    one, other, owner = contested.one, contested.other, contested.owner
    folders = [await one.folder(owner, f"{number}") for number in range(12)]
    for folder in folders:
        await one.file(owner, "file", where=inside(folder))
    copied: list[File] = []
    deleted: list[str] = []

    async def copy(folder: File) -> None:
        with suppress(NotFound):
            copied.append(await one.copy(folder, name=f"copy of {folder.name}"))

    async def purge(folder: File) -> None:
        await other.trash(folder)
        await other.purge(folder)
        for purge in await other.ask(ClaimPurges(limit=4)):
            deleted.extend(purge.object_keys)
            await other.ask(FinishPurge(purge.file_id, purge.revision))

    async with anyio.create_task_group() as tasks:
        for folder in folders:
            tasks.start_soon(copy, folder)
            tasks.start_soon(purge, folder)
    while claimed := await one.ask(ClaimPurges(limit=50)):
        for item in claimed:
            deleted.extend(item.object_keys)
            await one.ask(FinishPurge(item.file_id, item.revision))
    await one.settle()
    left = {row[0] for row in await one.rows("SELECT object_key FROM versions")}
    assert len(left) == len(copied) + 1  # each copy has its file, and there is one more
    assert not left & set(deleted)
    assert await one.drift() == 0


async def test_a_password_that_another_gateway_is_changing_begins_no_session(contested: Contested) -> None:
    rig, owner = contested.one, contested.owner
    await contested.rival.execute("UPDATE users SET password_hash = 'new' WHERE id = $1", owner)
    session = asyncio.ensure_future(rig.write(sessions.begin, owner, now=rig.now, ttl=9, password_hash="hash"))
    await contested.waiting(1)
    await contested.rival.execute("COMMIT")
    with pytest.raises(Unauthenticated):
        await session


async def test_a_deadlock_is_run_again_and_nobody_notices(catalog: PostgresCatalog, rival: Connection) -> None:
    ours, theirs = [await add_user(catalog, email) for email in ("a@b.c", "d@e.f")]

    async def both(tx: Tx) -> None:
        await tx.lock(ours)
        await tx.lock(theirs)
        await add(tx, "done")

    await rival.execute(LOCK, theirs)
    crossing = asyncio.ensure_future(catalog.write(both))
    try:
        await rival.execute("SET lock_timeout = 0")
        await rival.execute(LOCK, ours)
    except pg.DeadlockDetectedError:
        await rival.execute("ROLLBACK")
    else:
        await rival.execute("COMMIT")
    await crossing
    assert await catalog.read(names) == ["done"]


async def test_a_commit_whose_answer_was_lost_is_not_made_again(dsn: str, catalog: PostgresCatalog) -> None:
    connection = await connect(dsn)
    await connection.execute(
        "CREATE FUNCTION hang_up() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; "
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON leases DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION hang_up()"
    )
    await connection.close()
    run: list[str] = []

    async def operation(tx: Tx, name: str) -> None:
        await add(tx, name)
        run.append(name)

    together = [catalog.write(partial(operation, name=name)) for name in "abc"]  # one alone, then two in company
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AskTimeout] * 3
    assert sorted(run) == ["a", "b", "c"]


async def test_a_chain_whose_answer_was_lost_is_not_made_again(
    catalog: PostgresCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await catalog.write(lambda tx: add(tx, "a"))

    async def operation(tx: Tx) -> None:
        found = ChainStep("found", "UPDATE leases SET expires_at = 1 WHERE name = $1", ("a",), "holder")
        made = "INSERT INTO leases (name, holder, expires_at) SELECT $1, found.holder, 0 FROM found"
        await chain(tx, found, ChainStep("made", made, ("b",), "name"), final=Final("b", UserId("owner")))

    fetchmany = Connection.fetchmany

    async def lose(self: Connection, *arguments: Any) -> None:
        await fetchmany(self, *arguments)
        self.terminate()
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "fetchmany", lose)
        with pytest.raises(AskTimeout):
            await catalog.write(operation)
    assert await catalog.read(names) == ["a", "b"]


async def test_a_gateway_waits_while_another_makes_the_schema(new_dsn: str) -> None:
    connection = await connect(new_dsn)
    await connection.execute("SELECT pg_advisory_lock($1)", postgres._MIGRATION_LOCK)
    late = PostgresCatalog(config.Catalog(dsn=new_dsn))
    opening = asyncio.ensure_future(late.open())
    waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    with anyio.fail_after(30):
        while not await connection.fetchval(waiting):
            await anyio.sleep(0.01)  # the server tells nobody
    assert await connection.fetchval("SELECT to_regclass('users')") is None
    await connection.close()
    await opening
    await late.close()


async def test_a_connection_that_the_server_ends_is_made_again(dsn: str, catalog: PostgresCatalog) -> None:
    await asyncio.gather(*[catalog.write(partial(add, name=str(n))) for n in range(8)])
    connection = await connect(dsn)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()
    await asyncio.gather(*[catalog.write(partial(add, name=str(n))) for n in range(8, 16)])
    assert len(await catalog.read(names)) == 16


async def test_a_connection_lost_in_the_middle_leaves_nothing_half_done(dsn: str, catalog: PostgresCatalog) -> None:
    runs = 0

    async def operation(tx: Tx) -> None:
        nonlocal runs
        runs += 1
        await add(tx, f"first {runs}")
        if runs == 1:
            row = await tx.one("SELECT pg_backend_pid()")
            assert row is not None
            other = await connect(dsn)
            await other.execute("SELECT pg_terminate_backend($1, 5000)", row[0])
            await other.close()
        await add(tx, f"second {runs}")

    await catalog.write(operation)
    assert await catalog.read(names) == ["first 2", "second 2"]


async def test_a_restart_of_the_server_is_bridged_and_an_outage_is_unavailable(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE", 60.0)  # however long this machine takes to start it
    catalog = PostgresCatalog(config.Catalog(dsn=own_server.dsn, pool_size=4))
    await catalog.open()
    await catalog.write(partial(add, name="before"))
    own_server.kill9()
    bridged = [asyncio.ensure_future(catalog.write(partial(add, name=f"during {n}"))) for n in range(20)]
    await anyio.to_thread.run_sync(own_server.start)
    await asyncio.gather(*bridged)
    assert len(await catalog.read(names)) == 21
    own_server.kill9()
    monkeypatch.setattr(postgres, "_PATIENCE", 1.0)
    with anyio.fail_after(30):
        outcomes = await asyncio.gather(*[catalog.read(names) for _ in range(20)], return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    monkeypatch.undo()
    await anyio.to_thread.run_sync(own_server.start)
    await catalog.write(partial(add, name="later"))
    await catalog.close()


async def test_a_server_that_is_away_at_the_start_is_waited_for_and_then_unavailable(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE", 0.5)
    own_server.kill9()
    catalog = PostgresCatalog(config.Catalog(dsn=own_server.dsn))
    with pytest.raises(StoreUnavailable) as caught:
        await catalog.open()
    assert "catalog.dsn" in (caught.value.hint or "")


async def test_no_more_connections_are_made_than_configured(dsn: str, catalog: PostgresCatalog) -> None:
    async def slowly(tx: Tx) -> None:
        await tx.one("SELECT pg_sleep(0.01)")

    runs = [partial(run, slowly, chore=chore) for run in (catalog.read, catalog.write) for chore in (False, True)]
    await asyncio.gather(*[run() for run in runs for _ in range(25)])
    connection = await connect(dsn)
    ours = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    made = await connection.fetchval(ours)
    await connection.close()
    assert 3 <= made <= 4  # one each for reads, writes and chores, and a second for writes that run alone


@pytest.mark.parametrize("size", [1, 2, 3, 4, 10, 1000])
def test_every_connection_has_one_use_where_there_are_enough(size: int) -> None:
    divided = shares(size)
    assert sum(most for _, most in divided) == size
    assert all(most >= 1 for _, most in divided)
    assert sorted(use.name for uses, _ in divided for use in uses) == ["CHORE", "READ", "WRITE"]
    assert len(divided) == min(size, 3)


Run = Callable[[PostgresCatalog, Callable[[Tx], Awaitable[None]]], Awaitable[None]]
RUNS: dict[str, Run] = {
    "reads": lambda catalog, operation: catalog.read(operation),
    "writes": lambda catalog, operation: catalog.write(operation),
    "chores": lambda catalog, operation: catalog.read(operation, chore=True),
    "writes of chores": lambda catalog, operation: catalog.write(operation, chore=True),
}


@pytest.mark.parametrize("slow", RUNS)
async def test_operations_that_take_their_time_leave_connections_for_the_others(
    catalog: PostgresCatalog, slow: str
) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def hold(tx: Tx) -> None:
        begun.set()
        await released.wait()

    stuck = [asyncio.ensure_future(RUNS[slow](catalog, hold)) for _ in range(8)]  # twice as many as connections
    await begun.wait()
    try:
        with anyio.fail_after(30):
            if slow != "writes":
                await asyncio.gather(*[catalog.write(partial(add, name=str(n))) for n in range(20)])
            if slow != "reads":
                await asyncio.gather(*[catalog.read(names) for _ in range(20)])
            if "chores" not in slow:
                await catalog.write(partial(add, name="chore"), chore=True)
                await catalog.read(names, chore=True)
    finally:
        released.set()
        await asyncio.gather(*stuck)


async def test_a_database_that_lets_us_in_no_more_is_unavailable_until_it_does(
    own_server: PostgresServer,
) -> None:
    admin = await connect(own_server.dsn)
    await admin.execute("CREATE ROLE app LOGIN")
    await admin.execute("CREATE DATABASE app OWNER app")
    catalog = PostgresCatalog(config.Catalog(dsn=own_server.dsn_of("app").replace("postgres@", "app@"), pool_size=2))
    await catalog.open()
    await admin.execute("ALTER ROLE app NOLOGIN")
    await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'app'")
    for refused in (catalog.read(names), catalog.write(partial(add, name="a"))):
        with pytest.raises(StoreUnavailable, match="not permitted"):
            await refused
    await admin.execute("ALTER ROLE app LOGIN")
    await catalog.write(partial(add, name="b"))
    assert await catalog.read(names) == ["b"]
    await catalog.close()
    await admin.close()


async def test_a_cancelled_read_takes_its_connection_along(catalog: PostgresCatalog) -> None:
    async def stuck(tx: Tx) -> None:
        await tx.one("SELECT pg_sleep(100)")

    for _ in range(8):  # twice as many as there are connections
        with anyio.move_on_after(0.02) as scope:
            await catalog.read(stuck)
        assert scope.cancelled_caught
    await catalog.write(partial(add, name="a"))
    assert await catalog.read(names) == ["a"]


async def test_writes_that_wait_together_share_a_transaction(catalog: PostgresCatalog) -> None:
    async def transaction(tx: Tx) -> str:
        row = await tx.one("SELECT pg_current_xact_id()::text")
        assert row is not None
        return str(row[0])

    ids = await asyncio.gather(*[catalog.write(transaction) for _ in range(20)])
    assert len(set(ids)) <= 2


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of connections, from now on, but for the one that each begins with."""
    calls: list[str] = []

    def counted(method: str) -> Callable[..., Awaitable[Any]]:
        run = getattr(Connection, method)

        async def call(self: Connection, *arguments: Any, **options: Any) -> Any:
            if arguments[0] != postgres_pool._DURABLE:
                calls.append(method)
            return await run(self, *arguments, **options)

        return call

    for method in ("execute", "executemany", "fetch", "fetchmany", "fetchrow"):
        monkeypatch.setattr(Connection, method, counted(method))
    return calls


async def test_files_are_renamed_together_in_a_look_and_a_statement(
    catalog: PostgresCatalog, round_trips: list[str]
) -> None:
    rig = Rig(catalog)
    owner = await rig.user()
    folder = await rig.folder(owner)
    made = [await rig.file(owner, f"{number}", where=(ROOT, inside(folder))[number % 2]) for number in range(10)]
    metadata = MetadataActor(catalog, rig.config, rig.clock, rig.tokens)
    round_trips.clear()
    renamed = await asyncio.gather(
        *[
            metadata.update_file(UpdateFile(host(owner), file.id, f"{file.name} renamed"))  # type: ignore[attr-defined]
            for file in made
        ]
    )
    assert set(round_trips) == {"fetchmany"}
    assert len(round_trips) <= 5, "one look and one statement for the first, and for all others together"
    found = [await rig.ask(GetFile(host(owner), file.id)) for file in made]
    assert renamed == found
    assert [file.name for file in found] == [f"{file.name} renamed" for file in made]


async def test_each_of_those_who_rename_one_file_at_once_gets_the_file_as_they_named_it(
    catalog: PostgresCatalog,
) -> None:
    rig = Rig(catalog)
    owner = await rig.user()
    file = await rig.file(owner, "a")
    names = [f"{number}" for number in range(8)]
    cursor = (await rig.ask(ListChanges(host(owner)))).cursor
    renamed = await asyncio.gather(*[rig.ask(UpdateFile(host(owner), file.id, name)) for name in names])
    assert [each.name for each in renamed] == names
    assert len({each.revision for each in renamed}) == len(names)
    assert (await rig.ask(GetFile(host(owner), file.id))) == max(renamed, key=lambda each: each.revision)
    changes = (await rig.ask(ListChanges(host(owner), cursor))).changes
    assert [change.change for change in changes] == [ChangeKind.MOVED] * len(names)


@pytest.mark.parametrize("in_folder", [False, True])
async def test_a_rename_locks_the_owner_before_the_entry(contested: Contested, in_folder: bool) -> None:
    """As all rules do, or two renames of one file would wait for each other until the server ends one."""
    rig, owner, file = contested.other, contested.owner, contested.file
    if in_folder:
        file = await rig.file(owner, "a", where=inside(await rig.folder(owner)))
    await contested.rival.execute(LOCK, owner)
    renaming = asyncio.ensure_future(rig.ask(UpdateFile(host(owner), file.id, "b")))
    await contested.waiting(1)
    await contested.rival.execute("SELECT 1 FROM entries WHERE id = $1 FOR UPDATE NOWAIT", file.id)
    await contested.rival.execute("COMMIT")
    assert (await renaming).name == "b"


async def test_an_error_among_writes_that_wait_together_is_its_own(catalog: PostgresCatalog) -> None:
    async def duplicate(tx: Tx) -> None:
        await add(tx, "a")
        raise NameTaken("mine", field="name")

    outcomes = await asyncio.gather(
        *[catalog.write(partial(add, name=f"{n}") if n % 5 else duplicate) for n in range(20)],
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [NameTaken if n % 5 == 0 else type(None) for n in range(20)]
    assert len(await catalog.read(names)) == 16


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (pg.DiskFullError("could not extend file"), StorageFull),
        (pg.OutOfMemoryError("out of memory"), StoreUnavailable),
        (pg.QueryCanceledError("statement timeout"), StoreUnavailable),
        (pg.PostgresIOError("could not read block"), StoreUnavailable),
        (pg.NumericValueOutOfRangeError("bigint out of range"), Invalid),
        (pg.UndefinedTableError("no such table"), None),
        (pg.SyntaxOrAccessError("syntax error"), None),
    ],
)
def test_an_error_of_the_server_has_an_answer_unless_it_is_a_bug(
    error: Exception, answer: type[DriveError] | None
) -> None:
    found = translate(error)
    assert (found if found is None else type(found)) is answer
