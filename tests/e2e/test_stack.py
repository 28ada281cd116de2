"""GoDrive over PostgreSQL, S3 and NATS, its actors in four processes, and what happens when one of them all is gone."""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import anyio
import pytest

from tests.conftest import require
from tests.e2e.client import Client
from tests.e2e.conftest import Eventually
from tests.e2e.ledger import GONE, Ledger
from tests.servers import CephGateway, NatsServer, PostgresServer
from tests.stack import Services, Stack

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def services(own_servers: None) -> Iterator[Services]:
    """Servers that these tests may kill."""
    for server in (NatsServer, PostgresServer, CephGateway):
        require(server)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_CA_BUNDLE", raising=False)
        yield (
            stack.enter_context(NatsServer()),
            stack.enter_context(PostgresServer()),
            stack.enter_context(CephGateway()),
        )


OpenStack = Callable[..., Stack]


@pytest.fixture
def open_stack(services: Services, tmp_path: Path) -> Iterator[OpenStack]:
    """Starts a stack; the logs of its processes are shown when the test fails."""
    with ExitStack() as stacks:

        def start(**options: object) -> Stack:
            for service in services:
                service.start()
            name = f"t{os.urandom(8).hex()}"
            stack = Stack(tmp_path / "stack", services, name=name, cores=2, **options)  # type: ignore[arg-type]
            stacks.callback(show, stack)
            return stacks.enter_context(stack)

        yield start


def show(stack: Stack) -> None:
    """Everything that a process said but for the requests."""
    for process in stack.processes:
        print(f"--- {process.folder.name}")
        print("\n".join(line for line in process.log.splitlines() if '"event":"request"' not in line))


async def test_the_whole_flow_works_over_four_processes(open_stack: OpenStack, eventually: Eventually) -> None:
    stack = open_stack(tables={"janitor": {"trash_grace": 0.5}, "ingest": {"reconcile_after": 60}})
    async with Client.connect(stack.url) as ada:
        await ada.enter()
        content = os.urandom(1_000_000)
        ledger = Ledger()
        await ledger.upload(ada, 4096)
        intent = await ada.intent("Ünïcode (1).bin", content)
        assert intent["upload_url"].startswith(stack.store.endpoint)
        async with ada.http.put(intent["upload_url"], data=content, headers=intent["headers"]) as answer:
            assert answer.status == 200

        async def both_listed() -> bool:
            return len(await ada.files()) == 2

        # No one but the store has told anybody, and the reconciler is a minute away.
        assert await eventually(both_listed)
        file = next(file for file in await ada.files() if file["name"] == "Ünïcode (1).bin")
        assert await ada.download(file["id"]) == content
        await ada.request("DELETE", f"/v1/files/{file['id']}")

        async def purged() -> bool:
            return not await ada.files("/v1/trash")

        assert await eventually(purged)
        assert len(await ada.files()) == 1


async def test_with_every_event_lost_the_reconciler_lists_every_upload(
    open_stack: OpenStack, eventually: Eventually
) -> None:
    stack = open_stack(events=False)
    ledger = Ledger()
    async with Client.connect(stack.url) as client:
        await client.enter()
        async with anyio.create_task_group() as uploads:
            for _ in range(20):
                uploads.start_soon(ledger.upload, client)

        async def all_listed() -> bool:
            return {file["name"] for file in await client.files()} == ledger.promised

        assert await eventually(all_listed)
        await ledger.check_bytes(client, await ledger.check(client))


async def test_an_upload_is_listed_at_once_when_the_client_says_that_it_is_complete(open_stack: OpenStack) -> None:
    stack = open_stack(events=False, tables={"ingest": {"reconcile_after": 60}})
    async with Client.connect(stack.url) as client:
        await client.enter()
        intent = await client.intent("said.bin", b"said")
        async with client.http.put(intent["upload_url"], data=b"said", headers=intent["headers"]) as answer:
            assert answer.status == 200
        assert await client.files() == []
        completed = await client.request("POST", f"/v1/uploads/{intent['upload_id']}/complete")
        assert [file["id"] for file in await client.files()] == [completed["file"]["id"]]


async def test_bytes_pass_through_a_process_that_only_serves_http(open_stack: OpenStack) -> None:
    """A PUT by path, a form, a tus upload that another connection continues, a read, a copy, and an archive."""
    stack = open_stack(events=False)
    async with Client.connect(stack.url) as client:
        await client.enter()
        files, bearer = f"{stack.url}/v1/files", {"Authorization": f"Bearer {client.token}"}
        small, large = os.urandom(4096), os.urandom(9 * 1024 * 1024)
        for status in (201, 200):  # the same bytes again are no new version
            async with client.http.put(f"{files}/by-path/a/small?parents=true", data=small, headers=bearer) as answer:
                assert answer.status == status, await answer.text()
        form = aiohttp.FormData()
        form.add_field("file", b"of a form", filename="form.txt")
        async with client.http.post(files, data=form, headers=bearer) as answer:
            assert answer.status == 201, await answer.text()

        tus = {**bearer, "Tus-Resumable": "1.0.0"}
        name = base64.b64encode(b"large").decode()
        begin = {**tus, "Upload-Length": str(len(large)), "Upload-Metadata": f"filename {name}"}
        async with client.http.post(f"{stack.url}/v1/tus", headers=begin) as answer:
            assert answer.status == 201, await answer.text()
            upload = answer.headers["Location"]
        patch = {**tus, "Content-Type": "application/offset+octet-stream"}
        for start, end in ((0, 6_000_000), (6_000_000, len(large))):
            headers = {**patch, "Upload-Offset": str(start)}
            async with client.http.patch(upload, data=io.BytesIO(large[start:end]), headers=headers) as answer:
                assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(end)), await answer.text()

        await client.request("POST", "/v1/batch", {"operations": [{"op": "copy", "path": "large", "name": "copy"}]})
        assert stack.gateway.data.is_dir()  # for the socket of `godrive actors`
        wanted = {"a/small": small, "form.txt": b"of a form", "large": large, "copy": large}
        for path, content in wanted.items():
            async with client.http.get(f"{files}/by-path/{path}?content&redirect=false", headers=bearer) as answer:
                assert (answer.status, await answer.read()) == (200, content)
        async with client.http.get(f"{files}/root/zip", headers=bearer) as answer:
            with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
                assert {entry: archive.read(entry) for entry in archive.namelist() if entry[-1] != "/"} == wanted


def background_killed(stack: Stack) -> None:
    stack.background.kill9()
    stack.background.start()


def core_killed(stack: Stack) -> None:
    stack.cores[0].kill9()
    stack.cores[0].start()


def gateway_killed(stack: Stack) -> None:
    stack.gateway.kill9()
    stack.gateway.start()


def nats_killed_and_wiped(stack: Stack) -> None:
    stack.nats.wipe()
    stack.nats.start()


def postgres_killed(stack: Stack) -> None:
    stack.postgres.kill9()
    stack.postgres.start()


def store_killed(stack: Stack) -> None:
    stack.store.kill9()
    stack.store.start()


def core_cut_off(stack: Stack) -> None:
    stack.cores[0].freeze()


OURS = [background_killed, core_killed, gateway_killed, core_cut_off]
THEIRS = [nats_killed_and_wiped, postgres_killed, store_killed]


_PAUSE = 0.2
"""Seconds between two uploads of a client: an outage takes seconds, and meets uploads at every stage all the same."""


@asynccontextmanager
async def load(client: Client, ledger: Ledger) -> AsyncIterator[None]:
    """Three clients that upload all the time, and go on after whatever happens."""

    async def keep_uploading() -> None:
        while True:
            with suppress(*GONE):
                await ledger.upload(client)
            await anyio.sleep(_PAUSE)

    async with anyio.create_task_group() as clients:
        for _ in range(3):
            clients.start_soon(keep_uploading)
        yield
        clients.cancel_scope.cancel()


@pytest.mark.parametrize("outages", [OURS, THEIRS], ids=["of-ours", "of-theirs"])
async def test_outages_under_load_lose_nothing_that_the_store_took(
    open_stack: OpenStack, eventually: Eventually, outages: list[Callable[[Stack], None]]
) -> None:
    stack = open_stack(tables={"blobs": {"upload_ttl": 10.0}})
    ledger = Ledger()

    async def serves(before: int) -> bool:
        return len(ledger.promised) > before + 6

    async with Client.connect(stack.url, timeout=20) as client:
        await client.enter()
        async with load(client, ledger):
            for outage in outages:
                assert await eventually(partial(serves, len(ledger.promised)), within=60), outage
                await anyio.to_thread.run_sync(outage, stack)
            stack.cores[0].thaw()
            assert await eventually(partial(serves, len(ledger.promised)), within=60)

        async def settled() -> bool:
            try:
                return not await client.files("/v1/uploads?state=pending", "uploads")
            except GONE:
                return False

        assert await eventually(settled, within=90)
        files = await ledger.check(client)
        await ledger.check_bytes(client, files[:100])
