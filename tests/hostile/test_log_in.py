"""Attackers at the log-in: they guess, they lock out, they crowd; and the owner of the account gets in all the same.

The attackers come from addresses of their own, which the loopback network has many of.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.http.client import Answer, Person, Site
from tests.http.conftest import _open_site

pytestmark = pytest.mark.anyio

ANN = {"email": "ann@example.org", "password": "correct horse"}
LIMITS = {"attempts_per_address": 30, "attempts_per_account": 10}


class Street:
    """People at addresses of their own, before one server."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self.site = site
        self._stack = stack
        self._people: dict[str, Person] = {}

    async def at(self, address: str) -> Person:
        """Somebody at that address."""
        if address not in self._people:
            connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
            http = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            self._people[address] = Person(http, self.site.url)
        return self._people[address]

    async def log_in(self, address: str, body: dict[str, str] = ANN, **options: Any) -> Answer:
        return await (await self.at(address))("POST", "/v1/login", body, **options)

    async def guess(self, address: str, email: str = ANN["email"], **options: Any) -> int:
        """Try a wrong password; the status of the answer."""
        return (await self.log_in(address, {"email": email, "password": "wrong horse"}, **options)).status


@asynccontextmanager
async def street(**auth: Any) -> AsyncIterator[Street]:
    async with AsyncExitStack() as stack, _open_site(auth=LIMITS | auth) as site:
        made = Street(site, await stack.enter_async_context(AsyncExitStack()))
        assert (await (await made.at("127.0.0.1"))("POST", "/v1/signup", ANN)).status == 201
        yield made


def tell(what: str, tried: Counter[int]) -> None:
    print(f"{what}: {', '.join(f'{count} times {status}' for status, count in sorted(tried.items()))}")


@pytest.mark.parametrize("shared", [False, True])
async def test_one_attacker_who_never_stops_keeps_the_owner_out_from_nowhere(shared: bool) -> None:
    async with street() as at:
        assert (await at.log_in("127.0.0.1")).status == 200
        tried, owner = Counter[int](), Counter[int]()
        for number in range(120):
            tried[await at.guess("127.0.0.1" if shared else "127.0.0.66")] += 1
            if number % 8 == 0:
                owner[(await at.log_in(f"127.0.1.{number}")).status] += 1
                owner[(await at.log_in("127.0.0.1")).status] += 1
            at.site.clock.advance(5.5)
        tell(f"one wrong password every 5.5 s, {'beside the owner' if shared else 'from elsewhere'}", tried)
    assert owner == {200: 30}
    assert tried == ({401: 120} if shared else {401: 110, 429: 10})


async def test_many_attackers_guess_no_faster_than_three_and_delay_only_strangers() -> None:
    async with street() as at:
        owner = await at.at("127.0.0.1")
        owner.token = (await at.log_in("127.0.0.1")).json["token"]
        guesses = [at.guess(f"127.0.2.{host}") for _ in range(5) for host in range(1, 41)]
        tried = Counter(await asyncio.gather(*guesses))
        tell("40 addresses, 5 guesses each, at once", tried)
        assert tried == {401: 30, 429: 170}
        assert (await at.log_in("127.0.0.1")).status == 200
        assert (await owner("GET", "/v1/me")).status == 200
        assert (await owner("PATCH", "/v1/me", {"current_password": ANN["password"], "email": "b@c.d"})).status == 200
        stranger = await at.log_in("127.0.3.1", {**ANN, "email": "b@c.d"})
        assert stranger.status == 200  # the attack is on another address
        refused = await at.log_in("127.0.3.1")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "60")


async def test_one_address_that_tries_many_accounts_is_stopped_and_its_neighbours_get_in() -> None:
    async with street() as at:
        assert (await at.log_in("127.0.0.66")).status == 200  # Ann has been there before
        emails = [f"user{number}@example.org" for number in range(100)]
        tried = Counter([await at.guess("127.0.0.66", email) for email in emails])
        tell("one password for 100 accounts from one address", tried)
        assert tried == {401: 30, 429: 70}
        assert (await at.log_in("127.0.0.66")).status == 200


async def test_forged_headers_and_spellings_are_no_new_addresses_and_accounts() -> None:
    async with street() as at:
        tried = Counter[int]()
        for number in range(40):
            email = "".join(c.upper() if number >> i & 1 else c for i, c in enumerate(ANN["email"]))
            names = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "CF-Connecting-IP", "True-Client-IP")
            headers = dict.fromkeys(names, f"203.0.113.{number}") | {"User-Agent": f"browser {number}"}
            tried[await at.guess("127.0.0.66", f" {email} ", headers=headers)] += 1
        tell("another header and another spelling each time", tried)
        assert tried == {401: 10, 429: 30}


async def test_a_crowd_of_right_log_ins_from_one_address_keeps_nobody_waiting_in_line() -> None:
    async with street(hash_threads=1, hash_waiting=4, bcrypt_cost=9) as at:
        eve = {"email": "eve@example.org", "password": "correct horse"}
        assert (await (await at.at("127.0.0.66"))("POST", "/v1/signup", eve)).status == 201
        crowd = [asyncio.create_task(at.log_in("127.0.0.66", eve)) for _ in range(40)]
        done, _ = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
        assert done  # the line is full, and the rest is turned away or waits
        owner = [(await at.log_in(f"127.0.1.{number}")).status for number in range(1, 4)]
        tried = Counter([answer.status for answer in await asyncio.gather(*crowd)])
        tell("40 right log-ins at once from one address", tried)
        assert owner == [200] * 3
        assert tried[429] > 0
