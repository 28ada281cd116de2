"""Serve the application on its own socket."""

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
from godrive.heap import Heap
from godrive.http.app import create_app
from godrive.http.app_keys import WAITS
from godrive.http.observe.request_log import LogRequest
from godrive.http.wire.connection import Connection
from godrive.http.wire.connection_limit import ConnectionLimit
from godrive.http.wire.descriptors import most_connections
from godrive.http.wire.heads import MAX_FIELD, MAX_LINE
from godrive.http.wire.tls import Certificate, accept_forever
from godrive.network import bind_addresses, socket_path

LINGERING = 5.0
"""Seconds for which an unwanted body is read and dropped: closing at once would destroy the answer on its way."""

READ_BUFFER = 32_768
"""Bytes of a body that may wait for a handler to read them.  An upload raises this once it is admitted."""

SOCKET_MODE = 0o660
"""The mode of a Unix socket: a proxy in the group of this process may use it."""

_BACKLOG = 1_024


@asynccontextmanager
async def serve(
    drive: GoDrive,
    host: str | None = None,
    port: int | None = None,
    *,
    path: Path | None = None,
    certificate: Certificate | None = None,
    log_request: LogRequest | None = None,
    lost_log_lines: Callable[[], int] | None = None,
    on_closing: Callable[[int], None] | None = None,
    linger: float = 0.0,
) -> AsyncIterator[list[str]]:
    """Listen, by default as configured; the URLs that are listened on.  Port 0 is any that is free.

    With *path*, or a *host* that begins with ``unix:``, listen on a Unix socket
    instead.  Its clients are trusted to say for whom they ask
    (``X-Forwarded-For``), so only a proxy may reach it.  With a *certificate*,
    by default the configured one, speak HTTPS.

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
    path = path or socket_path(host)
    if path is None and certificate is None:
        certificate = await load_certificate(server)
    app = create_app(drive, log_request=log_request, lost_log_lines=lost_log_lines, trusts_unix_socket=path is not None)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=server.shutdown,
    )
    await runner.setup()
    heap = Heap()
    drive.memory.on_shed = heap.trim_soon
    try:
        assert runner.server is not None  # noqa: S101 - set-up has made it
        limit = ConnectionLimit(most_connections())
        loop = asyncio.get_running_loop()
        connect = partial(Connection, runner.server, loop=loop, limit=limit, memory=drive.memory, **_settings(server))
        sockets = await _bind(host, port) if path is None else [_bind_path(path)]
        scheme = "http" if certificate is None else "https"
        urls = [_url(scheme, each.getsockname()) for each in sockets] if path is None else [f"unix:{path}"]
        listeners: list[asyncio.Server] = []
        accepting: list[asyncio.Task[None]] = []
        for each in sockets:
            if certificate is None:
                listeners.append(await loop.create_server(connect, sock=each, backlog=_BACKLOG))
            else:
                each.listen(_BACKLOG)
                accepting.append(loop.create_task(accept_forever(each, certificate, limit, connect)))
        try:
            yield urls
        finally:
            for listener in listeners:
                listener.close()
            for task in accepting:
                task.cancel()
            if path is not None:
                path.unlink(missing_ok=True)
            app[WAITS].close()
            if on_closing is not None:
                on_closing(limit.count_busy())
            with anyio.CancelScope(shield=True):
                await _say_goodbye(runner.server, limit, linger)
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()
        drive.memory.on_shed = None
        heap.close()


async def load_certificate(server: Server) -> Certificate | None:
    """Return the configured certificate, if there is one.  Raises ``ConfigError``."""
    if not server.tls_cert_file:
        return None
    return await asyncio.to_thread(Certificate, Path(server.tls_cert_file), Path(server.tls_key_file))


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
        raise refusal(host, port, error) from None
    return sockets


def _bind_path(path: Path) -> socket.socket:
    """A socket at *path*, in place of one that a killed server has left.  Raises ``ConfigError``."""
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                    path.unlink()
        bound = _bound(socket.AF_UNIX, socket.SOCK_STREAM, 0, path)
    except OSError as error:
        hint = "It must be in a folder that this user can write to, and no other server may use it."
        detail = f"Cannot listen on {path}: {_reason(error) if error.errno else error}."
        raise ConfigError(detail, field="server.host", hint=hint) from None
    path.chmod(SOCKET_MODE)
    return bound


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


def refusal(host: str, port: int, error: OSError | ValueError) -> DriveError:
    """Return why the server cannot listen: a mistake, or a state of the machine that may pass."""
    if isinstance(error, ValueError):
        return ConfigError(f"server.host must be an address or a host name, not {host!r}", field="server.host")
    detail = f"Cannot listen on {host}{f' port {port}' if port else ''}: {_reason(error)}."
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


def _url(scheme: str, address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
