"""The server is killed while versions come and go: every version has its bytes, and no bytes are left behind."""

from __future__ import annotations

import itertools
import os
import random
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import pytest

from godrive.catalog.sqlite import SqliteCatalog
from tests.contracts.rig import Rig
from tests.drive_server import DriveServer
from tests.e2e.client import Client
from tests.e2e.ledger import GONE

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("GODRIVE_TEST_KILLS", "1"))
FILES = 6


@dataclass
class History:
    """One file: the contents of its acknowledged versions, and those whose end was asked for."""

    name: str
    id: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    async def change(self, client: Client) -> None:
        """Replace, restore and delete, until the server is gone."""
        for number in itertools.count():
            if number % 4 < 2 or len(self.contents) - len(self.ended) < 3:
                content = f"{self.name} {os.urandom(8).hex()}".encode()
                file = await client.put(await client.intent(self.name, content, on_conflict="replace"), content)
                self.id = file["id"]
            else:
                version = random.choice(sorted(self.contents.keys() - self.ended))
                path = f"/v1/files/{self.id}/versions/{version}"
                if number % 4 == 2:
                    content = self.contents[version]
                    file = await client.request("POST", f"{path}/restore")
                else:
                    if version == (await client.request("GET", f"/v1/files/{self.id}"))["version_id"]:
                        continue
                    self.ended.add(version)
                    await client.request("DELETE", path)
                    continue
            self.contents[file["version_id"]] = content

    async def check(self, client: Client) -> None:
        """Every acknowledged version is there with its bytes, unless its end was asked for."""
        if not self.id:
            return
        found = await client.files(f"/v1/files/{self.id}/versions", "versions")
        listed = {version["id"] for version in found}
        assert self.contents.keys() - self.ended <= listed
        for version_id in listed & self.contents.keys():
            signed = await client.request("GET", f"/v1/files/{self.id}/download?version_id={version_id}")
            async with client.http.get(signed["url"]) as answer:
                assert await answer.read() == self.contents[version_id]


async def check_store(drive_server: DriveServer) -> None:
    """Every version that is not being removed has its bytes, and all bytes have a row that will remove them."""
    catalog = SqliteCatalog(drive_server.data / "godrive.db")
    await catalog.open()
    rig = Rig(catalog)
    needed = {row[0] for row in await rig.rows("SELECT object_key FROM versions WHERE next_purge_at IS NULL")}
    ours = "SELECT object_key FROM uploads WHERE state = 'pending' OR cleanup_at IS NOT NULL"
    known = {row[0] for row in await rig.rows(f"SELECT object_key FROM versions UNION {ours}")}
    stored = drive_server.stored()
    assert needed <= stored <= known
    assert await rig.drift() == 0
    await catalog.close()


async def test_a_kill_loses_no_version_and_leaves_no_bytes(drive_server: DriveServer) -> None:
    """Once while clients change versions, and once while the janitor removes those that they have deleted."""
    histories = [History(f"{number}.txt") for number in range(FILES)]
    for _ in range(ROUNDS):
        drive_server.tables["janitor"]["sweep_every"] = 600.0
        drive_server.start()
        async with Client.connect(drive_server.url) as client:
            await client.enter()

            async def work(history: History, client: Client = client) -> None:
                with suppress(*GONE):
                    await history.change(client)

            async with anyio.create_task_group() as tasks:
                for history in histories:
                    tasks.start_soon(work, history)
                enough = sum(len(history.ended) for history in histories) + 40
                while sum(len(history.ended) for history in histories) < enough:
                    await anyio.sleep(0.001)
                await anyio.to_thread.run_sync(drive_server.kill9)
        await check_store(drive_server)
        before = len(drive_server.stored())
        drive_server.tables["janitor"]["sweep_every"] = 0.01
        drive_server.start()
        while len(drive_server.stored()) == before:
            await anyio.sleep(0.001)
        await anyio.to_thread.run_sync(drive_server.kill9)
        await check_store(drive_server)
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        for history in histories:
            await history.check(client)
