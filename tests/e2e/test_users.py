"""``godrive user delete`` and ``rename`` beside a running server, which notices within a second."""

from __future__ import annotations

import json

import pytest

from tests.drive_server import DriveServer, run
from tests.e2e.client import Client, Refused
from tests.e2e.conftest import Eventually

pytestmark = pytest.mark.anyio

ADA = "ada@example.com"


def user(server: DriveServer, *arguments: str, code: int = 0) -> str:
    done = run("user", *arguments, "--config", server.folder / "config.toml")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


async def status(client: Client, path: str) -> int:
    headers = {"Authorization": f"Bearer {client.token}"} if path.startswith("/") else {}
    async with client.http.get(client.url + path if path.startswith("/") else path, headers=headers) as answer:
        return answer.status


async def test_a_user_is_renamed_disabled_kept_and_deleted(
    server: DriveServer, client: Client, eventually: Eventually
) -> None:
    file = await client.upload("a.bin", b"x" * 50_000)
    url = (await client.request("GET", f"/v1/files/{file['id']}/download"))["url"]
    assert await status(client, url) == 200
    assert "is now countess@example.com" in user(server, "rename", ADA, "countess@example.com")
    await client.request("POST", "/v1/signup", {"email": "bob@example.com", "password": "correct horse"})
    assert "There is an account" in user(server, "rename", "bob@example.com", "COUNTESS@example.com", code=1)
    assert "is deleted" in user(server, "delete", "bob@example.com", "--now", "--yes")
    assert await status(client, "/v1/me") == 200, "sessions go on"
    told = user(server, "delete", "countess@example.com")
    assert "is disabled, and deleted with all files on" in told

    async def is_shut_out() -> bool:
        return (await status(client, "/v1/me"), await status(client, url)) == (401, 404)

    await eventually(is_shut_out, within=5.0)
    (row,) = json.loads(user(server, "list", "--json"))
    assert (row["state"], row["delete_at"] is not None) == ("disabled", True)
    assert "deleted on" in user(server, "list")
    assert "is enabled" in user(server, "enable", "countess@example.com")
    await client.enter("countess@example.com")
    assert [entry["name"] for entry in await client.files()] == ["a.bin"]
    assert await status(client, url) == 200
    assert "Confirm it with --yes" in user(server, "delete", "countess@example.com", "--now", code=2)
    assert await status(client, "/v1/me") == 200
    assert "is deleted" in user(server, "delete", "countess@example.com", "--now", "--yes")
    await eventually(is_shut_out, within=5.0)

    async def is_purged() -> bool:
        return not server.stored()

    await eventually(is_purged)
    assert json.loads(user(server, "list", "--json")) == []
    assert "countess@example.com" in user(server, "delete", "countess@example.com", code=1)
    with pytest.raises(Refused):
        await client.request("POST", "/v1/login", {"email": "countess@example.com", "password": "correct horse"})
