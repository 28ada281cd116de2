"""A store that goes away and comes back: the real gateway, killed, frozen and started again.

The gateway is this module's own: for half a minute after a kill Ceph's other
gateways wait for the dead one whenever a bucket is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import anyio
import pytest

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.breaker import OPEN_FOR
from godrive.blobs.s3.client import DEADLINE
from godrive.clock import SystemClock
from godrive.config import S3
from godrive.errors import NotFound, StoreUnavailable
from godrive.model import ObjectKey, new_id
from godrive.runtime import Ask
from tests.ceph import ProbedOnce, own_bucket
from tests.conftest import require
from tests.noise import noise
from tests.servers import CephGateway

pytestmark = pytest.mark.anyio


class AheadClock(SystemClock):
    """The real clock, but for the intervals, which pass when a test lets them."""

    ahead = 0.0

    def monotonic(self) -> float:
        return self.ahead


def new_key() -> ObjectKey:
    name = new_id()
    return ObjectKey(f"{name[:8]}/{name}")


async def pieces(data: bytes, length: int = 1024 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


@pytest.fixture(scope="module")
def gateway(own_servers: None) -> Iterator[CephGateway]:
    require(CephGateway)
    with CephGateway() as server:
        yield server


@pytest.fixture(scope="module")
def settings(gateway: CephGateway) -> S3:
    """A bucket that is there before anything is killed."""
    settings = own_bucket(gateway)

    async def make_bucket() -> None:
        store = ProbedOnce(settings)
        await store.open()
        await store.close()

    asyncio.run(make_bucket())
    return settings


@pytest.fixture
def clock() -> AheadClock:
    return AheadClock()


@pytest.fixture
async def store(settings: S3, gateway: CephGateway, clock: AheadClock) -> AsyncIterator[S3BlobStore]:
    store = ProbedOnce(settings, clock=clock, deadline=2.0)
    await store.open()
    yield store
    gateway.thaw()
    gateway.start()
    await store.close()


@pytest.mark.servers
async def test_a_dead_store_is_unavailable_and_back_at_once(
    store: S3BlobStore, gateway: CephGateway, clock: AheadClock
) -> None:
    key = new_key()
    await store.put(key, pieces(b"kept"))
    gateway.kill9()
    for _ in range(4):
        with pytest.raises(StoreUnavailable) as refusal:
            await store.head(key)
        assert refusal.value.retry_after
    gateway.start()
    clock.ahead += OPEN_FOR
    assert (await store.head(key)).size_bytes == 4


@pytest.mark.servers
async def test_nothing_piles_up_in_front_of_a_frozen_store(
    store: S3BlobStore, gateway: CephGateway, clock: AheadClock
) -> None:
    gateway.freeze()
    with anyio.fail_after(60):  # a deadline, not one after another
        first = await asyncio.gather(*(store.head(new_key()) for _ in range(100)), return_exceptions=True)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in first)
    rest = await asyncio.gather(*(store.head(new_key()) for _ in range(1000)), return_exceptions=True)
    assert {str(outcome) for outcome in rest} == {"The store does not answer."}  # and not after how many seconds
    gateway.thaw()
    clock.ahead += OPEN_FOR
    with pytest.raises(NotFound):
        await store.head(new_key())


@pytest.mark.servers
async def test_while_the_store_is_down_one_request_at_a_time_tries_it(
    store: S3BlobStore, gateway: CephGateway, clock: AheadClock
) -> None:
    gateway.kill9()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.head(new_key())
    clock.ahead += OPEN_FOR
    outcomes = await asyncio.gather(*(store.head(new_key()) for _ in range(20)), return_exceptions=True)
    tried = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable) and outcome.__cause__]
    assert len(outcomes) == 20
    assert len(tried) == 1


@pytest.mark.servers
async def test_a_put_into_a_dead_store_fails_and_its_retry_succeeds(
    store: S3BlobStore, gateway: CephGateway, clock: AheadClock
) -> None:
    key, data = new_key(), noise(20 * 1024 * 1024)

    async def dies_on_the_way() -> AsyncIterator[bytes]:
        async for piece in pieces(data):
            yield piece
            if gateway.process is not None and gateway.process.running and store.receiving(key) == 12 * 1024 * 1024:
                gateway.kill9()

    with pytest.raises(StoreUnavailable):
        await store.put(key, dies_on_the_way(), size=len(data))
    gateway.start()
    clock.ahead += OPEN_FOR
    assert (await store.put(key, pieces(data), size=len(data))).size_bytes == len(data)


async def test_a_short_outage_is_not_even_noticed(store: S3BlobStore, gateway: CephGateway) -> None:
    key = new_key()
    await store.put(key, pieces(b"x"))
    gateway.kill9()
    gateway.start()  # every pooled connection is dead now
    assert (await store.head(key)).size_bytes == 1


@pytest.mark.servers
async def test_a_download_that_breaks_off_goes_on_where_it_was(settings: S3, gateway: CephGateway) -> None:
    store = ProbedOnce(settings)
    await store.open()
    data, key = noise(48 * 1024 * 1024), new_key()
    await store.put(key, pieces(data))
    async with aclosing(store.get(key)) as body:  # type: ignore[type-var]
        received = [await anext(body)]
        gateway.kill9()
        gateway.start()
        received += [piece async for piece in body]
    assert b"".join(received) == data
    await store.close()


@pytest.mark.servers
async def test_a_store_that_is_down_at_the_start_is_unavailable_not_misconfigured(
    settings: S3, gateway: CephGateway
) -> None:
    gateway.kill9()
    store = S3BlobStore(settings, deadline=1.0)
    try:
        with pytest.raises(StoreUnavailable):
            await store.open()
    finally:
        gateway.start()
        await store.close()


def test_who_asks_waits_long_enough_to_hear_that_the_store_does_not_answer() -> None:
    assert Ask.timeout > DEADLINE
