"""What a request that fails does to its idempotency key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from godrive.errors import ActorCrashed, AskTimeout, Conflict, NameTaken, StoreUnavailable, TooLarge
from godrive.http.api.idempotency import IDEMPOTENCY_KEY, answer_once
from godrive.messages.idempotency import ClaimKey, SettleKey, StoredReply
from godrive.messages.metadata import Metadata
from godrive.model import UserId, new_id
from godrive.principal import HostUser
from godrive.runtime import Ask

pytestmark = pytest.mark.anyio


class Slow:
    """Metadata that claims every key, and frees none: it fails once *released*."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.freeing = asyncio.Event()
        self.released = asyncio.Event()
        self.failed = asyncio.Event()

    async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
        self.asked.append(type(message).__name__)
        if self.asked[-1] == "SettleKey":
            self.freeing.set()
            await self.released.wait()
            self.failed.set()
            raise StoreUnavailable
        return None


async def test_an_error_of_what_nobody_waits_for_any_more_is_nobodys_and_the_first_error_counts() -> None:
    loop, unhandled = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _loop, context: unhandled.append(context))
    metadata = Slow()

    async def run() -> web.StreamResponse:
        raise NameTaken

    request = make_mocked_request("POST", "/v1/files/upload-intent", headers={IDEMPOTENCY_KEY: "k"})
    answering = asyncio.create_task(answer_once(request, b"", metadata, HostUser(user_id=UserId(new_id())), run))
    await metadata.freeing.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    metadata.released.set()
    await metadata.failed.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert metadata.asked == ["ClaimKey", "SettleKey"]
    assert unhandled == []
    loop.set_exception_handler(None)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (AskTimeout, ["ClaimKey"]),
        (ActorCrashed, ["ClaimKey"]),
        (ZeroDivisionError, ["ClaimKey"]),
        (asyncio.CancelledError, ["ClaimKey"]),
        (StoreUnavailable, ["ClaimKey", "SettleKey"]),
        (ConnectionResetError, ["ClaimKey", "SettleKey"]),
        (NameTaken, ["ClaimKey", "SettleKey"]),
    ],
)
async def test_a_key_stays_claimed_if_nobody_knows_whether_the_command_was_carried_out(
    error: type[BaseException], asked: list[str]
) -> None:
    metadata = Slow()
    metadata.released.set()

    async def run() -> web.StreamResponse:
        raise error

    request = make_mocked_request("POST", "/v1/folders", headers={IDEMPOTENCY_KEY: "k"})
    with pytest.raises(error):
        await answer_once(request, b"", metadata, HostUser(user_id=UserId(new_id())), run)
    assert metadata.asked == asked


class Far:
    """Metadata in another process, which takes no large message."""

    def __init__(self) -> None:
        self.kept: StoredReply | None = None

    async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
        if isinstance(message, ClaimKey):
            return self.kept
        assert isinstance(message, SettleKey)
        if message.stored is not None and len(message.stored.body) > 1000:
            raise TooLarge
        self.kept = message.stored
        return None


async def test_a_request_whose_answer_is_too_large_to_be_kept_is_not_carried_out_again() -> None:
    metadata, carried_out = Far(), list[str]()

    async def run() -> web.StreamResponse:
        carried_out.append("once")
        return web.Response(body=b"x" * 1001)

    async def send() -> web.StreamResponse:
        request = make_mocked_request("POST", "/v1/batch", headers={IDEMPOTENCY_KEY: "k"})
        return await answer_once(request, b"", metadata, HostUser(user_id=UserId(new_id())), run)

    assert (await send()).status == 200
    with pytest.raises(Conflict):
        await send()
    assert carried_out == ["once"]
