"""Time as a message."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import anyio
import pytest

from godrive.errors import ActorCrashed, DriveError, NotFound
from godrive.runtime import ChildSpec, Ticker
from tests.runtime.stage import Hold, Refuse, Script, Stage, Stumble, WhoAsks

pytestmark = pytest.mark.anyio


async def test_a_ticker_asks_again_and_again_and_never_twice_at_once() -> None:
    script = Script()
    errors: list[DriveError] = []
    replies: list[str] = []
    async with script.supervisor(script.actor(concurrency=4)) as tree:
        ticker = Ticker(tree.ref(Stage), Hold("cue"), every=0.0, on_reply=replies.append, on_error=errors.append)
        async with anyio.create_task_group() as ticking:
            ticking.start_soon(ticker.run)
            await script.reached["cue"].wait()
            await anyio.wait_all_tasks_blocked()
            assert tree.children()[0].in_flight == 1
            script.cues["cue"].set()
            while script.log.count("held cue") < 5:
                await anyio.lowlevel.checkpoint()
            ticking.cancel_scope.cancel()
    assert errors == []
    assert len(replies) >= 4


async def test_tickers_that_start_together_do_not_tick_together(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()
        if len(waits) == 20:
            ticking.cancel_scope.cancel()

    monkeypatch.setattr("godrive.runtime.ticker.anyio", SimpleNamespace(sleep=sleep))
    script = Script()
    async with script.supervisor() as tree:
        ticker = Ticker(
            tree.ref(Stage), WhoAsks(), every=10.0, on_reply=lambda reply: None, on_error=lambda error: None
        )
        async with anyio.create_task_group() as ticking:
            ticking.start_soon(ticker.run)
    assert 9.0 <= min(waits) < max(waits) <= 11.0


@pytest.mark.parametrize(("message", "kind"), [(Refuse(), NotFound), (Stumble(), ActorCrashed)])
async def test_an_error_is_passed_on_and_the_ticking_goes_on(message: Refuse | Stumble, kind: type[DriveError]) -> None:
    script, enough = Script(), anyio.Event()
    errors: list[DriveError] = []
    replies: list[None] = []

    def on_error(error: DriveError) -> None:
        errors.append(error)
        if len(errors) == 3:
            enough.set()

    tree = script.supervisor(script.actor())
    ticker = Ticker(tree.ref(Stage), message, every=0.0, on_reply=replies.append, on_error=on_error)
    async with tree, anyio.create_task_group() as ticking:
        ticking.start_soon(ticker.run)
        await enough.wait()
        ticking.cancel_scope.cancel()
    assert {type(error) for error in errors} == {kind}
    assert replies == []


async def test_a_ticker_is_a_child_that_stops_with_the_tree() -> None:
    script = Script()
    ticker: list[Ticker] = []
    run = partial(_run, ticker)
    tree = script.supervisor(script.actor(), ChildSpec(name="ticker", run=run))
    ticker.append(
        Ticker(tree.ref(Stage), Refuse(), every=1e6, on_reply=lambda reply: None, on_error=lambda error: None)
    )
    async with tree:
        await anyio.wait_all_tasks_blocked()
    assert script.names() == ["ChildStarted", "ChildStarted", "ChildStopped", "ChildStopped"]


async def _run(ticker: list[Ticker]) -> None:
    await ticker[0].run()
