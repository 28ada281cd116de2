"""The application on a socket of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from aiohttp import web

from godrive.drive import GoDrive
from godrive.errors import ConfigError
from godrive.http.app import create_app
from godrive.http.observe.request_log import LogRequest
from godrive.http.wire.connection import MAX_FIELD, MAX_LINE, Connection
from godrive.http.wire.connection_limit import ConnectionLimit, fitting

KEEPALIVE = 75.0
"""Seconds a connection may be idle, and a request's headers may take to arrive."""

LINGERING = 5.0
"""Seconds for which a body that nobody wants is read on, so that the client gets to see the answer."""

READ_BUFFER = 262_144
"""Bytes of a body that may wait to be read before the client is held back."""

_BACKLOG = 1_024


@asynccontextmanager
async def serve(
    drive: GoDrive, host: str | None = None, port: int | None = None, *, log_request: LogRequest | None = None
) -> AsyncIterator[list[str]]:
    """Listen, by default as configured; the URLs that are listened on.  Port 0 is any that is free.

    On exit no new connection is taken, idle ones are closed, and requests in
    hand have ``server.shutdown`` seconds.  Raises ``ConfigError`` when the
    address cannot be had.
    """
    server = drive.config.server
    host = server.host if host is None else host
    port = server.port if port is None else port
    runner = web.AppRunner(
        create_app(drive, log_request=log_request), access_log=None, shutdown_timeout=server.shutdown
    )
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - set-up has made it
        connect = partial(
            Connection, runner.server, loop=asyncio.get_running_loop(), room=ConnectionLimit(fitting()), **_settings()
        )
        try:
            listener = await asyncio.get_running_loop().create_server(connect, host, port, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {host} port {port}: {_reason(error)}.",
                hint="Choose others with --host and --port, or server.host and server.port.",
            ) from None
        try:
            yield [_url(each.getsockname()) for each in listener.sockets]
        finally:
            listener.close()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def _settings() -> dict[str, Any]:
    """Bodies are left compressed, as they were sent: unpacked, a small one could fill the memory."""
    return {
        "access_log": None,
        "auto_decompress": False,
        "keepalive_timeout": KEEPALIVE,
        "lingering_time": LINGERING,
        "max_field_size": MAX_FIELD,
        "max_line_size": MAX_LINE,
        "read_bufsize": READ_BUFFER,
    }


def _reason(error: OSError) -> str:
    """The system's word for it, without the call that failed, which asyncio puts around it."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
