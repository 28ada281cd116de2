"""Serve the application on a socket of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
from aiohttp import web

from godrive.config import Server
from godrive.drive import GoDrive
from godrive.errors import AddressUnavailable, ConfigError, DriveError
from godrive.http.app import create_app
from godrive.http.app_keys import WAITS
from godrive.http.observe.request_log import LogRequest
from godrive.http.wire.connection import MAX_FIELD, MAX_LINE, Connection
from godrive.http.wire.connection_limit import ConnectionLimit
from godrive.http.wire.descriptors import most_connections
from godrive.network import bind_addresses

LINGERING = 5.0
"""Seconds for which an unwanted body is read and dropped: closing at once would destroy the answer on its way."""

READ_BUFFER = 32_768
"""Bytes of a body that may wait for a handler to read them.  An upload raises this once it is admitted."""

_BACKLOG = 1_024


@asynccontextmanager
async def serve(
    drive: GoDrive,
    host: str | None = None,
    port: int | None = None,
    *,
    path: Path | None = None,
    log_request: LogRequest | None = None,
    lost_log_lines: Callable[[], int] | None = None,
    on_closing: Callable[[int], None] | None = None,
    linger: float = 0.0,
) -> AsyncIterator[list[str]]:
    """Listen, by default as configured; the URLs that are listened on.  Port 0 is any that is free.

    With *path*, listen on a Unix socket instead.  Its clients are trusted to say
    for whom they ask (``X-Forwarded-For``), so only this user may reach it.

    On exit no new connection is accepted, and requests that wait for changes
    are answered at once.  Every answer from then on says
    ``Connection: close``.  Connections that stay idle for *linger* seconds are
    closed, and requests in progress have ``server.shutdown`` seconds;
    *on_closing* is called with their number.  Raises ``ConfigError``, and
    ``AddressUnavailable`` when the machine does not have the address now.
    """
    server = drive.config.server
    host = server.host if host is None else host
    port = server.port if port is None else port
    app = create_app(drive, log_request=log_request, lost_log_lines=lost_log_lines, trusts_unix_socket=path is not None)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=server.shutdown,
    )
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - set-up has made it
        limit = ConnectionLimit(most_connections())
        loop = asyncio.get_running_loop()
        connect = partial(Connection, runner.server, loop=loop, limit=limit, memory=drive.memory, **_settings(server))
        sockets = await _bind(host, port) if path is None else [_bound(socket.AF_UNIX, socket.SOCK_STREAM, 0, path)]
        listeners = [await loop.create_server(connect, sock=each, backlog=_BACKLOG) for each in sockets]
        try:
            yield [_url(each.getsockname()) for each in sockets] if path is None else [f"unix:{path}"]
        finally:
            for listener in listeners:
                listener.close()
            app[WAITS].close()
            if on_closing is not None:
                on_closing(limit.count_busy())
            with anyio.CancelScope(shield=True):
                await _say_goodbye(runner.server, limit, linger)
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


async def _say_goodbye(server: web.Server, limit: ConnectionLimit, linger: float) -> None:
    """Give clients the time to learn that the server stops.

    A request that crosses the closing of its connection is lost, and HTTP/1.1
    announces a closing only with an answer.  So idle connections stay open for
    *linger* seconds: those of a busy proxy are used and closed in good order.
    """
    for connection in server.connections:
        cast("Connection", connection).close_after_answer()
    with anyio.move_on_after(linger):
        await limit.wait_empty()


async def _bind(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of *host*, all on one port."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        addresses = bind_addresses(host)
        for address in addresses:
            for family, kind, protocol, _, where in await asyncio.get_running_loop().getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                try:
                    sockets.append(_bound(family, kind, protocol, (where[0], port, *where[2:])))
                except OSError as error:
                    # A machine may lack one of the families, which matters only when nothing is left.
                    if len(addresses) == 1 or error.errno not in _NO_FAMILY:
                        raise
                    failure = error
                else:
                    port = sockets[-1].getsockname()[1]
        if failure is not None and not sockets:
            raise failure
    except (OSError, ValueError) as error:
        for each in sockets:
            each.close()
        raise _refusal(host, port, error) from None
    return sockets


def _bound(family: int, kind: int, protocol: int, where: tuple[Any, ...] | Path) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        bound.bind(str(where) if isinstance(where, Path) else where)
    except BaseException:
        bound.close()
        raise
    return bound


_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _refusal(host: str, port: int, error: OSError | ValueError) -> DriveError:
    """Why the server cannot listen: a mistake, or a state of the machine that may pass."""
    if isinstance(error, ValueError):
        return ConfigError(f"server.host must be an address or a host name, not {host!r}", field="server.host")
    detail = f"Cannot listen on {host} port {port}: {_reason(error)}."
    if error.errno in (*_NO_FAMILY, errno.ENETDOWN, socket.EAI_AGAIN):
        return AddressUnavailable(detail, hint="The network may not be up yet; otherwise correct server.host.")
    return ConfigError(detail, hint="Choose others with --host and --port, or server.host and server.port.")


def _settings(server: Server) -> dict[str, Any]:
    """Bodies are left compressed, as they were sent: unpacked, a small one could fill the memory."""
    return {
        "access_log": None,
        "auto_decompress": False,
        "head_timeout": server.body_timeout,
        "keepalive_timeout": server.keepalive_timeout,
        "lingering_time": LINGERING,
        "max_field_size": MAX_FIELD,
        "max_line_size": MAX_LINE,
        "read_bufsize": READ_BUFFER,
    }


def _reason(error: OSError) -> str:
    """The system's error text, without the call that failed, which asyncio adds."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
