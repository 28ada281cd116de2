"""Memory does not grow with work."""

from __future__ import annotations

import os

import anyio
import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

# A longer soak: GODRIVE_TEST_UPLOADS=20000 scripts/test tests/e2e/test_memory.py
UPLOADS = int(os.environ.get("GODRIVE_TEST_UPLOADS", "300"))
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def anew(drive_server: DriveServer) -> None:
    """What a forked process shares with others would count as its own."""
    drive_server.anew = True


async def churn(client: Client, count: int) -> None:
    """Upload, read and delete *count* small files, sixteen at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            file = await client.upload(f"{os.urandom(12).hex()}.bin", os.urandom(2048))
            await client.download(file["id"])
            await client.request("DELETE", f"/v1/files/{file['id']}")

    async with anyio.create_task_group() as workers:
        for _ in range(16):
            workers.start_soon(worker)


async def test_many_uploads_leave_the_memory_as_it_was(server: DriveServer, client: Client) -> None:
    await churn(client, UPLOADS // 2)
    warm = server.resident_bytes()
    await churn(client, UPLOADS // 2)
    assert server.resident_bytes() - warm < 8 * MIB
    assert server.resident_bytes() < 128 * MIB


async def test_a_large_file_passes_through_in_little_memory(server: DriveServer, client: Client) -> None:
    await client.upload("warm.bin", os.urandom(MIB))
    quiet = server.resident_bytes()
    content = os.urandom(MIB) * 96
    file = await client.upload("large.bin", content)
    after_upload = server.resident_bytes()
    assert await client.download(file["id"]) == content
    assert after_upload - quiet < 32 * MIB
    assert server.resident_bytes() - quiet < 32 * MIB
