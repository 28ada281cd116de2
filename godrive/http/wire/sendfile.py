"""Sending a blob: by the kernel where it is a file and the connection is plain, else piece by piece.

uvloop has no ``loop.sendfile``, so this is our own.  The headers are written
through the transport, and waited for until it has nothing left to write; from
then on nobody else writes to the socket, and threads call ``sendfile`` on a
duplicate of it.  A thread hardly waits for the client: when the socket's buffer
stays full it comes back, and the event loop waits for room.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket as socket_module
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from godrive.blobs import BlobStore
from godrive.errors import StoreUnavailable
from godrive.http.app_keys import DRIVE, DUPLICATES
from godrive.http.observe.request_log import CLIENT_LEFT, findings
from godrive.model import Content, ObjectKey

SMALL = 128 * 1024
"""Bytes up to which the detour does not pay: headers and content leave in one piece."""
TURN = 8 << 20
"""Bytes that one call in a thread sends at most, so that others have their turn."""
PATIENCE = 0.01
"""Seconds a thread waits for a client that is quick: the way to the event loop and back takes longer than that one."""
STALLED = 120.0
"""Seconds without progress after which a client is given up."""
WRITE_HIGH_WATER = 16_384
"""Bytes of answers that may wait for a client before the handler waits too."""
UNSENT = 65_536
"""Bytes of answers that the kernel takes before it can send them.  By itself it takes megabytes for each client."""

_QUICK = 256 * 1024
_STEP = 256 * 1024
_STORE_STEP = 2 << 20
"""Bytes that are asked of a store at once: each request to it takes a while."""
_UNLIMITED = 0x7FFF_FFFF

Span = tuple[int, int]


class DamagedBlob(StoreUnavailable):
    """The blob of a file is lost, or has another size than the file."""

    def __init__(self, kind: str) -> None:
        super().__init__("The bytes of this file are lost or damaged.", hint="See blob_damaged in the log.")
        self.kind = kind


async def send(
    request: web.Request, response: web.StreamResponse, blobs: BlobStore, content: Content, span: Span
) -> None:
    """Answer with the bytes of *span* (start, end beyond the last) of *content*.

    *response* has its headers and is not begun.  Raises ``NotFound``,
    ``StoreUnavailable`` and :class:`DamagedBlob` before anything is sent.
    Later there is only one way left to say that something is wrong, which is
    to cut the connection.  If the client leaves, the findings say so.
    """
    transport = request.transport
    if transport is None:
        return
    (start, end), key = span, content.object_key
    found = findings.get()
    found.status = response.status
    try:
        drive = request.app[DRIVE]
        if end - start <= SMALL:
            await _send_pieces(request, response, blobs.get(key, start=start, end=end), end - start)
        elif not await _send_file(request, response, transport, content, span):
            step = drive.memory.share(_STORE_STEP) if drive.file_backed is None else _STEP
            await _send_pieces(request, response, _steps(blobs, key, start, end, step), end - start)
    except (ConnectionError, TimeoutError):
        found.ended = CLIENT_LEFT
        transport.abort()


async def _send_file(
    request: web.Request, response: web.StreamResponse, transport: asyncio.Transport, content: Content, span: Span
) -> bool:
    """Have the kernel send the bytes, unless they are no file, are to be encrypted, or descriptors are scarce."""
    files, duplicates = request.app[DRIVE].file_backed, request.app[DUPLICATES]
    if files is None or is_tls(transport) or not duplicates.take():
        return False
    try:
        file = await files.open_file(content.object_key)
        if file is None:
            return False
        await _Sending(request, response, transport, file).send(*span, content.file.size_bytes)
        return True
    finally:
        duplicates.give_back()


async def _steps(blobs: BlobStore, key: ObjectKey, start: int, end: int, step: int) -> AsyncIterator[bytes]:
    """The bytes in pieces, with the blob open only while one is read: a slow client holds no connection to a store."""
    while start < end:
        piece = b"".join([each async for each in blobs.get(key, start=start, end=min(end, start + step))])
        if not piece:
            return
        start += len(piece)
        yield piece


async def _send_pieces(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes], left: int
) -> None:
    async with _closing(pieces):
        piece = await anext(pieces, b"")
        if left <= SMALL and len(piece) < left:
            raise DamagedBlob("size")
        await response.prepare(request)
        while piece:
            left -= len(piece)
            async with asyncio.timeout(STALLED):
                await response.write(piece)
            piece = await anext(pieces, b"")
    if left:
        raise DamagedBlob("size")


@asynccontextmanager
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """End a generator now, not when it is collected: it holds a file open."""
    try:
        yield
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


class _Sending:
    """One file on its way out.  It owns the *file* and the duplicate of the socket, and closes both."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, transport: asyncio.Transport, file: int
    ) -> None:
        self._request = request
        self._response = response
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._open = [file]
        self._pushing: asyncio.Future[int] | None = None

    async def send(self, start: int, end: int, size: int) -> None:
        try:
            if os.fstat(self._open[0]).st_size != size:
                raise DamagedBlob("size")
            await self._send_headers()
            connected = self._transport.get_extra_info("socket")
            socket = os.dup(connected.fileno())
            self._open.append(socket)
            limit_unsent(connected, _UNLIMITED)  # the bytes of a file stay in the page cache, and take no memory
            while start < end:
                turn = min(end, start - start % TURN + TURN)
                self._pushing = self._loop.run_in_executor(None, _push, socket, self._open[0], start, turn)
                await asyncio.wait([self._pushing])
                start = self._pushing.result()
                if start < turn:
                    await self._room(socket)
            limit_unsent(connected, UNSENT)
        finally:
            # If a descriptor is closed while a thread uses it, its number may be reused for another file.
            if self._pushing is None or self._pushing.done():
                self._close()
            else:
                self._pushing.add_done_callback(self._close)

    async def _send_headers(self) -> None:
        writer = await self._response.prepare(self._request)
        if writer is None or self._transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        self._transport.set_write_buffer_limits(high=0)
        try:
            writer.send_headers()
            async with asyncio.timeout(STALLED):
                await writer.drain()
        finally:
            self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            raise ConnectionResetError("The client has gone.")

    async def _room(self, socket: int) -> None:
        """Wait until the socket takes more, or has failed."""
        ready = self._loop.create_future()
        self._loop.add_writer(socket, _wake, ready)
        try:
            async with asyncio.timeout(STALLED):
                await ready
        finally:
            self._loop.remove_writer(socket)

    def _close(self, pushed: asyncio.Future[int] | None = None) -> None:
        if pushed is not None and not pushed.cancelled():
            pushed.exception()
        while self._open:
            os.close(self._open.pop())


def limit_unsent(connected: Any, size: int) -> None:
    """Have the kernel take at most *size* bytes that it cannot send yet, where it can be told."""
    if hasattr(socket_module, "TCP_NOTSENT_LOWAT") and connected.family != socket_module.AF_UNIX:
        connected.setsockopt(socket_module.IPPROTO_TCP, socket_module.TCP_NOTSENT_LOWAT, size)


def is_tls(transport: asyncio.BaseTransport) -> bool:
    """Whether the connection is encrypted, so that its bytes must pass the transport."""
    return transport.get_extra_info("sslcontext") is not None


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _push(socket: int, file: int, start: int, end: int) -> int:
    """Send until *end*, or until the socket stays full; how far it came."""
    first = start
    if not start % TURN:
        # By itself the kernel reads ahead in steps that are too small for a disk to be quick.
        os.posix_fadvise(file, start, 2 * TURN, os.POSIX_FADV_WILLNEED)
    while start < end:
        try:
            sent = os.sendfile(socket, file, start, end - start)
        except BlockingIOError:
            if start - first < _QUICK or not _has_room(socket):
                break
            continue
        if not sent:
            raise DamagedBlob("size")
        start += sent
    return start


def _has_room(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLOUT)
    return bool(poll.poll(PATIENCE * 1000))
