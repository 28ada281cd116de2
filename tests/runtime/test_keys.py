"""Messages with a key: in order for the same key, side by side for others."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import anyio
import pytest

from godrive.errors import ActorCrashed, AskTimeout, DeliveryError, MailboxFull
from godrive.runtime import Actor, ActorSpec, Ask, Contract, Supervisor
from godrive.runtime.supervision_events import DeadLetter, Event
from tests.runtime.stage import leave

pytestmark = pytest.mark.anyio


class Bank(Contract, name="bank"):
    pass


class Post(Ask[Bank, int]):
    order_key: ClassVar[str | None] = "account"
    account: str
    amount: int


class Teller(Actor[Bank]):
    """Holds each posting until its account is released; the number of postings in hand is noted."""

    def __init__(self, books: Books) -> None:
        self.books = books

    @Post.handler
    async def post(self, ask: Post) -> int:
        books = self.books
        books.begun.append((ask.account, ask.amount))
        books.in_hand[ask.account] = books.in_hand.get(ask.account, 0) + 1
        books.most[ask.account] = max(books.most.get(ask.account, 0), books.in_hand[ask.account])
        try:
            if ask.amount < 0:
                raise ZeroDivisionError
            await books.gate(ask.account).wait()
        finally:
            books.in_hand[ask.account] -= 1
        books.done.append((ask.account, ask.amount))
        return ask.amount


class Books:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.done: list[tuple[str, int]] = []
        self.in_hand: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.events: list[Event] = []
        self._gates: dict[str, anyio.Event] = {}

    def gate(self, account: str) -> anyio.Event:
        return self._gates.setdefault(account, anyio.Event())

    def supervisor(self, *, concurrency: int = 8, capacity: int = 64) -> Supervisor:
        spec = ActorSpec(name="bank", start=lambda: Teller(self), concurrency=concurrency, capacity=capacity)
        return Supervisor([spec], on_event=self.events.append)


async def test_messages_of_one_key_are_handled_in_order_and_others_beside_them() -> None:
    books = Books()
    async with books.supervisor() as tree:
        bank = tree.ref(Bank)
        asks = [asyncio.ensure_future(bank.ask(Post(account, n))) for n in range(20) for account in "ab"]
        await anyio.wait_all_tasks_blocked()
        assert books.begun == [("a", 0), ("b", 0)]
        books.gate("b").set()
        await anyio.wait_all_tasks_blocked()
        assert books.done == [("b", n) for n in range(20)]
        books.gate("c").set()
        assert await bank.ask(Post("c", 1)) == 1
        books.gate("a").set()
        assert await asyncio.gather(*asks) == [n for n in range(20) for _ in "ab"]
    assert [n for account, n in books.done if account == "a"] == list(range(20))
    assert books.most == {"a": 1, "b": 1, "c": 1}


async def test_parked_messages_count_against_the_capacity_and_are_shown() -> None:
    books = Books()
    async with books.supervisor(capacity=3) as tree:
        bank = tree.ref(Bank)
        asks = [asyncio.ensure_future(bank.ask(Post("a", n))) for n in range(4)]
        await anyio.wait_all_tasks_blocked()
        assert (tree.children()[0].in_flight, tree.children()[0].queued) == (1, 3)
        with pytest.raises(MailboxFull):
            leave(bank, Post("b", 1))
        books.gate("a").set()
        assert await asyncio.gather(*asks) == [0, 1, 2, 3]
        assert tree.children()[0].queued == 0


async def test_a_crash_keeps_what_waits_behind_it_in_order() -> None:
    books = Books()
    async with books.supervisor() as tree:
        bank = tree.ref(Bank)
        books.gate("a").set()
        asks = [asyncio.ensure_future(bank.ask(Post("a", n))) for n in (-1, 1, 2)]
        with pytest.raises(ActorCrashed):
            await asks[0]
        assert await asyncio.gather(*asks[1:]) == [1, 2]
    assert books.done == [("a", 1), ("a", 2)]


async def test_one_that_expires_behind_another_is_a_dead_letter_and_the_next_goes_on() -> None:
    books = Books()
    async with books.supervisor() as tree:
        bank = tree.ref(Bank)
        first = asyncio.ensure_future(bank.ask(Post("a", 0)))
        late = asyncio.ensure_future(bank.ask(Post("a", 1), timeout=0.01))
        last = asyncio.ensure_future(bank.ask(Post("a", 2)))
        with pytest.raises(AskTimeout):
            await late
        books.gate("a").set()
        assert (await first, await last) == (0, 2)
    assert DeadLetter("bank", "Post", "expired") in books.events


async def test_what_waits_behind_a_key_becomes_dead_letters_when_the_actor_stops() -> None:
    books = Books()
    async with books.supervisor() as tree:
        bank = tree.ref(Bank)
        asks = [asyncio.ensure_future(bank.ask(Post("a", n))) for n in range(3)]
        await anyio.wait_all_tasks_blocked()
        asyncio.get_running_loop().call_soon(books.gate("a").set)
    assert await asks[0] == 0
    for each in asks[1:]:
        with pytest.raises(DeliveryError, match="has stopped"):
            await each
    assert [event for event in books.events if isinstance(event, DeadLetter)] == [
        DeadLetter("bank", "Post", "stopped"), DeadLetter("bank", "Post", "stopped"),
    ]  # fmt: skip
