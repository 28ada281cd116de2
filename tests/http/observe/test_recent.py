"""Costly questions that anyone may ask: asked seldom, once for all, and never waited for long."""

from __future__ import annotations

import aiohttp
import anyio
import pytest

from godrive.drive import GoDrive
from godrive.http.observe.recent import Recent
from godrive.http.routes import health
from tests.http.client import Person
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio


class Oracle:
    """Counts how often it is asked; answers once it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = anyio.Event()

    async def __call__(self) -> int:
        self.asked += 1
        await self.may_answer.wait()
        return self.asked


async def test_a_crowd_that_asks_at_once_is_one_question() -> None:
    oracle = Oracle()
    recent = Recent(oracle, every=60, patience=0.01)
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await recent.get())

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        oracle.may_answer.set()
    assert answers == [1] * 50
    assert await recent.get() == 1
    assert oracle.asked == 1


async def test_an_old_answer_is_given_while_a_new_one_takes_long() -> None:
    oracle = Oracle()
    oracle.may_answer.set()
    recent = Recent(oracle, every=0, patience=0.01)
    assert await recent.get() == 1
    oracle.may_answer = anyio.Event()
    assert [await recent.get() for _ in range(3)] == [1, 1, 1]
    assert oracle.asked == 2
    oracle.may_answer.set()
    assert await recent.get() == 2
    oracle.may_answer = anyio.Event()
    assert await recent.get() == 2
    await recent.close()
    await recent.close()


async def test_who_asks_and_leaves_takes_the_answer_from_nobody() -> None:
    oracle = Oracle()
    recent = Recent(oracle, every=60, patience=0.01)
    with anyio.move_on_after(0.01):
        await recent.get()
    oracle.may_answer.set()
    assert await recent.get() == 1
    assert oracle.asked == 1


async def test_scrapers_and_probes_ask_the_drive_once(
    http: aiohttp.ClientSession, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def count(_drive: GoDrive) -> dict[str, int]:
        asked.append("count")
        return {"pending": 7}

    async def check(_drive: GoDrive) -> dict[str, str]:
        asked.append("check")
        return {"catalog": "ok"}

    monkeypatch.setattr(health, "_count_uploads", count)
    monkeypatch.setattr(health, "check", check)
    monkeypatch.setattr(health, "CHECK_EVERY", 600.0)
    monkeypatch.setattr(health, "COUNT_EVERY", 600.0)
    async with open_site() as site:
        stranger = Person(http, site.url)
        for _ in range(20):
            assert b'godrive_uploads{state="pending"} 7.0' in (await stranger("GET", "/metrics")).content
            assert (await stranger("GET", "/readyz")).json["checks"] == {"catalog": "ok"}
    assert sorted(asked) == ["check", "count"]


@pytest.mark.parametrize("token", ["s3cret", ""])
async def test_the_metrics_ask_for_their_token(http: aiohttp.ClientSession, open_site: OpenSite, token: str) -> None:
    async with open_site(server={"metrics_token": token}) as site:
        stranger = Person(http, site.url)
        for header, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer s3cret"}, 200),
            ({"Authorization": aiohttp.encode_basic_auth("prometheus", "s3cret")}, 200),
        ):
            answer = await stranger("GET", "/metrics", headers=header)
            assert answer.status == (status if token else 200)
        in_query = await stranger("GET", "/metrics?token=s3cret")  # which proxies may log
        assert in_query.status == (401 if token else 200)
        assert (await stranger("GET", "/readyz")).status == 200
