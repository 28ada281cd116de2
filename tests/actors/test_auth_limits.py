"""Limits within a window, the line for password hashes, and how old the knowledge of a session may be."""

from __future__ import annotations

import asyncio
import gc
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.actors import hashing
from godrive.actors.hashing import HashPool
from godrive.actors.session_cache import SessionCache
from godrive.credentials import cost_of, dummy_hash
from godrive.errors import StoreUnavailable, TooManyRequests
from godrive.model import SessionId, UserId
from godrive.principal import ApiToken, Caller, UserSession, credential_id
from godrive.rate_limit import Limit, RateLimiter, attempt
from godrive.testing import ManualClock
from tests.cases import each

PRINCIPAL = UserSession(user_id=UserId("user"), session_id=SessionId("session"))


# RateLimiter


def fail(limiter: RateLimiter, key: str) -> None:
    """Make an attempt that fails.  Raises ``TooManyRequests``."""
    with attempt([Limit(limiter, key)]) as made:
        made.counts = True


def succeed(limiter: RateLimiter, key: str) -> None:
    """Make an attempt that does not count.  Raises ``TooManyRequests``."""
    with attempt([Limit(limiter, key)]):
        pass


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60))
def test_attempts_are_those_of_the_last_window_and_the_wait_is_exact(steps: list[tuple[str, int]]) -> None:
    clock, made = ManualClock(), dict[str, list[float]]()
    limiter = RateLimiter(3, 60.0, clock)
    for key, pause in steps:
        clock.advance(pause)
        now = clock.monotonic()
        recent = [at for at in made.get(key, []) if at > now - 60]
        if len(recent) < 3:
            fail(limiter, key)
            made[key] = [*recent, now]
        else:
            with pytest.raises(TooManyRequests) as caught:
                fail(limiter, key)
            assert caught.value.retry_after == recent[0] + 60 - now


def test_attempt_is_free_after_the_time_that_was_said() -> None:
    clock = ManualClock()
    limiter = RateLimiter(1, 60.0, clock)
    fail(limiter, "a")
    clock.advance(17.25)
    with pytest.raises(TooManyRequests) as caught:
        fail(limiter, "a")
    assert caught.value.retry_after is not None
    clock.advance(caught.value.retry_after)
    fail(limiter, "a")


def test_attempt_that_succeeds_or_breaks_off_does_not_count() -> None:
    limiter = RateLimiter(1, 60.0, ManualClock())
    for _ in range(5):
        succeed(limiter, "a")
        with pytest.raises(StoreUnavailable), attempt([Limit(limiter, "a")]):
            raise StoreUnavailable
    assert len(limiter) == 0
    fail(limiter, "a")
    with pytest.raises(TooManyRequests):
        succeed(limiter, "a")


def test_attempts_under_way_use_up_the_limit_for_a_moment_only() -> None:
    limiter = RateLimiter(2, 60.0, ManualClock())
    with attempt([Limit(limiter, "a")]), attempt([Limit(limiter, "a")]):
        with pytest.raises(TooManyRequests) as caught:
            succeed(limiter, "a")
        assert caught.value.retry_after == 1.0
    succeed(limiter, "a")


def test_attempt_waits_for_the_strictest_limit_and_counts_for_none_when_refused() -> None:
    clock = ManualClock()
    short, long = RateLimiter(1, 60.0, clock), RateLimiter(2, 600.0, clock)

    def fail_both() -> None:
        with attempt([Limit(short, "a"), Limit(long, "b")]) as made:
            made.counts = True

    fail_both()
    clock.advance(60)
    fail_both()
    for _ in range(3):
        with pytest.raises(TooManyRequests) as caught:
            fail_both()
        assert caught.value.retry_after == 540.0
    clock.advance(540)
    fail_both()


def test_limit_that_is_not_enforced_still_counts() -> None:
    limiter = RateLimiter(1, 60.0, ManualClock())
    for _ in range(3):
        with attempt([Limit(limiter, "a", enforced=False)]) as made:
            made.counts = True
    with pytest.raises(TooManyRequests):
        fail(limiter, "a")


def test_however_many_keys_there_are_only_so_many_are_remembered() -> None:
    limiter = RateLimiter(1, 60.0, ManualClock(), capacity=100)
    for number in range(1000):
        fail(limiter, str(number))
    assert len(limiter) == 100
    with pytest.raises(TooManyRequests):
        fail(limiter, "999")


# HashPool


class Line:
    """A pool whose threads are held until they are let go; who has been served, and who was turned away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, threads: int, waiting: int) -> None:
        self.opened = threading.Event()
        self.served: list[str] = []
        self.refused: list[str] = []
        monkeypatch.setattr(hashing, "hash_password", self._hold)
        self.pool = HashPool(cost=4, threads=threads, waiting=waiting)

    def _hold(self, password: str, cost: int) -> str:
        assert self.opened.wait(30)
        return password

    async def ask(self, client: str) -> None:
        try:
            self.served.append(await self.pool.hash(client, client=client))
        except TooManyRequests:
            self.refused.append(client)


@pytest.mark.anyio
async def test_clients_take_turns_and_one_cannot_fill_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, threads=1, waiting=6)
    async with anyio.create_task_group() as tasks:
        for client in ["eve"] * 10 + ["ann", "bob"]:
            tasks.start_soon(line.ask, client)
            await anyio.wait_all_tasks_blocked()
        assert line.refused == ["eve"] * 5
        line.opened.set()
    assert line.served == ["eve", "eve", "ann", "bob", "eve", "eve", "eve"]
    line.pool.close()


@pytest.mark.anyio
async def test_client_alone_may_fill_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, threads=2, waiting=3)
    async with anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(line.ask, "ann")
        await anyio.wait_all_tasks_blocked()
        assert line.refused == ["ann"] * 2
        line.opened.set()
    assert line.served == ["ann"] * 5
    line.pool.close()


@pytest.mark.anyio
async def test_caller_that_leaves_the_line_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, threads=1, waiting=3)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(line.ask, "ann")
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as leaving:
            for _ in range(3):
                leaving.start_soon(line.ask, "eve")
            await anyio.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        for client in ("bob", "bob", "bob"):
            tasks.start_soon(line.ask, client)
        await anyio.wait_all_tasks_blocked()
        assert line.refused == []
        line.opened.set()
    assert line.served == ["ann", "bob", "bob", "bob"]
    async with anyio.create_task_group() as tasks:  # and no thread has been lost
        tasks.start_soon(line.ask, "ann")
    assert line.served[-1] == "ann"
    line.pool.close()


@pytest.mark.anyio
@each("stored", [None, "", 4, 6, 8, 10])
@each("highest", [0, 4, 10])
async def test_failed_check_costs_the_same_whatever_the_cost_of_the_stored_hash(
    monkeypatch: pytest.MonkeyPatch, stored: int | str | None, highest: int
) -> None:
    spent: list[int] = []

    def check(password: str, hashed: str) -> bool:
        spent.append(2 ** cost_of(hashed))
        return False

    monkeypatch.setattr(hashing, "check_password", check)
    pool = HashPool(cost=8, threads=1, waiting=0)
    hashed = dummy_hash(stored) if isinstance(stored, int) else stored
    highest = max(highest, stored if isinstance(stored, int) else 0)  # it is the highest of all that are stored
    assert not await pool.check("wrong horse", hashed, cost=highest)
    assert sum(spent) == 2 ** max(8, highest)
    pool.close()


# SessionCache


class Catalog:
    """Says whether the session is alive, once it is let."""

    def __init__(self) -> None:
        self.alive = True
        self.down = False
        self.reads = 0
        self.let = anyio.Event()
        self.let.set()

    async def read(self, by: Caller) -> bool:
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
    assert not liveness.is_fresh(PRINCIPAL)


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
    assert not liveness.is_fresh(PRINCIPAL)
    assert not await liveness.check(PRINCIPAL)


@pytest.mark.anyio
async def test_error_of_a_read_that_everyone_left_is_reported_nowhere() -> None:
    catalog, reported = Catalog(), list[dict[str, object]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    liveness = SessionCache(catalog.read, ManualClock())
    catalog.down, catalog.let = True, anyio.Event()
    async with anyio.create_task_group() as leaving:
        leaving.start_soon(liveness.check, PRINCIPAL)
        await anyio.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
    catalog.let.set()
    await anyio.wait_all_tasks_blocked()
    gc.collect()
    assert catalog.reads == 1
    assert reported == []


@pytest.mark.anyio
async def test_credentials_of_two_kinds_and_of_one_user_are_told_apart() -> None:
    cache = SessionCache[Caller](Catalog().read, ManualClock())
    token = ApiToken(user_id=PRINCIPAL.user_id, token_id="token", scopes=frozenset())
    assert await cache.check(PRINCIPAL)
    assert not cache.is_fresh(token)
    assert await cache.check(token)
    cache.forget(credential_id(PRINCIPAL))
    assert [cache.is_fresh(by) for by in (PRINCIPAL, token)] == [False, True]


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
    assert liveness.is_fresh(UserSession(user_id=UserId("other"), session_id=SessionId("99")))
