"""A server on the data folder that a release has left."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests import golden
from tests.drive_server import DriveServer, run
from tests.e2e.client import Client

pytestmark = pytest.mark.anyio


async def test_a_server_goes_on_with_the_data_folder_of_a_release(drive_server: DriveServer) -> None:
    newest = max(golden.ARCHIVES.glob("*.tar.xz"), key=lambda path: [int(part) for part in path.name.split(".")[:3]])
    golden.unpack(newest, drive_server.data)
    expected = json.loads((drive_server.data / golden.EXPECTED).read_text())
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        body = {"email": "bob@example.org", "password": golden.PASSWORD}
        client.token = (await client.request("POST", "/v1/login", body))["token"]
        (entry,) = await client.files()
        assert hashlib.sha256(await client.download(entry["id"])).hexdigest() == expected["files"][entry["name"]]
        await client.upload("new", b"written by this release")
    checked = run("fsck", "--digests", "--config", drive_server.folder / "config.toml")
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
