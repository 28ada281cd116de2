"""``godrive serve``: the server, from the first line of log to the last."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import msgspec
import structlog

from godrive import __version__, logs
from godrive.commands import Commands, add
from godrive.config import Actors, Config
from godrive.errors import ConfigError

log = structlog.get_logger("godrive")

HTTP = "http"
ROLES = (*Actors.__struct_fields__, HTTP)


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add(commands, "serve", "run the server until SIGTERM or SIGINT", shared)
    parser.add_argument("--host", help="the address to listen on (server.host)")
    parser.add_argument("--port", type=int, help="the port to listen on; 0 for any that is free (server.port)")
    parser.add_argument(
        "--only",
        type=_parts,
        metavar="PART,...",
        help=f"run only these parts here, and reach the other actors through NATS: {', '.join(ROLES)}",
    )
    parser.set_defaults(run=_serve)


def _parts(text: str) -> frozenset[str]:
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts or not parts <= frozenset(ROLES):
        raise argparse.ArgumentTypeError(f"{text!r}: name some of {', '.join(ROLES)}")
    return parts


def _serve(arguments: argparse.Namespace) -> int:
    only: frozenset[str] | None = arguments.only
    if only is not None:
        arguments.overrides = {
            f"actors.{name}.location": "local" if name in only else "nats" for name in Actors.__struct_fields__
        }
    config: Config = arguments.configuration(arguments)
    if config.server.port == 0:
        # URLs are signed for the port, so it must be known before anything else.
        config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, port=_free_port(config)))
    lines = logs.configure(config.log)
    _raise_limit()
    run(_run(config, lines, http=only is None or HTTP in only))
    return 0


def _raise_limit() -> None:
    """Open as many files as is allowed: a process begins with few, for the sake of programs that call ``select``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS names a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a fast event loop, where there is one for this platform."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)


async def _run(config: Config, lines: logs.Lines, *, http: bool) -> None:
    # Here and not above: other commands do without a web server.
    from godrive.drive import GoDrive  # noqa: PLC0415
    from godrive.http.observe.request_log import JsonLines  # noqa: PLC0415
    from godrive.http.wire.server import serve  # noqa: PLC0415

    signals = _Signals()
    with anyio.CancelScope() as starting:
        signals.first = starting.cancel
        async with AsyncExitStack() as stack:
            drive = await stack.enter_async_context(GoDrive(config, on_event=logs.on_event))
            log_request = JsonLines(lines) if logs.has_plain_requests(config.log) else None
            urls = await stack.enter_async_context(serve(drive, log_request=log_request)) if http else []
            stop = anyio.Event()
            signals.first = stop.set
            _announce(config, urls, lines)
            await stop.wait()
            log.info("stopping", signal=signals.name)
    log.info("stopped", signal=signals.name)


class _Signals:
    """SIGTERM and SIGINT: the first calls ``first``, which begins an orderly end; the second ends the process."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.first = _nothing
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        if self.name is not None:
            os._exit(128 + number)
        self.name = number.name
        self.first()


def _nothing() -> None: ...


def _announce(config: Config, urls: Iterable[str], lines: logs.Lines) -> None:
    if not logs.is_human(config.log, sys.stdout):
        log.info("listening", urls=list(urls), public_url=config.server.base_url, version=__version__)
        return
    for url in urls:
        lines.write(f"GoDrive {__version__} listens on {url}\n".encode())


def _free_port(config: Config) -> int:
    try:
        family, *_, address = socket.getaddrinfo(config.server.host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(address)
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        raise ConfigError(f"Cannot listen on {config.server.host}: {error.strerror or error}") from None
