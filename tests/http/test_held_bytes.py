"""What a request held of its body is freed when the request ends, not when the garbage collector runs.

A server runs the collector seldom, and the collector counts objects, not bytes: some hundred bodies in cycles of
references are gigabytes before it looks at them.
"""

from __future__ import annotations

import base64
import errno
import gc
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import aiohttp
import anyio
import pytest

from godrive.blobs import BlobStore
from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.staging import StagingFile
from godrive.errors import StoreUnavailable
from tests.http.client import Person, Site
from tests.http.conftest import OpenSite

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("without_collector")]

ROUNDS = 4
SIZE = 6 << 20
DIALECTS = ["tus", "put", "post"]
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.servers)])
async def site_of_a_store(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    store: BlobStore | None = None
    if request.param == "s3":
        from tests.ceph import ProbedOnce, own_bucket

        store = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")))
    async with open_site(blobs={"driver": "disk"}, blob_store=store) as site:
        yield site


class Uploader:
    """One who begins uploads that do not end well."""

    def __init__(self, site: Site, ann: Person) -> None:
        self._site = site
        self._ann = ann
        self._count = 0

    async def send(self, dialect: str, sent: int, **more: str) -> bytes:
        """Send *sent* of :data:`SIZE` bytes.  Return the answer, or hang up if they are not all."""
        self._count += 1
        headers = {"Host": f"127.0.0.1:{self._site.port}", "Authorization": f"Bearer {self._ann.token}"}
        method, path = "PUT", f"/v1/files/by-path/{self._count}.bin"
        if dialect == "post":
            method, path = "POST", f"/v1/files?name={self._count}.bin"
        elif dialect == "tus":
            made = await self._ann("POST", "/v1/tus", headers=TUS | {"Upload-Length": f"{SIZE}"})
            method, path = "PATCH", made.headers["Location"].removeprefix(self._site.url)
            headers |= TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        headers |= {"Content-Length": f"{SIZE}", "Connection": "close"} | more
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        stream = await anyio.connect_tcp("127.0.0.1", self._site.port)
        async with stream:
            with suppress(anyio.BrokenResourceError):  # the server need not read a body that it refuses
                await stream.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
                await stream.send(bytes(sent))
            return await stream.receive() if sent == SIZE else b""


@pytest.fixture
async def uploader(http: aiohttp.ClientSession, site_of_a_store: Site) -> Uploader:
    return Uploader(site_of_a_store, await Person(http, site_of_a_store.url).enter())


async def check_freed(upload: Callable[[str], Awaitable[None]]) -> None:
    """Check, for each dialect, that what several uploads held is freed without the garbage collector."""
    failed = []
    for dialect in DIALECTS:
        await upload(dialect)  # what the first one imports and keeps stays
        await anyio.sleep(0.3)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(ROUNDS):
            await upload(dialect)
        with anyio.move_on_after(10) as limit:
            while tracemalloc.get_traced_memory()[0] - before > SIZE:
                await anyio.sleep(0.05)
        if limit.cancelled_caught:
            failed.append(dialect)
    assert failed == []


async def test_a_body_whose_client_hangs_up_is_freed(uploader: Uploader) -> None:
    async def upload(dialect: str) -> None:
        await uploader.send(dialect, SIZE // 2)

    await check_freed(upload)


async def test_a_body_with_a_wrong_digest_is_freed(uploader: Uploader) -> None:
    digest = base64.b64encode(bytes(32)).decode()
    said = {"tus": {"Upload-Checksum": f"sha256 {digest}"}}

    async def upload(dialect: str) -> None:
        wrong = said.get(dialect, {"Content-Digest": f"sha-256=:{digest}:"})
        assert (await uploader.send(dialect, SIZE, **wrong))[9:12] in {b"422", b"460"}

    await check_freed(upload)


async def test_a_body_that_the_store_fails_to_take_is_freed(
    uploader: Uploader, site_of_a_store: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = site_of_a_store.drive.blobs

    async def fail(*_: object, **__: object) -> str:
        raise StoreUnavailable("The store does not answer.")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if isinstance(store, S3BlobStore):
        monkeypatch.setattr(store.client, "call", fail)
        monkeypatch.setattr(store.multipart, "send", fail)
    else:
        monkeypatch.setattr(StagingFile, "write", full)
        monkeypatch.setattr(StagingFile, "write_large", full)

    async def upload(dialect: str) -> None:
        assert (await uploader.send(dialect, SIZE))[9:12] in {b"503", b"507"}

    await check_freed(upload)
