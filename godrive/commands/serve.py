"""``godrive serve``: run the server until a signal stops it."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec
import structlog

from godrive import __version__, logs
from godrive.commands import Commands, add_command
from godrive.commands.actors import answering
from godrive.commands.reload import Reloader
from godrive.commands.running import raise_limit, run
from godrive.commands.signals import Signals, ignore_until_ready
from godrive.config import Actors, Config
from godrive.counted import counted
from godrive.network import bind_addresses, binds_every_address, binds_loopback, socket_path
from godrive.paths import exists

if TYPE_CHECKING:
    from godrive.drive import GoDrive
    from godrive.http.observe.request_log import LogRequest

log = structlog.get_logger("godrive")

HTTP = "http"

LINGER = 1.0
"""Seconds that idle connections stay open when the server stops, so that a proxy's request on one is not lost."""

_YOUNG = 5_000
"""Objects after which the garbage collector looks at young ones; 700 by default."""

ROLES = (*Actors.__struct_fields__, HTTP)


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "serve", shared)
    parser.add_argument("--host", help="listen on this address (server.host)")
    parser.add_argument("--port", type=int, help="listen on this port; 0 for any free one (server.port)")
    parser.add_argument(
        "--only",
        type=_parts,
        metavar="PART,...",
        help=f"run only these parts, and reach the other actors through NATS: {', '.join(ROLES)}",
    )
    parser.set_defaults(run=_serve)


def _parts(text: str) -> frozenset[str]:
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts or not parts <= frozenset(ROLES):
        raise argparse.ArgumentTypeError(f"{text!r}: name some of {', '.join(ROLES)}")
    return parts


def _serve(arguments: argparse.Namespace) -> int:
    ignore_until_ready()
    only: frozenset[str] | None = arguments.only
    if only is not None:
        arguments.overrides = {
            f"actors.{name}.location": "local" if name in only else "nats" for name in Actors.__struct_fields__
        }
    config: Config = arguments.configuration(arguments)
    if config.server.port == 0 and socket_path(config.server.host) is None:
        # URLs are signed for the port, so it must be known before the drive opens.
        config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, port=_free_port(config)))
    process_log = logs.configure(config.log)
    raise_limit()
    gc.disable()  # until the server has started: _spare_collector
    try:
        run(_run(arguments, config, process_log, http=only is None or HTTP in only))
    finally:
        ignore_until_ready()
        gc.enable()
    return 0


def _spare_collector() -> None:
    """Let the garbage collector pass over what exists once the server has started, and run seldom.

    Nearly all that a request makes is freed by its reference count.  With
    Python's defaults the collector took 8 % of the time of a list, most of it
    to find again and again that modules and classes are in use.  Nor does it
    run while they are made: what is imported and then unused is next to nothing.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    gc.enable()


async def _run(arguments: argparse.Namespace, config: Config, process_log: logs.ProcessLog, *, http: bool) -> None:
    reloader = Reloader(arguments, config, process_log)
    signals = Signals(on_reload=reloader.reload, on_end=partial(process_log.writer.drain, 0.5))
    # Imported here because other commands need no web server.
    from godrive.http.wire.server_half import postpone_client  # noqa: PLC0415

    postpone_client()
    from godrive.drive import GoDrive  # noqa: PLC0415
    from godrive.http.wire.server import load_certificate, serve  # noqa: PLC0415

    def closing(requests: int) -> None:
        log.info("stopping", signal=signals.received, requests=requests, seconds=config.server.shutdown)
        if process_log.is_human and requests:
            what = counted(requests, "request")
            _say(process_log, f"Waiting {config.server.shutdown:g} s at most for {what}. Ctrl-C again ends at once.")

    _warn_of_root(config)
    with anyio.CancelScope() as starting:
        signals.on_stop = starting.cancel
        async with AsyncExitStack() as stack:
            drive = await stack.enter_async_context(GoDrive(config, on_event=logs.on_event, moves_bytes=http))
            stack.callback(_log_actors, drive)
            _warn_of_little_room(config)
            await stack.enter_async_context(answering(drive, config.data_dir))
            reloader.on_reload.append(lambda applied: drive.log_in_limits.apply(applied.auth))
            urls: list[str] = []
            if http:
                log_request = _request_log(process_log)
                certificate = await load_certificate(config.server)
                if certificate is not None:
                    reloader.on_reload.append(lambda _: certificate.check())
                server = serve(
                    drive,
                    certificate=certificate,
                    log_request=log_request,
                    lost_log_lines=lambda: process_log.writer.lost,
                    on_closing=closing,
                    linger=LINGER,
                )
                urls = await stack.enter_async_context(server)
            stop = anyio.Event()
            signals.on_stop = stop.set
            _announce(config, urls, process_log)
            _spare_collector()
            await stop.wait()
            if not http:
                closing(0)
    log.info("stopped", signal=signals.received)


def _warn_of_root(config: Config) -> None:
    """Say that files will belong to root in a folder of another user."""
    folder = config.data_dir
    if os.geteuid() == 0 and exists(folder) and (owner := folder.stat().st_uid) != 0:
        hint = "Run the server as the owner of the data folder, who could not read the files that root writes."
        log.warning("running_as_root", data_dir=str(folder), owner=owner, hint=hint)


def _warn_of_little_room(config: Config) -> None:
    """Say that uploads are refused because the disk of the blobs is nearly full."""
    path, least = config.blobs_path, config.blobs.min_free_bytes
    if config.blobs.driver == "disk" and exists(path) and (free := shutil.disk_usage(path).free) < least:
        hint = "Uploads are refused while less than blobs.min_free_bytes is free. Make room on this disk."
        log.warning("little_free_space", path=str(path), free_bytes=free, min_free_bytes=least, hint=hint)


def _request_log(process_log: logs.ProcessLog) -> LogRequest | None:
    """Where requests are logged: straight to the file as JSON, which is faster, or by the logger."""
    from godrive.http.observe.request_log import Answered, JsonLines  # noqa: PLC0415

    if process_log.is_human:
        return None
    write = JsonLines(process_log.writer)

    def log_request(answered: Answered) -> None:
        if process_log.level <= logging.INFO:
            write(answered)

    return log_request


def _log_actors(drive: GoDrive) -> None:
    """Say which actors still work, when the edges have closed."""
    busy = {child.name: child.in_flight + child.queued for child in drive.children() if child.in_flight + child.queued}
    if busy:
        log.info("waiting_for_actors", **busy)


def _announce(config: Config, urls: Sequence[str], process_log: logs.ProcessLog) -> None:
    base_url = config.server.base_url
    if not process_log.is_human:
        log.info("listening", urls=urls, public_url=base_url, version=__version__)
    elif urls:
        _say(process_log, f"GoDrive {__version__} listens on {' and '.join(urls)}")
        _say(process_log, f"The URLs that it hands out begin with {base_url}")
    server = config.server
    if urls and not (server.public_url or server.allowed_hosts) and not binds_loopback(server.host):
        hint = "Set server.public_url, or GODRIVE_SERVER_PUBLIC_URL, to the address that clients use."
        works_for = "clients that reach this address"
        if binds_every_address(server.host):
            works_for = "clients on this machine, and those that use a private address of it"
        log.warning("public_url_not_set", urls_begin_with=base_url, works_for=works_for, hint=hint)


def _say(process_log: logs.ProcessLog, text: str) -> None:
    process_log.writer.write(f"{text}\n".encode())


def _free_port(config: Config) -> int:
    try:
        address = bind_addresses(config.server.host)[-1]
        family, *_, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(where)
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        from godrive.http.wire.server import refusal  # noqa: PLC0415

        raise refusal(config.server.host, 0, error) from None
