"""Follows the changes of a drive as Server-Sent Events, over connections that break off."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from godrive.simulation.account import PATIENCE, Account
from godrive.simulation.following import Copy

_SILENCE = 40.0
"""Seconds without a byte, not even a comment, after which the reader hangs up."""


class EventStream:
    """Keeps a copy up to date until it is closed.  Each connection begins after the last event of the one before."""

    def __init__(self, user: Account, copy: Copy) -> None:
        self._user = user
        self._copy = copy
        self._reader = _Reader()
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self) -> None:
        """Wait until the copy is as the drive must be."""
        user, until = self._user, asyncio.get_running_loop().time() + PATIENCE
        while True:
            if self.task.done():
                self.task.result()
            if not (problem := self._copy.difference(user.tree)):
                return
            if asyncio.get_running_loop().time() > until:
                user.fail(f"the events do not lead to the drive: {problem}")
            await asyncio.sleep(0.1)

    def close(self) -> None:
        """Hang up.  The cursor stays in the copy."""
        self.task.cancel()
        self._reader.hang_up()

    async def _run(self) -> None:
        if not self._copy.cursor:
            await self._copy.begin()
        while True:
            try:
                await self._follow()
            except (OSError, TimeoutError):
                await asyncio.sleep(self._user.chance.uniform(0.2, 1.0))

    async def _follow(self) -> None:
        """Take events until the connection ends.  Raises ``OSError``, ``TimeoutError``."""
        user, loop = self._user, self._user.world.loop
        await loop.network.connect(self._reader.anew, *user.address)
        lines = [
            "GET /v1/events HTTP/1.1",
            f"Host: {user.address[0]}:{user.address[1]}",
            f"Authorization: Bearer {user.token}",
            f"Last-Event-ID: {self._copy.cursor}",
        ]
        user.world.trace("follows", user.name, cursor=self._copy.cursor)
        self._reader.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        try:
            while (event := await self._next()) is not None:
                await self._take(event)
                if user.chance.random() < 0.1:
                    break  # what has come since is lost
        finally:
            self._reader.hang_up()
        if self._reader.status == 401:
            await user.log_in(self._copy.client)
        await asyncio.sleep(user.chance.uniform(0.2, 1.0))

    async def _next(self) -> dict[str, str] | None:
        async with asyncio.timeout(_SILENCE):
            return await self._reader.events.get()

    async def _take(self, event: dict[str, str]) -> None:
        kind = event.get("event")
        if kind == "cursor_reset":
            await self._copy.begin()
        elif kind == "change":
            await self._copy.take(msgspec.json.decode(event["data"]))
            self._copy.cursor = event["id"]


class _Reader(asyncio.Protocol):
    """Reads an answer in chunks as events.  ``None`` follows the last one."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.events: asyncio.Queue[dict[str, str] | None] = asyncio.Queue()
        self.status = 0
        self._raw = self._text = b""

    def anew(self) -> _Reader:
        """Begin with another connection."""
        self.__init__()  # type: ignore[misc]
        return self

    def hang_up(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.put_nowait(None)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self.status:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return
            self.status, self._raw = int(head.split(b" ", 2)[1]), rest
            if self.status != 200:  # busy, or the session has ended
                self.events.put_nowait(None)
                return
        while (chunk := self._chunk()) is not None:
            self._text += chunk
        *events, self._text = self._text.split(b"\n\n")
        for text in events:
            fields = (line.partition(": ") for line in text.decode().split("\n"))
            self.events.put_nowait({name: value for name, _, value in fields})

    def _chunk(self) -> bytes | None:
        size, found, rest = self._raw.partition(b"\r\n")
        length = int(size, 16) if found else 0
        if not found or len(rest) < length + 2:
            return None
        self._raw = rest[length + 2 :]
        if not length:
            self.events.put_nowait(None)
            return None
        return rest[:length]
