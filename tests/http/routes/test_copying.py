"""Copies over a socket: files and trees, and clients that do not wait for the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.http.api import idempotency
from godrive.messages.system import SettleTrash, UsageDrift
from godrive.rules import copies, tree_copies
from tests.http.client import Json, Person, Site

pytestmark = pytest.mark.anyio


async def folder(ann: Person, name: str, parent_id: str | None = None) -> Json:
    made: Json = (await ann("POST", "/v1/folders", {"name": name, "parent_id": parent_id})).json
    return made


async def test_a_file_is_copied_and_downloads_the_same_bytes(ann: Person) -> None:
    file, target = await ann.upload("a.txt", b"the bytes"), await folder(ann, "target")
    copied = await ann("POST", f"/v1/files/{file['id']}/copy", {"parent_id": target["id"]})
    assert copied.status == 201, copied.content
    assert copied.headers["Location"].endswith(f"/v1/files/{copied.json['id']}")
    same = ("name", "mime", "size_bytes", "sha256", "modified_at")
    assert {name: copied.json[name] for name in same} == {name: file[name] for name in same}
    assert copied.json["parent_id"] == target["id"]
    assert (await ann("GET", f"/v1/files/{copied.json['id']}")).headers["ETag"] == copied.headers["ETag"]
    url = (await ann("GET", f"/v1/files/{copied.json['id']}/download")).json["url"]
    assert (await ann("GET", url)).content == b"the bytes"
    assert (await ann("GET", "/v1/me")).json["usage"]["live_bytes"] == 18


async def test_what_a_copy_needs_is_said(ann: Person) -> None:
    file, target = await ann.upload("a.txt"), await folder(ann, "target")
    inner = await folder(ann, "inner", target["id"])
    unknown = "00000000-0000-7000-8000-000000000000"
    for id_, body, status, code, field in (
        (file["id"], None, 409, "name_taken", "name"),
        (file["id"], {"name": "a/b"}, 422, "invalid", "name"),
        (file["id"], {"parent_id": unknown}, 404, "not_found", "parent_id"),
        (file["id"], {"parent_id": file["id"]}, 404, "not_found", "parent_id"),
        (file["id"], {"to": "root"}, 422, "invalid", "to"),
        (unknown, {"name": "b"}, 404, "not_found", None),
        (target["id"], {"parent_id": inner["id"]}, 409, "cycle", "parent_id"),
        (target["id"], {"parent_id": target["id"]}, 409, "cycle", "parent_id"),
    ):
        answer = await ann("POST", f"/v1/files/{id_}/copy", body)
        assert (answer.status, answer.json["code"], answer.json.get("field")) == (status, code, field), body
    stale = await ann("POST", f"/v1/files/{file['id']}/copy", {"name": "b"}, headers={"If-Match": '"other"'})
    assert stale.status == 412
    numbered = await ann("POST", f"/v1/files/{file['id']}/copy", {"on_conflict": "rename"})
    assert (numbered.status, numbered.json["name"]) == (201, "a (1).txt")


class Held:
    """Holds a copy after its first batch until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = anyio.Event(), anyio.Event()
        monkeypatch.setattr(copies, "MOST_AT_ONCE", 3)
        write = SqliteCatalog.write

        async def held(
            catalog: SqliteCatalog, operation: Callable[[Tx], Awaitable[Any]], *, chore: bool = False, answers: int = 1
        ) -> Any:
            value = await write(catalog, operation, chore=chore, answers=answers)
            if isinstance(value, tree_copies.Building):
                self.reached.set()
                await self.go.wait()
            return value

        monkeypatch.setattr(SqliteCatalog, "write", held)


async def tree(ann: Person) -> Json:
    top = await folder(ann, "top")
    for number in range(5):
        await ann.upload(f"{number}", b"hello", parent_id=top["id"])
    return top


async def test_a_client_that_does_not_wait_gets_the_copy_by_the_same_key(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = await tree(ann)
    held, path, body, headers = (
        Held(monkeypatch),
        f"/v1/files/{top['id']}/copy",
        {"name": "copy"},
        {"Idempotency-Key": "k"},
    )
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: h", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"Authorization: Bearer {ann.token}", "Idempotency-Key: k"]
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await held.reached.wait()
    writer.transport.abort()  # the client hangs up
    meanwhile = await ann("POST", path, body, headers=headers)
    assert (meanwhile.status, meanwhile.json["code"]) == (409, "conflict")
    assert "Retry-After" in meanwhile.headers
    listed = (await ann("GET", "/v1/files", params={"parent_id": "root"})).json["files"]
    assert [file["name"] for file in listed] == ["top"]
    held.go.set()
    with anyio.fail_after(30):
        while (again := await ann("POST", path, body, headers=headers)).status == 409:
            await anyio.lowlevel.checkpoint()
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.json["name"] == "copy"
    children = (await ann("GET", "/v1/files", params={"parent_id": again.json["id"]})).json["files"]
    assert {file["name"] for file in children} == {f"{number}" for number in range(5)}
    while await site.drive.metadata.ask(SettleTrash(100)):
        pass
    assert (await ann("GET", "/v1/me")).json["usage"]["live_bytes"] == 50
    assert not await site.drive.metadata.ask(UsageDrift())


async def renewed(site: Site) -> bool:
    """Whether the only key has been renewed since the clock was last advanced."""
    at = int(site.clock.now().timestamp() * 1_000_000) + 50_000_000
    found = await site.drive.catalog.read(lambda tx: tx.one("SELECT expires_at FROM idempotency_keys"))
    return found is not None and found[0] > at


async def test_the_key_of_a_copy_that_takes_long_is_kept(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = await tree(ann)
    held, path, body, headers = (
        Held(monkeypatch),
        f"/v1/files/{top['id']}/copy",
        {"name": "copy"},
        {"Idempotency-Key": "k"},
    )
    monkeypatch.setattr(idempotency, "RENEW_EVERY", 0.001)
    async with anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def copy() -> None:
            answers.append(await ann("POST", path, body, headers=headers))

        tasks.start_soon(copy)
        await held.reached.wait()
        for _ in range(4):
            site.clock.advance(40)  # a claim lasts for 60 seconds
            with anyio.fail_after(30):
                while not await renewed(site):
                    await anyio.lowlevel.checkpoint()
        meanwhile = await ann("POST", path, body, headers=headers)
        assert (meanwhile.status, meanwhile.json["code"]) == (409, "conflict")
        held.go.set()
    assert answers[0].status == 201


async def test_the_server_keeps_answering_others_while_a_tree_is_copied(
    ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = await tree(ann)
    held = Held(monkeypatch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ann, "POST", f"/v1/files/{top['id']}/copy", {"name": "copy"})
        await held.reached.wait()
        assert (await bob.upload("b.txt"))["name"] == "b.txt"
        assert (await ann.upload("a.txt", parent_id=top["id"]))["name"] == "a.txt"
        held.go.set()
