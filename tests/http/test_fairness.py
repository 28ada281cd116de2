"""Users who ask for much: how many of their requests are served before one of a quiet user.

What the heavy users ask of an actor is held, so the order of events is fixed and no clock is read.
``scripts/bench fairness`` measures the same in milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
from anyio.abc import TaskGroup

from godrive.http.observe.recent import Recent
from godrive.http.wire import fair_queue
from godrive.http.wire.fair_queue import LARGE_READS, REPORTS, FairQueue
from tests.cases import each
from tests.http.client import Person, Site
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio

Request = tuple[int, str, str, Any]

SLOTS = 8
"""Of the lanes that have many; a user with thousands of requests and one with a dozen fill these alike."""

INTENT = {"filename": "a.txt", "size_bytes": 1, "on_conflict": "rename"}
LANES: dict[str, Request] = {
    "lists": (SLOTS, "GET", "/v1/files?limit=20", None),
    "long lists": (LARGE_READS, "GET", "/v1/files?limit=1000", None),
    "filters": (LARGE_READS, "GET", "/v1/files?q=nnnnz", None),
    "searches": (LARGE_READS, "GET", "/v1/search?type=image", None),
    "intents": (SLOTS, "POST", "/v1/files/upload-intent", INTENT),
}
REPORT_LANES: dict[str, Request] = {
    "metrics": (REPORTS, "GET", "/metrics", None),
    "readiness": (REPORTS, "GET", "/readyz", None),
}
"""The slots of a lane, and a request that takes one of them: of a user, and of anyone."""

MORE = 4
"""Requests of a heavy user beside those that have a slot."""


class Rush:
    """Heavy users, whose requests are held where they ask an actor, and let go one at a time."""

    def __init__(self, http: aiohttp.ClientSession, tasks: TaskGroup) -> None:
        self.http = http
        self._tasks = tasks
        self._held: list[asyncio.Future[None]] = []
        self._changed = asyncio.Event()
        self._ended = False
        self.heavy: set[str] = set()
        self.queued = 0
        self.served = 0
        """Requests of heavy users that were served, and gave their slot back."""
        self.served_before: dict[str, int] = {}
        """How many these were when the first request of another user had a slot."""

    @property
    def held(self) -> int:
        """How many requests have a slot, and wait in it."""
        return len(self._held)

    async def next_change(self) -> None:
        """Wait until one more request is held, queued or served."""
        await self._changed.wait()
        self._changed.clear()

    def queue(self) -> None:
        """Note that one more request waits for a slot."""
        self.queued += 1
        self._changed.set()

    async def serve(self, user_id: str | None, *, report: bool = False) -> None:
        """Hold what a heavy user asks; note that another user has a slot."""
        if self._ended:
            return
        if report or user_id in self.heavy:
            turn = asyncio.get_running_loop().create_future()
            self._held.append(turn)
            self._changed.set()
            await turn
        elif user_id is not None:
            self.served_before.setdefault(user_id, self.served)
            self._changed.set()

    def let_go(self) -> None:
        """Let go what has been held for longest."""
        self._held.pop(0).set_result(None)

    def end(self) -> None:
        """Hold no request any more."""
        self._ended = True
        while self._held:
            self.let_go()

    async def begin(self, person: Person, count: int, request: Request) -> None:
        """Keep *count* requests of one user under way; returns when each is held or queued."""
        _, *call = request
        expected = self.held + self.queued + count

        async def again() -> None:
            while True:
                await person(*call)

        for _ in range(count):
            self._tasks.start_soon(again)
        while self.held + self.queued < expected:
            await self.next_change()


@asynccontextmanager
async def rush(site: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rush]:
    """Observe the requests that take a slot, those that queue for one, and those that go on to an actor."""
    metadata, get = site.drive.metadata, Recent.get
    wait, leave = FairQueue.wait, FairQueue.leave
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        anyio.create_task_group() as tasks,
    ):
        found = Rush(http, tasks)

        class Observed:
            async def ask(self, message: Any, **options: Any) -> Any:
                await found.serve(getattr(getattr(message, "by", None), "user_id", None))
                return await metadata.ask(message, **options)

        async def observed_get(self: Recent[Any]) -> Any:
            await found.serve(None, report=True)
            return await get(self)

        async def observed_wait(self: FairQueue, key: Any) -> None:
            found.queue()
            try:
                await wait(self, key)
            finally:
                found.queued -= 1

        def observed_leave(self: FairQueue, key: Any) -> None:
            found.served += key in found.heavy
            leave(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(site.drive, "metadata", Observed())
            patch.setattr(Recent, "get", observed_get)
            patch.setattr(FairQueue, "wait", observed_wait)
            patch.setattr(FairQueue, "leave", observed_leave)
            try:
                yield found
            finally:
                tasks.cancel_scope.cancel()
                found.end()


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make lanes that a dozen requests fill."""
    monkeypatch.setattr(fair_queue, "READS", SLOTS)
    monkeypatch.setattr(fair_queue, "WRITES", SLOTS)


async def user(http: aiohttp.ClientSession, site: Site, name: str) -> tuple[Person, str]:
    """Somebody with an account, and their id."""
    person = await Person(http, site.url).enter(f"{name}@example.org")
    return person, (await person("GET", "/v1/me")).json["id"]


@each("kind", [*LANES, *REPORT_LANES])
async def test_a_user_waits_for_none_of_the_requests_that_another_fills_a_lane_with(
    http: aiohttp.ClientSession, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    request = (LANES | REPORT_LANES)[kind]
    slots = request[0]
    async with open_site() as site, rush(site, monkeypatch) as crowd:
        quiet, quiet_id = await user(http, site, "quiet")
        heavy, heavy_id = await user(crowd.http, site, "heavy")
        crowd.heavy.add(heavy_id)
        await crowd.begin(heavy, slots // 2 + MORE, request)
        assert (crowd.held, crowd.queued) == (slots // 2, MORE)
        with anyio.fail_after(30):
            for _, *call in LANES.values():
                assert (await quiet(*call)).status == 200
        assert crowd.served_before == {quiet_id: 0}
        assert (crowd.held, crowd.queued, crowd.served) == (slots // 2, MORE, 0)


@each("kind", LANES)
@pytest.mark.slow
async def test_a_user_waits_for_one_request_of_each_of_those_who_fill_a_lane_together(
    http: aiohttp.ClientSession, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    request = LANES[kind]
    slots, *call = request
    async with open_site() as site, rush(site, monkeypatch) as crowd:
        quiet, quiet_id = await user(http, site, "quiet")
        heavy = [await user(crowd.http, site, f"heavy-{number}") for number in range(3)]
        for person, user_id in heavy:
            crowd.heavy.add(user_id)
            await crowd.begin(person, slots // 2 + MORE, request)
        waiting = crowd.queued
        assert (crowd.held, waiting) == (slots, slots // 2 + 3 * MORE)
        answer = asyncio.ensure_future(quiet(*call))
        with anyio.fail_after(30):
            while crowd.queued == waiting:
                await crowd.next_change()
            while quiet_id not in crowd.served_before:
                crowd.let_go()
                while crowd.held < slots and quiet_id not in crowd.served_before:
                    await crowd.next_change()
                assert crowd.served <= len(heavy) + 1  # the last of them gave its slot
            assert (await answer).status == 200
