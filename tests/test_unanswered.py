"""Why no answer came: what people are told."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from godrive.unanswered import why

pytestmark = pytest.mark.anyio


async def told(url: str) -> str:
    """Return why *url* does not answer."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientError, OSError)) as failed:
            await session.get(url)
    return why(failed.value)


async def test_what_aiohttp_raises_is_told_without_its_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert await told(f"http://127.0.0.1:{port}") == "Connection refused"


async def test_a_server_without_tls_is_told() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await told(f"https://127.0.0.1:{port}")).startswith("TLS failed (")


def test_other_errors_are_told_on_one_line() -> None:
    assert why(aiohttp.ServerDisconnectedError("gone\n  away")) == "gone away"
    assert why(TimeoutError()) == "TimeoutError"
