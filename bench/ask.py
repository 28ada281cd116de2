"""The cost of an ask: local against the round trip of a bare future, over NATS against a bare request.

The round trip of a bare future is the least cost of any design in which one
task answers another: one future wakes the server, another carries the reply.
An ask adds the bound, the deadline, the request id, the dispatch and the
handling of crashes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from bench.clients import MissingClientError
from bench.report import Result, median_of
from godrive.bridge.connection import NatsLink
from godrive.bridge.exposer import Exposer
from godrive.bridge.nats import NatsRef
from godrive.config import Nats
from godrive.runtime import Actor, ActorSpec, Ask, ChildSpec, Contract, Ref, Supervisor
from tests.nats_drive import until_answered
from tests.servers import MissingProgram, NatsServer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Measure = Callable[[int], Awaitable[float]]
"""Repeats an operation that many times in sequence, and returns microseconds for one."""

NEAR_MARK = 3.0
FAR_MARK = 2.5


class Echo(Contract, name="echo"):
    """Returns the number that it receives."""


class Say(Ask[Echo, int]):
    """Answer with the number."""

    number: int


class EchoActor(Actor[Echo]):
    """The actor."""

    @Say.handler
    async def say(self, ask: Say) -> int:
        return ask.number


class Asks:
    """The measurements; rounds of both alternate, so that a machine that is busy for a while is so for both."""

    def __init__(self, *, quick: bool) -> None:
        self._rounds = 5 if quick else 15
        self._near = 5_000 if quick else 20_000
        self._far = 500 if quick else 2_000

    def near(self) -> list[Result]:
        """A local ask, on asyncio's event loop and on uvloop."""
        loops: dict[str, Run] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
        return [self._result(f"ask on {name}", NEAR_MARK, run(self._measure_near())) for name, run in loops.items()]

    def far(self) -> Result:
        """An ask over NATS, both ends in this process, as the bare request has them."""
        try:
            with NatsServer(jetstream=False) as server:
                return self._result("ask over NATS", FAR_MARK, uvloop.run(self._measure_far(server.url)))
        except MissingProgram as missing:
            raise MissingClientError(str(missing)) from None

    def _result(self, name: str, mark: float, rounds: list[tuple[float, float]]) -> Result:
        bare, ask = (median_of(column) for column in zip(*rounds, strict=True))
        ratio = median_of(ask / bare for bare, ask in rounds)
        return Result(name, ratio, "x bare", mark, lower=True, parts={"bare us": bare, "ask us": ask})

    async def _measure_near(self) -> list[tuple[float, float]]:
        async with Supervisor([ActorSpec(name="echo", start=EchoActor)]) as tree:
            return await self._alternate(bare_round_trips, partial(asks, tree.ref(Echo)), self._near)

    async def _measure_far(self, url: str) -> list[tuple[float, float]]:
        here, there = NatsLink(Nats(url=url)), NatsLink(Nats(url=url))
        exposer = Exposer(Echo, there, namespace="bench")
        client, peer = await here.client(), await there.client()

        async def answer(message: Any) -> None:
            await peer.publish(message.reply, message.data)

        async def bare_requests(count: int) -> float:
            began = time.perf_counter()
            for _ in range(count):
                await client.request("bench.bare", b"\x81\xa6number\x01", timeout=5)
            return (time.perf_counter() - began) / count * 1e6

        await peer.subscribe("bench.bare", queue="bench", cb=answer)
        tree = Supervisor(
            [
                ActorSpec(name="echo", start=EchoActor),
                ChildSpec(name="exposer", run=lambda: exposer.run(tree.ref(Echo)), stop=exposer.stop),
            ]
        )
        try:
            async with tree:
                far = NatsRef(Echo, here, namespace="bench")
                await until_answered(far)
                return await self._alternate(bare_requests, partial(asks, far), self._far)
        finally:
            await here.close()
            await there.close()

    async def _alternate(self, bare: Measure, ask: Measure, count: int) -> list[tuple[float, float]]:
        await bare(count // 10)
        await ask(count // 10)
        return [(await bare(count), await ask(count)) for _ in range(self._rounds)]


async def asks(ref: Ref[Echo], count: int) -> float:
    """Microseconds for one ask of *ref*."""
    began = time.perf_counter()
    for number in range(count):
        await ref.ask(Say(number))
    return (time.perf_counter() - began) / count * 1e6


async def bare_round_trips(count: int) -> float:
    """Microseconds for one round trip between two tasks by two futures and nothing else."""
    loop = asyncio.get_running_loop()
    request: asyncio.Future[asyncio.Future[int] | None] = loop.create_future()

    async def serve() -> None:
        nonlocal request
        while (reply := await request) is not None:
            request = loop.create_future()
            reply.set_result(1)

    server = loop.create_task(serve())
    await asyncio.sleep(0)
    began = time.perf_counter()
    for _ in range(count):
        reply: asyncio.Future[int] = loop.create_future()
        request.set_result(reply)
        await reply
    elapsed = time.perf_counter() - began
    request.set_result(None)
    await server
    return elapsed / count * 1e6
