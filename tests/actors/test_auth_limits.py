"""RateLimiter within a window, and how old the knowledge of a session may be."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.actors.rate_limit import RateLimiter, network
from godrive.actors.session_cache import SessionCache
from godrive.errors import StoreUnavailable, TooManyRequests
from godrive.model import SessionId, UserId
from godrive.principal import UserSession
from godrive.testing import ManualClock

PRINCIPAL = UserSession(user_id=UserId("user"), session_id=SessionId("session"))


# RateLimiter


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60))
def test_attempts_are_those_of_the_last_window_and_the_wait_is_exact(steps: list[tuple[str, int]]) -> None:
    clock, made = ManualClock(), dict[str, list[float]]()
    attempts = RateLimiter(3, 60.0, clock)
    for key, pause in steps:
        clock.advance(pause)
        now = clock.monotonic()
        recent = [at for at in made.get(key, []) if at > now - 60]
        if len(recent) < 3:
            attempts.note(key)
            made[key] = [*recent, now]
        else:
            with pytest.raises(TooManyRequests) as caught:
                attempts.note(key)
            assert caught.value.retry_after == recent[0] + 60 - now


def test_attempt_is_free_after_the_time_that_was_said() -> None:
    clock = ManualClock()
    attempts = RateLimiter(1, 60.0, clock)
    attempts.note("a")
    clock.advance(17.25)
    with pytest.raises(TooManyRequests) as caught:
        attempts.note("a")
    assert caught.value.retry_after is not None
    clock.advance(caught.value.retry_after)
    attempts.note("a")


def test_attempt_taken_back_does_not_count() -> None:
    attempts = RateLimiter(1, 60.0, ManualClock())
    for _ in range(5):
        attempts.note("a")
        attempts.take_back("a")
    attempts.take_back("unknown")
    attempts.note("a")
    with pytest.raises(TooManyRequests):
        attempts.note("a")


def test_however_many_keys_there_are_only_so_many_are_remembered() -> None:
    attempts = RateLimiter(1, 60.0, ManualClock(), capacity=100)
    for number in range(1000):
        attempts.note(str(number))
    assert len(attempts) == 100
    with pytest.raises(TooManyRequests):
        attempts.note("999")


@pytest.mark.parametrize(
    ("address", "stands_for"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
        ("not an address", "not an address"),
    ],
)
def test_address_stands_for_the_network_of_one_customer(address: str, stands_for: str) -> None:
    assert network(address) == stands_for


# SessionCache


class Catalog:
    """Says whether the session is alive, once it is let."""

    def __init__(self) -> None:
        self.alive = True
        self.down = False
        self.reads = 0
        self.let = anyio.Event()
        self.let.set()

    async def read(self, principal: UserSession) -> bool:
        self.reads += 1
        alive = self.alive
        await self.let.wait()
        if self.down:
            raise StoreUnavailable
        return alive


@pytest.mark.anyio
async def test_session_is_asked_for_once_a_second() -> None:
    catalog, clock = Catalog(), ManualClock()
    liveness = SessionCache(catalog.read, clock)
    for _ in range(10):
        assert await liveness.check(PRINCIPAL)
        clock.advance(0.099)
    assert catalog.reads == 1
    clock.advance(0.02)
    assert await liveness.check(PRINCIPAL)
    assert catalog.reads == 2


@pytest.mark.anyio
async def test_answer_is_as_old_as_its_question() -> None:
    catalog, clock = Catalog(), ManualClock()
    liveness = SessionCache(catalog.read, clock)
    catalog.let = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(liveness.check, PRINCIPAL)
        await anyio.wait_all_tasks_blocked()
        clock.advance(1.0)
        catalog.let.set()
    assert not liveness.is_fresh(PRINCIPAL.session_id)


@pytest.mark.anyio
async def test_those_who_ask_at_once_share_one_read() -> None:
    catalog = Catalog()
    liveness = SessionCache(catalog.read, ManualClock())
    catalog.let = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(liveness.check, PRINCIPAL)
        await anyio.wait_all_tasks_blocked()
        catalog.let.set()
    assert catalog.reads == 1


@pytest.mark.anyio
async def test_one_who_leaves_takes_the_answer_from_nobody() -> None:
    catalog, answers = Catalog(), list[bool]()
    liveness = SessionCache(catalog.read, ManualClock())
    catalog.let = anyio.Event()

    async def stay() -> None:
        answers.append(await liveness.check(PRINCIPAL))

    async with anyio.create_task_group() as staying, anyio.create_task_group() as leaving:
        leaving.start_soon(liveness.check, PRINCIPAL)
        await anyio.wait_all_tasks_blocked()
        staying.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
        catalog.let.set()
    assert answers == [True]
    assert catalog.reads == 1


@pytest.mark.anyio
@pytest.mark.parametrize("session_id", [PRINCIPAL.session_id, None])
async def test_read_that_began_before_the_end_of_a_session_is_not_believed_after_it(
    session_id: SessionId | None,
) -> None:
    catalog = Catalog()
    liveness = SessionCache(catalog.read, ManualClock())
    catalog.let = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(liveness.check, PRINCIPAL)
        await anyio.wait_all_tasks_blocked()
        catalog.alive = False
        liveness.forget(session_id)
        catalog.let.set()
    assert not liveness.is_fresh(PRINCIPAL.session_id)
    assert not await liveness.check(PRINCIPAL)


@pytest.mark.anyio
async def test_error_reaches_all_who_asked_and_the_next_asks_again() -> None:
    catalog = Catalog()
    liveness = SessionCache(catalog.read, ManualClock())
    catalog.down = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await liveness.check(PRINCIPAL)
    catalog.down = False
    assert await liveness.check(PRINCIPAL)
    assert catalog.reads == 3


@pytest.mark.anyio
async def test_however_many_sessions_there_are_only_so_many_are_remembered() -> None:
    liveness = SessionCache(Catalog().read, ManualClock(), capacity=10)
    for number in range(100):
        await liveness.check(UserSession(user_id=UserId("user"), session_id=SessionId(str(number))))
    assert len(liveness) == 10
    assert liveness.is_fresh(SessionId("99"))
