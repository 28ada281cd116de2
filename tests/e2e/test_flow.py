"""The whole flow, over a real socket."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_program
from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json
from tests.e2e.conftest import Eventually

pytestmark = pytest.mark.anyio


def curl(*arguments: str | Path) -> str:
    program = require_program("curl", "curl")
    done = subprocess.run([program, "-sS", "--fail-with-body", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def headers(intent: Json) -> list[str]:
    return [part for name, value in intent["headers"].items() for part in ("-H", f"{name}: {value}")]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Three mebibytes that are no repetition."""
    path = tmp_path / "Ünïcode photo (1).jpg"
    block = hashlib.sha256(b"photo").digest()
    with path.open("wb") as file:
        for _ in range(3 * 32_768):
            block = hashlib.sha256(block).digest()
            file.write(block)
    return path


async def test_a_person_uploads_lists_downloads_and_deletes_and_the_bytes_are_purged(
    drive_server: DriveServer, photo: Path, tmp_path: Path, eventually: Eventually
) -> None:
    drive_server.tables["janitor"]["trash_grace"] = 0.5
    drive_server.start()
    async with Client.connect(drive_server.url) as ada:
        await ada.enter()
        intent = await ada.intent(photo.name, photo.stat().st_size)
        conversation = curl("-v", "-T", photo, "-H", "Expect: 100-continue", *headers(intent), intent["upload_url"])
        assert "HTTP/1.1 100 Continue" in conversation
        assert "HTTP/1.1 201 Created" in conversation

        (file,) = await ada.files()
        assert file["name"] == photo.name
        assert file["size_bytes"] == photo.stat().st_size

        signed = await ada.request("GET", f"/v1/files/{file['id']}/download")
        copy = tmp_path / "copy"
        curl("-o", copy, signed["url"])
        assert copy.read_bytes() == photo.read_bytes()

        assert (await ada.request("DELETE", f"/v1/files/{file['id']}"))["deleted"] == file["id"]
        assert await ada.files() == []
        async with ada.http.get(signed["url"]) as answer:
            assert answer.status == 404

        async def purged() -> bool:
            return not await ada.files("/v1/trash") and not drive_server.stored() and not drive_server.blobs()

        assert await eventually(purged)


async def test_the_routes_of_the_original_do_the_same_at_the_root(server: DriveServer) -> None:
    async with Client.connect(server.url) as ada:
        assert (await ada.request("GET", "/health"))["ok"] is True
        person = {"email": "ada@example.com", "password": "correct horse"}
        user = await ada.request("POST", "/signup", person)
        assert {"id", "email", "created_at"} <= user.keys()
        login = await ada.request("POST", "/login", person)
        assert {"token", "expires_at"} <= login.keys()
        ada.token = login["token"]
        wanted: dict[str, Any] = {"filename": "a.txt", "mime": "text/plain", "size_bytes": 5}
        intent = await ada.request("POST", "/files/upload-intent", wanted)
        assert {"upload_url", "object_key", "headers", "expires_at"} <= intent.keys()
        await ada.put(intent, b"hello")
        listed = await ada.request("GET", "/files")
        (file,) = listed["files"]
        assert {"id", "owner_id", "name", "mime", "size_bytes", "created_at", "version_id"} <= file.keys()
        assert file["owner_id"] == user["id"]
        signed = await ada.request("GET", f"/files/{file['id']}/download")
        assert {"url", "expires_at"} <= signed.keys()
        assert await ada.download(file["id"]) == b"hello"
        assert (await ada.request("DELETE", f"/files/{file['id']}"))["deleted"] == file["id"]
        assert await ada.files("/files") == []


async def test_a_restart_keeps_users_sessions_files_and_the_trash(server: DriveServer) -> None:
    async with Client.connect(server.url) as ada:
        await ada.enter()
        kept = await ada.upload("kept.txt", b"kept")
        trashed = await ada.upload("trashed.txt", b"trashed")
        await ada.request("DELETE", f"/v1/files/{trashed['id']}")
        pending = await ada.intent("pending.txt", b"pending")
        server.stop()
        assert server.process is not None
        assert server.process.status == 0
        server.start()
        assert [file["id"] for file in await ada.files()] == [kept["id"]]
        assert await ada.download(kept["id"]) == b"kept"
        assert [file["id"] for file in await ada.files("/v1/trash")] == [trashed["id"]]
        assert (await ada.put(pending, b"pending"))["name"] == "pending.txt"


async def test_an_empty_file_is_a_file(client: Client) -> None:
    file = await client.upload("empty", b"")
    assert file["size_bytes"] == 0
    assert await client.download(file["id"]) == b""


async def test_an_upload_that_is_refused_by_its_headers_never_sends_its_body(client: Client, photo: Path) -> None:
    intent = await client.intent("small", b"12345")
    program = require_program("curl", "curl")
    done = subprocess.run(
        [program, "-sSv", "-T", photo, "-H", "Expect: 100-continue", intent["upload_url"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "100 Continue" not in done.stderr
    assert "HTTP/1.1 4" in done.stderr
    assert await client.files() == []
