"""``godrive actors``: what the actors of running servers do.

Each server answers on a socket in the data folder, which only its user may
open.  A connection gets the state as JSON, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from godrive import __version__
from godrive.commands import Commands, add_command
from godrive.config import Config
from godrive.counted import counted
from godrive.errors import ConfigError, NotFound, StoreUnavailable
from godrive.paths import is_folder, make_path
from godrive.runtime import ChildDetails

if TYPE_CHECKING:
    from godrive.drive import GoDrive

log = structlog.get_logger("godrive")

PATTERN = "actors.{}.sock"
"""The name of a socket, by the id of its process."""

WITHIN = 5.0
"""Seconds in which a server must answer; an event loop that is stuck does not."""

_MODE = 0o600


class Process(msgspec.Struct, frozen=True):
    """One server process and its children, in start order."""

    pid: int
    version: str
    children: list[ChildDetails]


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "actors", shared)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_show)


@asynccontextmanager
async def answering(drive: GoDrive, folder: Path) -> AsyncIterator[None]:
    """Answer on a socket in *folder*.  If that is not possible, log why and continue."""
    path = folder / PATTERN.format(os.getpid())
    try:
        make_path(folder)  # a process may keep nothing else there
        listening = _listen(folder, path)
    except OSError as error:
        log.warning("actors_not_shown", error=error.strerror or str(error), path=str(path))
        yield
        return

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(msgspec.json.encode(Process(os.getpid(), __version__, drive.details())))
        writer.close()

    server = await asyncio.start_unix_server(answer, sock=listening)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def _listen(folder: Path, path: Path) -> socket.socket:
    for left in folder.glob(PATTERN.format("*")):  # by servers that were killed
        if left == path or _is_dead(left):
            left.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))  # nobody can connect before it listens
        path.chmod(_MODE)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _show(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    if not is_folder(config.data_dir):
        raise ConfigError(f"There is no drive in {config.data_dir}", hint="Name another folder with --data-dir.")
    paths = [path for path in sorted(config.data_dir.glob(PATTERN.format("*"))) if not _is_dead(path)]
    if not paths:
        raise NotFound(f"No server runs on {config.data_dir}.")
    processes = [_ask(path) for path in paths]
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(processes)).decode() + "\n")
    else:
        sys.stdout.write("\n".join(map(_text, processes)))
    return 0


def _ask(path: Path) -> Process:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(WITHIN)
        try:
            asking.connect(str(path))
            parts = []
            while part := asking.recv(65_536):
                parts.append(part)
        except PermissionError:
            raise ConfigError(f"{path} may not be opened.", hint="Run the command as the user of the server.") from None
        except TimeoutError:
            raise StoreUnavailable(f"The process behind {path} does not answer: its event loop is stuck.") from None
    return msgspec.json.decode(b"".join(parts), type=Process)


def _text(process: Process) -> str:
    lines = [f"process {process.pid}, GoDrive {process.version}"]
    for child in process.children:
        status = child.status
        words = [f"  {status.name:<12} {status.state:<10}"]
        if status.queued:
            words.append(f"{status.queued} queued, the first for {child.oldest:.3f} s")
        if status.restarts:
            words.append(counted(status.restarts, "restart"))
        lines.append("  ".join(words).rstrip())
        lines += [
            f"    {hand.message}, for {hand.age:.3f} s after {hand.waited:.3f} s in the mailbox"
            + (f", request {hand.request_id}" if hand.request_id else "")
            for hand in child.in_hand
        ]
        if (crash := child.last_crash) is not None:
            lines.append(f"    crashed {crash.age:.0f} s ago in {crash.doing or 'run'}: {crash.error}")
    return "\n".join(lines) + "\n"
