"""A limit on the size of a file, of the file system or of the process (``ulimit -f``): 413, and nothing is left."""

from __future__ import annotations

import io
import os

import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client, Refused

pytestmark = pytest.mark.anyio

MIB = 1 << 20
TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


@pytest.fixture
def limited(drive_server: DriveServer) -> DriveServer:
    """A server none of whose files may be larger than 16 MiB."""
    drive_server.prefix = ("sh", "-c", 'ulimit -f 32768 && exec "$@"', "sh")  # blocks of 512 bytes
    drive_server.start()
    return drive_server


async def check_nothing_left(server: DriveServer, client: Client) -> None:
    assert await client.files() == []
    assert {each["state"] for each in (await client.request("GET", "/v1/uploads"))["uploads"]} == {"failed"}
    assert (await client.request("GET", "/v1/me"))["usage"]["used_bytes"] == 0
    blobs = server.data / "blobs"
    assert [path for folder in ("staging", "uploads", "objects") for path in (blobs / folder).rglob("*")] == []


async def test_a_file_that_the_disk_does_not_take_is_too_large_and_its_upload_ends(limited: DriveServer) -> None:
    content = os.urandom(20 * MIB)
    async with Client.connect(limited.url) as client:
        await client.enter()
        intent = await client.intent("a.bin", content)
        with pytest.raises(Refused, match="takes no file of that size") as refused:
            await client.put(intent, content)
        assert refused.value.status == 413
        with pytest.raises(Refused, match="gone"):
            await client.put(intent, content)
        with pytest.raises(Refused, match="takes no file of that size"):
            await client.request("PUT", "/v1/files/by-path/b.bin", data=io.BytesIO(content))
        await check_nothing_left(limited, client)


async def test_a_resumable_upload_that_the_disk_does_not_take_ends(limited: DriveServer) -> None:
    content = os.urandom(20 * MIB)
    async with Client.connect(limited.url) as client:
        await client.enter()
        headers = {"Authorization": f"Bearer {client.token}", **TUS}
        created = await client.http.post(
            f"{limited.url}/v1/tus",
            headers={**headers, "Upload-Length": str(len(content)), "Upload-Metadata": "filename YS5iaW4="},
        )
        url = created.headers["Location"]
        first = await client.http.patch(
            url, data=io.BytesIO(content[: 12 * MIB]), headers={**headers, "Upload-Offset": "0"}
        )
        assert first.status == 204, await first.text()
        second = await client.http.patch(
            url, data=io.BytesIO(content[12 * MIB :]), headers={**headers, "Upload-Offset": f"{12 * MIB}"}
        )
        assert second.status == 413
        assert "takes no file of that size" in await second.text()
        assert (await client.http.head(url, headers=headers)).status == 410
        await check_nothing_left(limited, client)
