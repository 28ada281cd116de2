"""``godrive login``, ``ls``, ``put``, ``get`` and their like: a client of a running server."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from godrive.client.printing import printable
from godrive.commands import Commands, add_command
from godrive.commands.running import run
from godrive.errors import ConfigError, DriveError, Invalid, NotFound

if TYPE_CHECKING:
    from datetime import datetime

    from tqdm import tqdm

    from godrive.client.remote import Entry, Remote

Action: TypeAlias = "Callable[[Remote, argparse.Namespace], Awaitable[int]]"

SERVER_VARIABLE = "GODRIVE_SERVER"
_PATIENCE, _PATIENCE_OF_COPIES = 15.0, 300.0
"""Seconds for which a command tries again if the server does not answer; copying begins anew with each byte."""
_MOST_LEVELS = 1024
"""No entry has more names in its path."""
_CONFLICTS = ("replace", "fail", "rename")


def register(commands: Commands, _shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--server", metavar="URL", help=f"the server (default: {SERVER_VARIABLE}, else the one of the last log-in)"
    )

    def command(name: str, action: Action) -> argparse.ArgumentParser:
        parser = add_command(commands, name, shared)
        parser.set_defaults(run=_run, action=action, patience=_PATIENCE)
        return parser

    log_in = command("login", _log_in)
    log_in.add_argument("email", metavar="EMAIL", nargs="?", help="the e-mail address of the account")
    command("logout", _log_out)

    ls = command("ls", _ls)
    ls.add_argument("path", metavar="PATH", nargs="?", default="/")
    _add_json(ls)

    put = command("put", _put)
    put.add_argument("sources", metavar="FILE", nargs="+", type=Path)
    put.add_argument("target", metavar="PATH", help="the new path, or a folder; with a slash at the end, a folder")
    put.add_argument(
        "--on-conflict",
        choices=_CONFLICTS,
        default="replace",
        help="what to do if the name is taken (default: replace)",
    )
    _add_jobs(put)

    get = command("get", _get)
    get.add_argument("sources", metavar="PATH", nargs="+")
    get.add_argument(
        "target",
        metavar="FILE",
        help="the new path, or a folder; with a slash at the end, a folder; - is standard output",
    )
    _add_jobs(get)

    mkdir = command("mkdir", _mkdir)
    mkdir.add_argument(
        "-p", "--parents", action="store_true", help="create missing parents too, and accept existing folders"
    )
    mkdir.add_argument("paths", metavar="PATH", nargs="+")

    for name, action in (("mv", _mv), ("cp", _cp)):
        parser = command(name, action)
        parser.add_argument("sources", metavar="SOURCE", nargs="+")
        parser.add_argument("target", metavar="TARGET", help="the new path, or an existing folder")

    rm = command("rm", _rm)
    rm.add_argument("paths", metavar="PATH", nargs="+")

    find = command("find", _find)
    find.add_argument("words", metavar="WORD", nargs="+", help="a word that the name contains")
    find.add_argument("--in", dest="folder", metavar="PATH", help="search only in this folder, at any depth")
    _add_json(find)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object for each entry")


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-j", "--jobs", type=_positive, default=4, metavar="N", help="copy N files at once (default: 4)"
    )
    parser.set_defaults(patience=_PATIENCE_OF_COPIES)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("a number from 1 to 64 is needed")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    import os  # noqa: PLC0415

    from godrive.client.remote import Remote  # noqa: PLC0415

    code = 0

    async def act() -> None:
        nonlocal code
        server = arguments.server or os.environ.get(SERVER_VARIABLE)
        async with Remote(server, patience=arguments.patience) as remote:
            code = await arguments.action(remote, arguments)

    run(act())
    return code


async def _log_in(remote: Remote, arguments: argparse.Namespace) -> int:
    is_interactive = sys.stdin.isatty()
    email = arguments.email
    if not email:
        if not is_interactive:
            raise ConfigError("Name the account.", hint="godrive login EMAIL < password")
        sys.stderr.write("E-mail address: ")
        sys.stderr.flush()
        email = sys.stdin.readline().strip()
    password = getpass.getpass("Password: ") if is_interactive else sys.stdin.readline().rstrip("\r\n")
    await remote.log_in(email, password)
    sys.stdout.write(f"Logged in on {remote.url} as {email}.\n")
    return 0


async def _log_out(remote: Remote, _arguments: argparse.Namespace) -> int:
    await remote.log_out()
    return 0


async def _ls(remote: Remote, arguments: argparse.Namespace) -> int:
    entry = await _named(remote, arguments.path)
    if not entry.is_folder:
        _show(entry, entry.name, arguments)
        return 0
    async for child in remote.children(entry.id):
        _show(child, child.name, arguments)
    return 0


async def _named(remote: Remote, path: str) -> Entry:
    """Return the entry at *path*.  An error names the path, because one line on standard error is all there is."""
    try:
        return await remote.get(path)
    except NotFound as error:
        error.detail = f"{printable(path)}: {error.detail}"
        raise


def _show(entry: Entry, name: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(entry).decode() + "\n")
        return
    size = "-" if entry.is_folder else str(entry.size_bytes)
    sys.stdout.write(
        f"{size:>14}  {_local_time(entry.modified_at):16}  {printable(name)}{'/' if entry.is_folder else ''}\n"
    )


def _local_time(at: datetime | None) -> str:
    """Return a time on the clock of this machine; in UTC at the ends of the calendar, where that clock has none."""
    if at is None:
        return ""
    with suppress(OverflowError):
        at = at.astimezone()
    return f"{at:%Y-%m-%d %H:%M}"


async def _put(remote: Remote, arguments: argparse.Namespace) -> int:
    from godrive.client.uploads import upload  # noqa: PLC0415

    with closing(_Shown()) as shown:
        await upload(
            remote,
            arguments.sources,
            arguments.target,
            shown,
            at_once=arguments.jobs,
            on_conflict=arguments.on_conflict,
        )
    return shown.code


async def _get(remote: Remote, arguments: argparse.Namespace) -> int:
    from godrive.client.downloads import download, fetch_to  # noqa: PLC0415

    if arguments.target == "-":
        for source in arguments.sources:
            entry = await _named(remote, source)
            if entry.is_folder:
                raise Invalid(f"{source} is a folder.")
            await fetch_to(remote, entry, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return 0
    with closing(_Shown()) as shown:
        await download(remote, arguments.sources, arguments.target, shown, at_once=arguments.jobs)
    return shown.code


async def _mkdir(remote: Remote, arguments: argparse.Namespace) -> int:
    return await _each(arguments.paths, lambda path: remote.make_folder(path, parents=arguments.parents))


async def _mv(remote: Remote, arguments: argparse.Namespace) -> int:
    return await _each(arguments.sources, lambda path: _relocate(remote, path, arguments, remote.move))


async def _cp(remote: Remote, arguments: argparse.Namespace) -> int:
    return await _each(arguments.sources, lambda path: _relocate(remote, path, arguments, remote.copy))


async def _relocate(
    remote: Remote,
    path: str,
    arguments: argparse.Namespace,
    act: Callable[[Entry, str, str], Awaitable[Entry]],
) -> None:
    from godrive.client.transfers import place  # noqa: PLC0415

    entry = await remote.get(path)
    parent_id, name = await place(remote, arguments.target, entry.name)
    if len(arguments.sources) > 1 and name != entry.name:
        raise NotFound(f"There is no folder {arguments.target}.")
    await act(entry, parent_id, name)


async def _rm(remote: Remote, arguments: argparse.Namespace) -> int:
    return await _each(arguments.paths, remote.trash)


async def _each(paths: list[str], act: Callable[[str], Awaitable[Any]]) -> int:
    """Act on each path, also after one has failed.  Returns the exit code."""
    code = 0
    for path in paths:
        try:
            await act(path)
        except ConfigError:
            raise
        except DriveError as error:
            sys.stderr.write(f"godrive: {path}: {error.detail}\n")
            code = 1
    return code


async def _find(remote: Remote, arguments: argparse.Namespace) -> int:
    folder_id = None if arguments.folder is None else (await _named(remote, arguments.folder)).id
    paths: dict[str | None, str] = {None: ""}
    async for entry in remote.search(" ".join(arguments.words), folder_id):
        _show(entry, f"{await _path_of(remote, entry.parent_id, paths)}/{entry.name}", arguments)
    return 0


async def _path_of(remote: Remote, folder_id: str | None, paths: dict[str | None, str]) -> str:
    """Return the path of a folder, and add it and those of the folders above to *paths*.  Raises ``NotGoDrive``."""
    from godrive.client.connection import NotGoDrive  # noqa: PLC0415

    unknown: list[tuple[str, str]] = []
    while folder_id not in paths:
        if len(unknown) == _MOST_LEVELS:
            raise NotGoDrive
        folder = await remote.get_by_id(str(folder_id))
        unknown.append((str(folder_id), folder.name))
        folder_id = folder.parent_id
    path = paths[folder_id]
    for known_id, name in reversed(unknown):
        path = paths[known_id] = f"{path}/{name}"
    return path


class _Shown:
    """Progress on the terminal: a bar while standard error is one, else a line for each file."""

    def __init__(self) -> None:
        self.code = 0
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415

            self._bar = tqdm(total=0, unit="B", unit_scale=True, unit_divisor=1024, dynamic_ncols=True)

    def found(self, size: int) -> None:
        if self._bar is not None:
            self._bar.total = (self._bar.total or 0) + size
            self._bar.refresh()

    def moved(self, size: int) -> None:
        if self._bar is not None:
            self._bar.update(size)

    def done(self, name: str, size: int) -> None:
        if self._bar is None:
            sys.stdout.write(f"{size:>14}  {printable(name)}\n")

    def skipped(self, name: str, size: int) -> None:
        """Nothing is to be said: nothing has happened."""

    def failed(self, name: str, reason: str) -> None:
        self.code = 1
        line = f"godrive: {printable(name)}: {reason}"
        if self._bar is None:
            sys.stderr.write(f"{line}\n")
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
