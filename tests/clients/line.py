"""A line between a client and a server that is cut, falls silent or damages what it carries, where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Flow:
    """One direction of a line.  It has *carried* so many bytes, and carries that at *damage* as another."""

    def __init__(self) -> None:
        self.carried = 0
        self.damage: int | None = None
        self.was_cut = 0
        self.held = asyncio.Event()
        self._cut_after = 0
        self._cuts = 0
        self._hold_after: int | None = None
        self._released = asyncio.Event()

    def cut(self, after: int, times: int = 1) -> None:
        """End each of the next *times* connections that carry more than *after* bytes there."""
        self._cut_after, self._cuts, self.was_cut = after, times, 0

    def hold(self, after: int) -> None:
        """Let connections fall silent after *after* bytes each, and set :attr:`held` with the first."""
        self._hold_after = after
        self.held.clear()
        self._released.clear()

    def release(self) -> None:
        """End the connections that are held; new ones work."""
        self._hold_after = None
        self._released.set()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry what *reader* has until its end, or the end of the connection."""
        passed = 0
        while data := await reader.read(65_536):
            if self._cuts and passed + len(data) > self._cut_after:
                self._cuts -= 1
                self.was_cut += 1
                await self._write(writer, data[: max(self._cut_after - passed, 0)])
                return
            if self._hold_after is not None and passed + len(data) > self._hold_after:
                await self._write(writer, data[: max(self._hold_after - passed, 0)])
                self.held.set()
                await self._released.wait()
                return
            passed += len(data)
            await self._write(writer, data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.damage is not None and self.carried <= self.damage < self.carried + len(data):
            at = self.damage - self.carried
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            self.damage = None
        self.carried += len(data)
        writer.write(data)
        await writer.drain()


class Line:
    """A TCP proxy on a loopback port: *up* is what clients send, *down* what the server answers."""

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self.to = to
        self.up = Flow()
        self.down = Flow()
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, to: int) -> AsyncIterator[Line]:
        """Listen on *port* (0 is any) and pass on to *to*."""
        line = cls(port, to)
        server = await asyncio.start_server(line._accept, "127.0.0.1", port)
        line.port = server.sockets[0].getsockname()[1]
        try:
            yield line
        finally:
            server.close()
            connections = list(line._open)
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._open.discard(task)
            writer.transport.abort()

        task = asyncio.create_task(self._carry(reader, writer))
        self._open.add(task)
        task.add_done_callback(end)  # also of a task that is cancelled before its first step

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.to)
            flows = {
                asyncio.create_task(self.up.run(reader, server_writer)),
                asyncio.create_task(self.down.run(server_reader, writer)),
            }
            try:
                await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
                server_writer.close()  # not a reset, which may take from the server what it has not read yet
            finally:
                for flow in flows:
                    flow.cancel()
                if not server_writer.is_closing():  # the line ends
                    server_writer.transport.abort()
                await asyncio.gather(*flows, return_exceptions=True)
