"""A catalog moves from SQLite to PostgreSQL whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from godrive import config
from godrive.catalog import Catalog, Sinks, sqlite_file
from godrive.catalog.copy import copy_catalog
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import Conflict, StoreUnavailable
from godrive.messages.files import CopyFile, ListTrash, OpenContent, UpdateFile
from godrive.messages.idempotency import (
    ClaimKey,
    SettleKey,
    StoredReply,
)
from godrive.messages.system import DueEvents
from godrive.messages.uploads import FailUpload, ListUploads
from godrive.messages.webhooks import AddWebhook, ListWebhooks
from godrive.rules import housekeeping, networks, sessions, tree_copies, users
from tests.conftest import require
from tests.contracts.rig import SERVER, Rig, host, inside
from tests.servers import PostgresServer

pytestmark = pytest.mark.anyio


async def fill(rig: Rig) -> None:
    """Something in every table, and in every state."""
    for number in range(3):
        owner = await rig.user(quota=10**6 if number else None)
        await rig.write(sessions.begin, owner, now=rig.now, ttl=99, address="192.0.2.1", user_agent="é")
        for name in ("a", "ß", "日本"):
            rig.clock.advance(1)
            await rig.file(owner, name, sha256="ab" * 32)
        await rig.trash(await rig.file(owner, "trashed"))
        folder = await rig.folder(owner)
        await rig.file(owner, "inside", where=inside(folder))
        await rig.trash(folder)
        await rig.ask(AddWebhook(host(owner), "https://example.org/hook"))
        await rig.begin(owner, "pending")
        failed = await rig.begin(owner, "failed")
        await rig.ask(FailUpload(by=SERVER, upload_id=failed.id, reason="because"))
        await rig.ask(ClaimKey(by=host(owner), key="key", fingerprint="f"))
        reply = StoredReply(status=200, headers={"a": "b"}, body=bytes(range(256)))
        await rig.ask(SettleKey(by=host(owner), key="key", stored=reply))
    await rig.write(users.add_invite, "code", now=rig.now)
    source = await rig.folder(owner, "source")
    await rig.ask(UpdateFile(by=host(owner), file_id=source.id, properties={"color": "red"}))
    await rig.write(tree_copies.begin, CopyFile(by=host(owner), file_id=source.id, name="copy"), 1, 0, rig.env)


async def seen(rig: Rig, catalog: Catalog) -> list[object]:
    """All that a user could see."""
    view = Rig(catalog)
    events = await view.ask(DueEvents(limit=1000))
    everything: list[object] = [events]
    for user in await view.read(users.list_after):
        trashed = await view.ask(ListTrash(by=host(user.id)))
        uploads = await view.ask(ListUploads(by=host(user.id)))
        hooks = await view.ask(ListWebhooks(host(user.id)))
        answer = await view.ask(ClaimKey(by=host(user.id), key="key", fingerprint="f"))
        everything += [
            user,
            await view.read(users.account, user.id),
            await view.page(user.id),
            [
                await view.ask(OpenContent(by=host(user.id), file_id=file.id))
                for file in (await view.page(user.id)).items
            ],
            trashed,
            uploads,
            hooks,
            await view.read(sessions.list_alive, user.id, now=rig.now),
            await view.read(networks.is_known, user.id, "192.0.2.1", now=rig.now),
            answer,
        ]
    return everything


async def test_a_copy_shows_the_same_and_goes_on(tmp_path: Path, postgres_server: PostgresServer) -> None:
    source = SqliteCatalog(tmp_path / "godrive.db", sinks=Sinks(nats=True))
    await source.open()
    rig = Rig(source)
    await fill(rig)
    settings = config.Catalog(dsn=postgres_server.create_database())
    told: list[tuple[str, int]] = []
    copied = await copy_catalog(
        tmp_path / "godrive.db",
        settings,
        check=housekeeping.check_usage,
        on_progress=lambda table, rows: told.append((table, rows)),
    )
    assert copied == {
        "users": 3, "invites": 1, "sessions": 3, "session_networks": 3, "entries": 20, "unsettled": 3, "copies": 1,
        "uncopied": 1, "properties": 2, "versions": 15, "uploads": 21, "idempotency_keys": 3, "changes": 26,
        "webhooks": 3,
    }  # fmt: skip
    assert dict(told) == copied
    target = PostgresCatalog(settings, sinks=Sinks(nats=True))
    await target.open()
    assert await seen(rig, target) == await seen(rig, source)
    assert await Rig(target).drift() == 0
    await Rig(target).file((await target.read(users.list_after))[0].id, "new")
    events = await Rig(target).ask(DueEvents(limit=100))
    assert len(events) == 27
    await Rig(target).settle()
    assert await Rig(target).drift() == 0
    with pytest.raises(Conflict, match="already"):
        await copy_catalog(tmp_path / "godrive.db", settings, check=housekeeping.check_usage)
    await source.close()
    await target.close()


@pytest.mark.servers
async def test_a_copy_that_is_cut_off_leaves_nothing_and_can_be_made_again(tmp_path: Path) -> None:
    require(PostgresServer)
    source = SqliteCatalog(tmp_path / "godrive.db")
    await source.open()
    await fill(Rig(source))
    await source.close()
    with PostgresServer() as server:
        settings = config.Catalog(dsn=server.dsn)

        def cut(table: str, rows: int) -> None:
            if table == "entries":
                server.kill9()

        with pytest.raises(StoreUnavailable):
            await copy_catalog(tmp_path / "godrive.db", settings, check=housekeeping.check_usage, on_progress=cut)
        server.start()
        assert (await copy_catalog(tmp_path / "godrive.db", settings, check=housekeeping.check_usage))["entries"] == 20


async def test_a_catalog_whose_sums_are_wrong_is_not_copied(tmp_path: Path, postgres_server: PostgresServer) -> None:
    source = SqliteCatalog(tmp_path / "godrive.db")
    await source.open()
    await Rig(source).file(await Rig(source).user())
    await source.close()
    connection = sqlite_file.connect(tmp_path / "godrive.db")
    connection.execute("UPDATE users SET live_bytes = 11")
    connection.close()
    settings = config.Catalog(dsn=postgres_server.create_database())
    with pytest.raises(Conflict, match="differs"):
        await copy_catalog(tmp_path / "godrive.db", settings, check=housekeeping.check_usage)
    target = PostgresCatalog(settings)
    await target.open()
    assert await target.read(users.list_after) == []
    await target.close()
