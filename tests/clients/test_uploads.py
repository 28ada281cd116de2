"""Clients of others, as docs/uploads.md shows them, finish their uploads whatever happens on the way."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256

import anyio
import pytest

from tests.clients.jobs import JobFailed
from tests.clients.site import CHECKSUM, CHUNK, CLIENTS, CUT, PLAIN, WAYS, Parcel, Site
from tests.e2e.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(300)]

CONTENT = os.urandom(400_000)


@asynccontextmanager
async def parcels(site: Site, way: str, person: Client, names: list[str]) -> AsyncIterator[dict[str, Parcel]]:
    """A file for each name, each with a line of its own."""
    async with AsyncExitStack() as stack:
        lines = {name: await stack.enter_async_context(site.line(way)) for name in names}
        yield {name: Parcel(line, person.token, f"{name}.bin", CONTENT) for name, line in lines.items()}


async def all_of(uploads: dict[str, Awaitable[None]]) -> None:
    """Wait for the uploads.  Raises what each that failed says."""
    with anyio.fail_after(120):
        ends = await asyncio.gather(*uploads.values(), return_exceptions=True)
    assert not {name: str(end)[:1000] for name, end in zip(uploads, ends, strict=True) if end is not None}


async def stored(person: Client) -> dict[str, str]:
    """The digest of each file."""
    return {file["name"]: file["sha256"] for file in await person.files()}


@pytest.mark.parametrize("way", WAYS)
async def test_every_client_finishes_over_a_line_that_is_cut(site: Site, way: str) -> None:
    jobs = {f"{client}, {case}": (client, case) for client, cases in CLIENTS.items() for case in cases}
    jobs = {name: job for name, job in jobs.items() if job[1] != CHECKSUM}
    async with site.person() as person, parcels(site, way, person, list(jobs)) as sent:
        for parcel in sent.values():
            parcel.line.up.cut(CUT, times=2)
        await all_of({name: site.upload(*jobs[name], parcel) for name, parcel in sent.items()})
        assert {name: parcel.line.up.was_cut for name, parcel in sent.items()} == dict.fromkeys(sent, 2)
        assert await stored(person) == {f"{name}.bin": sha256(CONTENT).hexdigest() for name in sent}


async def test_every_client_goes_on_after_the_server_was_killed(site: Site) -> None:
    """Each is in the middle of a request, on every way, when the server goes."""
    async with site.person() as person, AsyncExitStack() as stack:
        sent: dict[str, tuple[str, Parcel]] = {}
        for way in WAYS:
            names = {f"{client}, {way}": client for client in CLIENTS}
            opened = await stack.enter_async_context(parcels(site, way, person, list(names)))
            sent |= {name: (names[name], parcel) for name, parcel in opened.items()}
        for _, parcel in sent.values():
            parcel.line.up.hold(CUT)
        uploads = {
            name: asyncio.ensure_future(site.upload(client, PLAIN, parcel)) for name, (client, parcel) in sent.items()
        }
        with anyio.fail_after(60):
            await asyncio.gather(*(parcel.line.up.held.wait() for _, parcel in sent.values()))
        await asyncio.to_thread(site.server.kill9)
        for _, parcel in sent.values():
            parcel.line.up.release()
        await asyncio.to_thread(site.server.start)
        await all_of(dict(uploads))
        assert await stored(person) == {f"{name}.bin": sha256(CONTENT).hexdigest() for name in sent}


async def test_a_token_that_ends_on_the_way_ends_no_upload(site: Site) -> None:
    """Each client asks for the token before each request.  The script for curl does not."""
    clients = [client for client in CLIENTS if client != "curl"]
    async with site.person() as person, parcels(site, "direct", person, clients) as sent:
        async with Client.connect(site.server.url) as other:
            login = {"email": (await person.request("GET", "/v1/me"))["email"], "password": "correct horse"}
            other.token = (await other.request("POST", "/v1/login", login))["token"]
            for parcel in sent.values():
                parcel.token = other.token
                parcel.line.up.hold(CUT)
            uploads = {
                client: asyncio.ensure_future(site.upload(client, PLAIN, parcel)) for client, parcel in sent.items()
            }
            with anyio.fail_after(60):
                await asyncio.gather(*(parcel.line.up.held.wait() for parcel in sent.values()))
            await other.request("POST", "/v1/logout")
        for parcel in sent.values():
            site.jobs.tokens[parcel.number] = person.token
            parcel.line.up.release()
        await all_of(dict(uploads))
        assert await stored(person) == {f"{client}.bin": sha256(CONTENT).hexdigest() for client in clients}


async def test_a_wrong_checksum_is_refused_and_the_offset_stays(site: Site) -> None:
    """The second request has it; curl sends one.  The bytes of tuspy, which always sends the right one, are damaged."""
    async with site.person() as person, AsyncExitStack() as stack:
        sent: dict[str, tuple[str, Parcel]] = {}
        for way in WAYS:
            able = [client for client, cases in CLIENTS.items() if CHECKSUM in cases]
            names = {f"{client}, {way}": client for client in able}
            opened = await stack.enter_async_context(parcels(site, way, person, list(names)))
            sent |= {name: (names[name], parcel) for name, parcel in opened.items()}

        async def is_refused(name: str) -> None:
            client, parcel = sent[name]
            if client == "tuspy":
                parcel.line.up.damage = CHUNK + 20_000
            if client == "curl":
                parcel.content = CONTENT[:CHUNK]  # the proxies let no larger request pass
            with pytest.raises(JobFailed, match="460"):
                await site.upload(client, CHECKSUM, parcel, attempts=0)

        await all_of({name: is_refused(name) for name in sent})
        offsets = {
            upload["filename"]: upload["received_bytes"] for upload in await person.files("/v1/uploads", "uploads")
        }
        assert offsets == {parcel.name: 0 if client == "curl" else CHUNK for client, parcel in sent.values()}
        # What was refused can be sent again: tuspy finds the upload that it has begun.
        for client, parcel in sent.values():
            if client == "tuspy":
                await site.upload(client, CHECKSUM, parcel, attempts=0)
        assert set(await stored(person)) == {parcel.name for client, parcel in sent.values() if client == "tuspy"}


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_vanished_holds_nothing_up(site: Site, way: str) -> None:
    """Half-open TCP: the network is gone in the middle of a request, without a FIN.  The client comes back."""
    async with site.person() as person, site.line(way) as gone, site.line(way) as back:
        tus = {"Authorization": f"Bearer {person.token}", "Tus-Resumable": "1.0.0"}
        chunk = {**tus, "Content-Type": "application/offset+octet-stream"}
        about = {"Upload-Length": str(len(CONTENT)), "Upload-Metadata": "filename YQ=="}
        async with person.http.post(f"{gone.url}/v1/tus", headers=tus | about) as answer:
            url = answer.headers["Location"]
            assert url.startswith(gone.url)
        gone.up.hold(CUT)
        sending = asyncio.create_task(
            person.http.patch(url, headers=chunk | {"Upload-Offset": "0"}, data=CONTENT[:CHUNK])
        )
        await gone.up.held.wait()
        sending.cancel()
        url, at = url.replace(gone.url, back.url), 0
        with anyio.fail_after(2):  # a promise
            async with person.http.head(url, headers=tus) as answer:
                at = int(answer.headers["Upload-Offset"])
        assert at > 0 or way != "direct"
        while at < len(CONTENT):
            body = CONTENT[at : at + CHUNK]
            async with person.http.patch(url, headers=chunk | {"Upload-Offset": str(at)}, data=body) as answer:
                at = int(answer.headers["Upload-Offset"])
        assert await stored(person) == {"a": sha256(CONTENT).hexdigest()}


@pytest.mark.parametrize("way", WAYS[1:])
async def test_the_proxies_of_these_tests_let_no_file_pass_in_one_request(site: Site, way: str) -> None:
    """nginx says 413, and Caddy 502, or one of them cuts the line before the client has read that."""
    async with site.person() as person, site.line(way) as line:
        host = line.url.removeprefix("http://")
        head = (
            f"PUT /v1/files/by-path/a HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {person.token}\r\n"
            f"Content-Length: {len(CONTENT)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        received = b""
        async with await anyio.connect_tcp("127.0.0.1", int(host.rpartition(":")[2])) as stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.send(head.encode())
                received = await stream.receive()
                if b" 100 " in received:
                    await stream.send(CONTENT)
                while True:
                    received += await stream.receive()
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", received)
        assert set(statuses) <= {b"100", b"413", b"502"}
        assert await stored(person) == {}
