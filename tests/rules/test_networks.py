"""Networks that sessions of an account came from: kept for 30 days, and no longer than the account."""

from __future__ import annotations

import pytest

from godrive.messages.system import Prune
from godrive.model import UserId
from godrive.rules import networks, sessions, users
from tests.contracts.rig import Rig

pytestmark = pytest.mark.anyio

DAY = 86_400.0


async def begin(rig: Rig, owner: UserId, address: str, *, forwarded: bool = False) -> None:
    await rig.write(sessions.begin, owner, now=rig.now, ttl=90 * DAY, address=address, forwarded=forwarded)


async def known(rig: Rig, owner: UserId, address: str) -> bool:
    return await rig.read(networks.is_known, owner, address, now=rig.now)


@pytest.mark.parametrize(
    ("address", "client", "customer"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002", "2001:0db8:0001"),
        ("2001:DB8:1:2::", "2001:0db8:0001:0002", "2001:0db8:0001"),
        ("fe80::1%eth0", "fe80:0000:0000:0000", "fe80:0000:0000"),
        ("not an address", "not an address", "not an address"),
        ("", "", ""),
    ],
)
def test_an_address_stands_for_a_client_and_for_a_customer(address: str, client: str, customer: str) -> None:
    assert networks.networks(address) == (client, customer)
    assert networks.network(address) == client


async def test_a_network_is_known_for_30_days_after_its_last_use(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    session = await rig.write(sessions.begin, owner, now=rig.now, ttl=90 * DAY, address="2001:db8::1")
    rig.clock.advance(20 * DAY)
    assert await rig.write(sessions.refresh, owner, session.id, 0, now=rig.now, ttl=90 * DAY, address="192.0.2.7")
    assert await known(rig, owner, "2001:db8::ffff:2")
    assert await known(rig, owner, "::ffff:192.0.2.7")
    assert not await known(rig, owner, "192.0.2.8")
    assert not await known(rig, other, "192.0.2.7")
    rig.clock.advance(10 * DAY)
    assert not await known(rig, owner, "2001:db8::1")
    assert await known(rig, owner, "192.0.2.7")


async def test_a_network_stays_known_when_its_session_ends(rig: Rig) -> None:
    owner = await rig.user()
    await begin(rig, owner, "192.0.2.1")
    await rig.write(sessions.end_all, owner)
    assert await known(rig, owner, "192.0.2.1")


async def test_a_client_without_an_address_is_never_known(rig: Rig) -> None:
    owner = await rig.user()
    await begin(rig, owner, "")
    assert not await known(rig, owner, "")


async def test_the_record_is_pruned_and_goes_with_its_user(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await begin(rig, owner, "192.0.2.1")
    await begin(rig, other, "192.0.2.1")
    await rig.write(users.delete, other, now=rig.now)
    rig.clock.advance(20 * DAY)
    await begin(rig, owner, "192.0.2.2")
    rig.clock.advance(11 * DAY)
    await rig.ask(Prune(limit=10))
    left = await rig.read(lambda tx: tx.all("SELECT user_id, network FROM session_networks"))
    assert [tuple(row) for row in left] == [(owner, "192.0.2.2")]


async def test_only_the_networks_used_last_are_kept(rig: Rig) -> None:
    owner = await rig.user()
    for number in range(networks.MOST + 6):
        rig.clock.advance(1)
        await begin(rig, owner, f"192.0.2.{number}")
    kept = [await known(rig, owner, f"192.0.2.{number}") for number in range(networks.MOST + 6)]
    assert kept == [False] * 6 + [True] * networks.MOST


async def test_a_network_of_many_accounts_behind_an_untrusted_proxy_is_reported(rig: Rig) -> None:
    for number in range(networks.MANY_ACCOUNTS):
        assert await rig.read(networks.shared, now=rig.now) == []
        assert not await rig.read(networks.is_shared, "10.0.0.1")
        owner = await rig.user()
        await begin(rig, owner, "10.0.0.1", forwarded=True)
        await begin(rig, owner, "10.0.0.1", forwarded=True)
        await begin(rig, owner, "10.0.0.2")
        await begin(rig, owner, f"10.0.1.{number}", forwarded=True)
    assert await rig.read(networks.shared, now=rig.now) == [("10.0.0.1", networks.MANY_ACCOUNTS)]
    assert await rig.read(networks.is_shared, "::ffff:10.0.0.1")
    rig.clock.advance(31 * DAY)
    assert await rig.read(networks.shared, now=rig.now) == []


@pytest.mark.parametrize(
    ("address", "ranges", "within"),
    [
        ("10.0.0.1", [], False),
        ("10.0.0.1", ["192.0.2.0/24", "10.0.0.0/8"], True),
        ("10.0.0.1", ["::ffff:10.0.0.1"], True),
        ("10.0.0.1", ["::1", "2001:db8::/32", "10.0.0.2"], False),
        ("2001:db8::1", ["2001:db8::1"], True),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("2001:db8::1", ["2001:db9::/32", "10.0.0.1"], False),
        ("not an address", ["0.0.0.0/0", "::/0"], False),
    ],
)
def test_a_network_lies_within_ranges(address: str, ranges: list[str], within: bool) -> None:
    assert networks.is_within(networks.network(address), ranges) == within
