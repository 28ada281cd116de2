"""What changes: pages after a cursor, answers that wait for a change, and streams of events."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest

from godrive.http.routes import changes
from godrive.messages.files import MakeFolder
from godrive.messages.users import SetUserState
from godrive.model import Root, UserId, UserState
from godrive.principal import HostUser
from godrive.rules.page_tokens import PageTokens
from godrive.rules.registry import Env, perform
from tests.http.client import Answer, Json, Person, Site
from tests.http.conftest import OpenSite
from tests.principals import SYSTEM

pytestmark = pytest.mark.anyio


async def cursor_of(person: Person) -> str:
    """The cursor for now."""
    answer = await person("GET", "/v1/changes")
    assert answer.status == 200, answer.json
    assert answer.json["changes"] == []
    assert answer.json["has_more"] is False
    return str(answer.json["cursor"])


async def user_id(person: Person) -> UserId:
    return UserId((await person("GET", "/v1/me")).json["id"])


async def make(person: Person, name: str) -> Json:
    answer = await person("POST", "/v1/folders", {"name": name})
    assert answer.status == 201
    folder: Json = answer.json
    return folder


async def make_unnoticed(site: Site, owner: UserId, name: str) -> None:
    """A change by another process, of which no notification comes."""
    env = Env(site.clock.now(), site.drive.config, PageTokens([b"k" * 32]))
    await perform(site.drive.catalog, MakeFolder(by=HostUser(user_id=owner), where=Root(), name=name), env)


async def waiting(site: Site, number: int) -> None:
    """Wait until so many requests wait for changes."""
    with anyio.fail_after(30):
        while len(site.drive.watch) != number:
            await anyio.sleep(0.002)  # nobody tells


@asynccontextmanager
async def begun(person: Person, path: str, **params: Any) -> AsyncIterator[asyncio.Task[Answer]]:
    """A request whose answer is still to come."""
    task = asyncio.create_task(person("GET", path, params=params))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def answer_of(task: asyncio.Task[Answer]) -> Answer:
    with anyio.fail_after(30):
        return await task


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_changes_are_listed_from_a_cursor_on(ann: Person) -> None:
    cursor = await cursor_of(ann)
    folder = await make(ann, "folder")
    file = await ann.upload("a.txt")
    await ann("PATCH", f"/v1/files/{file['id']}", {"name": "b.txt"})
    await ann("PATCH", f"/v1/files/{file['id']}", {"modified_at": "2001-02-03T04:05:06Z"})
    await ann("PATCH", f"/v1/files/{file['id']}", {"parent_id": folder["id"]})
    await ann("DELETE", f"/v1/files/{file['id']}")
    answer = await ann("GET", "/v1/changes", params={"cursor": cursor, "limit": 4})
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Vary"] == "Authorization"
    first = answer.json
    assert first["has_more"] is True
    second = (await ann("GET", "/v1/changes", params={"cursor": first["cursor"]})).json
    assert second["has_more"] is False
    found = first["changes"] + second["changes"]
    assert [(change["change"], change["id"], change["kind"]) for change in found] == [
        ("created", folder["id"], "folder"),
        ("created", file["id"], "file"),
        ("moved", file["id"], "file"),
        ("updated", file["id"], "file"),
        ("moved", file["id"], "file"),
        ("trashed", file["id"], "file"),
    ]
    assert found[0]["entry"] == (await ann("GET", f"/v1/files/{folder['id']}")).json
    assert all("entry" not in change for change in found[1:])
    assert await cursor_of(ann) == second["cursor"]


async def test_cursors_that_do_not_fit_are_refused(ann: Person, bob: Person) -> None:
    await make(ann, "a")
    foreign = await ann("GET", "/v1/changes", params={"cursor": await cursor_of(bob)})
    assert (foreign.status, foreign.json["code"]) == (410, "cursor_reset")
    for query in ({"cursor": "x"}, {"cursor": "x" * 65}, {"wait": -1}, {"wait": "1.5"}, {"limit": 0}, {"limit": 1001}):
        answer = await ann("GET", "/v1/changes", params=query)
        assert answer.status == 422, query
        assert answer.json["field"] == next(iter(query))


async def test_a_poll_is_answered_by_the_change_that_it_waits_for(site: Site, ann: Person, bob: Person) -> None:
    cursor = await cursor_of(ann)
    async with begun(ann, "/v1/changes", cursor=cursor, wait=50) as poll:
        await waiting(site, 1)
        await make(bob, "of no concern")
        folder = await make(ann, "folder")
        answer = await answer_of(poll)
    assert [change["id"] for change in answer.json["changes"]] == [folder["id"]]
    assert len(site.drive.watch) == 0
    again = await ann("GET", "/v1/changes", params={"cursor": cursor, "wait": 50})
    assert again.json == answer.json


async def test_a_poll_is_answered_by_changes_of_several_transactions(site: Site, ann: Person) -> None:
    folder, cursor = await make(ann, "folder"), await cursor_of(ann)
    async with begun(ann, "/v1/changes", cursor=cursor, wait=50) as poll:
        await waiting(site, 1)
        copied = await ann("POST", f"/v1/files/{folder['id']}/copy", {"name": "copy"})
        (change,) = (await answer_of(poll)).json["changes"]
        assert (change["change"], change["id"]) == ("created", copied.json["id"])
    async with begun(ann, "/v1/changes", cursor=await cursor_of(ann), wait=50) as poll:
        await waiting(site, 1)
        await ann("POST", "/v1/batch", {"operations": [{"op": "trash", "id": folder["id"]}]})
        assert [change["change"] for change in (await answer_of(poll)).json["changes"]] == ["trashed"]


async def test_a_poll_without_a_change_is_answered_after_the_longest_wait(
    site: Site, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LONGEST_WAIT", 0.05)
    cursor = await cursor_of(ann)
    answer = await ann("GET", "/v1/changes", params={"cursor": cursor, "wait": 10**6})
    assert answer.json == {"changes": [], "cursor": cursor, "has_more": False}
    assert len(site.drive.watch) == 0


async def test_a_poll_ends_by_the_change_of_another_process_of_which_no_news_came(site: Site, ann: Person) -> None:
    cursor, owner = await cursor_of(ann), await user_id(ann)
    async with begun(ann, "/v1/changes", cursor=cursor, wait=50) as poll:
        await waiting(site, 1)
        await site.drive.watch.look(site.drive.metadata, site.drive.auth)
        await make_unnoticed(site, owner, "far")
        await site.drive.watch.look(site.drive.metadata, site.drive.auth)
        assert [change["entry"]["name"] for change in (await answer_of(poll)).json["changes"]] == ["far"]


@pytest.mark.parametrize("how", ["log out", "disable"])
async def test_who_loses_the_session_waits_no_more(site: Site, ann: Person, bob: Person, how: str) -> None:
    cursors = {person: await cursor_of(person) for person in (ann, bob)}
    async with begun(bob, "/v1/changes", cursor=cursors[bob], wait=50) as other:
        async with begun(ann, "/v1/changes", cursor=cursors[ann], wait=50) as poll:
            await waiting(site, 2)
            if how == "disable":
                await site.drive.auth.ask(SetUserState(SYSTEM, await user_id(ann), UserState.DISABLED))
            else:
                await ann("POST", "/v1/logout")
            await site.drive.watch.look(site.drive.metadata, site.drive.auth)
            answer = await answer_of(poll)
            assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
        assert not other.done()


async def test_a_client_that_leaves_is_waited_for_no_more(site: Site, ann: Person) -> None:
    cursor = await cursor_of(ann)
    async with begun(ann, "/v1/changes", cursor=cursor, wait=50):
        await waiting(site, 1)
    await waiting(site, 0)
    async with events(ann, cursor=cursor):
        await waiting(site, 1)
    await waiting(site, 0)


async def test_a_server_that_stops_answers_at_once(
    open_site: OpenSite, http: aiohttp.ClientSession, stack: AsyncExitStack
) -> None:
    async with open_site() as site:
        ann = await Person(http, site.url).enter()
        cursor = await cursor_of(ann)
        poll = asyncio.create_task(ann("GET", "/v1/changes", params={"cursor": cursor, "wait": 50}))
        stream = await stack.enter_async_context(events(ann, cursor=cursor))
        await waiting(site, 2)
    answer = await answer_of(poll)
    assert (answer.status, answer.json["changes"], answer.json["cursor"]) == (200, [], cursor)
    assert await stream.block() == {}


async def test_one_user_has_few_waiting_requests_and_all_users_together_have_some(
    open_site: OpenSite, http: aiohttp.ClientSession
) -> None:
    async with open_site(server={"max_waiting": 3, "max_waiting_per_user": 2}) as site:
        ann, bob = await Person(http, site.url).enter(), await Person(http, site.url).enter("bob@example.org")
        cursors = {person: await cursor_of(person) for person in (ann, bob)}
        async with begun(ann, "/v1/changes", cursor=cursors[ann], wait=50), events(ann):
            await waiting(site, 2)
            refused = await ann("GET", "/v1/events")
            assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
            async with begun(bob, "/v1/changes", cursor=cursors[bob], wait=50):
                await waiting(site, 3)
                assert (await bob("GET", "/v1/changes", params={"cursor": cursors[bob], "wait": 9})).status == 429
                assert (await bob("GET", "/v1/changes", params={"cursor": cursors[bob]})).status == 200
        await waiting(site, 0)
        await make(ann, "folder")
        assert (await ann("GET", "/v1/changes", params={"cursor": cursors[ann], "wait": 9})).status == 200


async def test_requests_that_wait_take_no_slot_of_those_that_read(
    open_site: OpenSite, http: aiohttp.ClientSession
) -> None:
    """One user has at most 32 slots for reads at once."""
    async with open_site(server={"max_waiting_per_user": 80}) as site:
        ann = await Person(http, site.url).enter()
        cursor = await cursor_of(ann)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many:
            other = Person(many, site.url)
            other.token = ann.token
            polls = [
                asyncio.create_task(other("GET", "/v1/changes", params={"cursor": cursor, "wait": 50}))
                for _ in range(70)
            ]
            await waiting(site, 70)
            assert (await ann("GET", "/v1/files")).status == 200
            await make(ann, "folder")
            assert {len((await answer_of(poll)).json["changes"]) for poll in polls} == {1}


# Streams


class Events:
    """The events of a stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def block(self) -> dict[str, str]:
        """The fields of the next event or comment; empty at the end."""
        fields: dict[str, str] = {}
        with anyio.fail_after(30):
            while line := (await self.response.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                fields[name] = value
        return fields

    async def next(self) -> tuple[str, str, Json]:
        """The name, the id and the data of the next event."""
        fields = await self.block()
        return fields["event"], fields["id"], json.loads(fields["data"])


@asynccontextmanager
async def events(person: Person, headers: dict[str, str] | None = None, **params: Any) -> AsyncIterator[Events]:
    """Follow the changes, after the first block of the stream."""
    shown = {"Authorization": f"Bearer {person.token}", **(headers or {})}
    async with person.http.get(f"{person.url}/v1/events", params=params, headers=shown) as response:
        assert response.status == 200
        stream = Events(response)
        assert await stream.block() == {"retry": "3000"}
        yield stream


async def test_a_stream_tells_each_change_with_its_cursor(ann: Person) -> None:
    cursor = await cursor_of(ann)
    before = await make(ann, "before")
    async with events(ann, cursor=cursor) as stream:
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Cache-Control"] == "no-store"
        name, first, data = await stream.next()
        assert (name, data) == ("change", {"change": "created", "id": before["id"], "kind": "folder", "entry": before})
        after = await make(ann, "after \u2028 line")
        name, second, data = await stream.next()
        assert data["entry"]["name"] == after["name"]
    assert await cursor_of(ann) == second
    async with events(ann, {"Last-Event-ID": first}, cursor=cursor) as stream:
        assert (await stream.next())[1] == second
    async with events(ann) as stream:
        latest = await make(ann, "latest")
        assert (await stream.next())[2]["id"] == latest["id"]


async def test_a_stream_from_a_cursor_that_is_too_old_says_so_and_goes_on_from_now(ann: Person, bob: Person) -> None:
    await make(bob, "a")
    async with events(ann, {"Last-Event-ID": await cursor_of(bob)}) as stream:
        name, cursor, data = await stream.next()
        assert (name, data["code"]) == ("cursor_reset", "cursor_reset")
        assert cursor == await cursor_of(ann)
        folder = await make(ann, "folder")
        assert (await stream.next())[2]["id"] == folder["id"]


async def test_a_stream_is_refused_like_any_request(ann: Person, stranger: Person) -> None:
    assert (await stranger("GET", "/v1/events")).status == 401
    refused = await ann("GET", "/v1/events", params={"cursor": "x"})
    assert (refused.status, refused.json["field"]) == (422, "cursor")
    refused = await ann("GET", "/v1/events", headers={"Last-Event-ID": "x"})
    assert (refused.status, refused.json["field"]) == (422, "Last-Event-ID")
    head = await ann("HEAD", "/v1/events")
    assert (head.status, head.content, head.headers["Content-Type"]) == (200, b"", "text/event-stream")


async def test_a_silent_stream_is_kept_alive_until_the_token_expires(
    site: Site, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEEP_ALIVE", 0.02)
    async with events(ann) as stream:
        assert await stream.block() == {"": "keep-alive"}
        assert await stream.block() == {"": "keep-alive"}
        site.clock.advance(901)
        while block := await stream.block():
            assert block == {"": "keep-alive"}
    await waiting(site, 0)


async def test_a_stream_ends_with_its_session(site: Site, ann: Person) -> None:
    async with events(ann) as stream:
        await waiting(site, 1)
        await ann("POST", "/v1/logout")
        await site.drive.watch.look(site.drive.metadata, site.drive.auth)
        assert await stream.block() == {}


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_cut_off_and_holds_little_memory(
    site: Site, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "STALLED", 0.5)
    cursor = await cursor_of(ann)
    owner = await user_id(ann)
    await asyncio.gather(*(make_unnoticed(site, owner, f"{number} " + "日" * 240) for number in range(1000)))
    client = socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2])))
    with client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"GET /v1/events?cursor={cursor} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n\r\n"
        await asyncio.to_thread(client.sendall, head.encode())
        await waiting(site, 1)
        most = 0
        with anyio.fail_after(30):
            while len(site.drive.watch):
                most = max(most, site.drive.memory.held)
                await anyio.sleep(0.01)
        assert 0 < most < 500_000
