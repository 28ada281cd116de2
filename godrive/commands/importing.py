"""``godrive import``: bring a local folder into the drive of a user, or the accounts of File Browser."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from godrive import logs
from godrive.commands import Commands, add_command, need_drive, one_line, size_text
from godrive.commands.progress import clear, telling
from godrive.commands.running import raise_limit, run
from godrive.commands.user import find_user
from godrive.config import Config
from godrive.counted import counted
from godrive.errors import ConfigError, Invalid
from godrive.paths import exists, is_folder

if TYPE_CHECKING:
    from godrive.exchange.filebrowser import AccountResult
    from godrive.exchange.outcome import ImportCounts, ImportProblem

FILEBROWSER = "filebrowser"

_LINKS = "A hard link shares its bytes: a change of a file in the folder now changes it in the drive."


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "import", shared)
    parser.usage = (
        "godrive import [options] DIR --user USER [--into FOLDER]\n"
        f"       godrive import [options] {FILEBROWSER} USERS.json [--domain DOMAIN]"
    )
    parser.add_argument(
        "source", metavar="DIR", help=f"the folder to import; the word {FILEBROWSER} imports accounts instead"
    )
    parser.add_argument(
        "accounts", metavar="USERS.json", nargs="?", type=Path, help="the output of: filebrowser users export"
    )
    parser.add_argument("--user", metavar="USER", help="e-mail address or id")
    parser.add_argument(
        "--into", metavar="FOLDER", default="", help="the folder of the drive, as a/b (default: its root)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="store a file that differs as a new version; by default it is only reported",
    )
    parser.add_argument(
        "--hard-links", action="store_true", help="link files instead of copying them where blocks cannot be shared"
    )
    parser.add_argument("--domain", help="the e-mail domain of accounts whose names have none")
    parser.add_argument("--json", action="store_true", help="print lines of JSON: each problem, then the counts")
    parser.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    if arguments.accounts is not None:
        if arguments.source != FILEBROWSER:
            raise ConfigError(f"Accounts are imported with: godrive import {FILEBROWSER} USERS.json")
        return _import_accounts(arguments, config)
    if arguments.user is None:
        raise ConfigError("Name the user with --user.")
    need_drive(config)
    source, ours = Path(arguments.source), folders_of(config)
    if not is_folder(source):
        raise ConfigError(f"{source} is not a folder.")
    if any(source.resolve().is_relative_to(folder.resolve()) for folder in ours):
        raise ConfigError(f"{source} is the folder of a drive.", hint="Name the folder that has the files.")
    if arguments.hard_links:
        sys.stderr.write(f"godrive: warning: {_LINKS}\n")
    raise_limit()
    logs.configure(config.log, sys.stderr)
    is_complete = False

    async def act() -> None:
        nonlocal is_complete
        counts = await _import_folder(arguments, config, source, ours)
        is_complete = counts.is_complete

    run(act())
    return 0 if is_complete else 1


async def _import_folder(arguments: argparse.Namespace, config: Config, source: Path, ours: list[Path]) -> ImportCounts:
    from godrive.drive import GoDrive  # noqa: PLC0415
    from godrive.exchange import manifest  # noqa: PLC0415
    from godrive.exchange.importing import Importer  # noqa: PLC0415
    from godrive.files import names  # noqa: PLC0415
    from godrive.principal import HostUser  # noqa: PLC0415

    into = tuple(names(arguments.into)) if arguments.into.strip("/") else ()
    known = {(status.st_dev, status.st_ino) for status in map(os.stat, ours)}

    def note(problem: ImportProblem) -> None:
        if arguments.json:
            _say(msgspec.json.encode(problem).decode())
        else:
            _say(f"{clear()}{problem.problem:<10} {one_line(problem.path)}: {problem.detail}")

    async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
        user = await find_user(drive, arguments.user)
        importer = Importer(
            drive,
            HostUser(user_id=user.id),
            note=note,
            replace=arguments.replace,
            link=arguments.hard_links,
            is_ours=lambda device, inode: (device, inode) in known,
        )
        with ExitStack() as stack:
            lines = None
            if exists(source / manifest.NAME):
                lines = stack.enter_context(manifest.reading(source / manifest.NAME))
            async with telling(lambda: _progress(importer.counts)):
                try:
                    await importer.run(source, into, lines)
                finally:
                    _report(importer.counts, arguments)
    return importer.counts


def folders_of(config: Config) -> list[Path]:
    """The folders that belong to the drive, and exist."""
    return [folder for folder in (config.data_dir, config.blobs_path) if exists(folder)]


def _progress(counts: ImportCounts) -> str:
    return f"{counted(counts.files, 'file')} imported, {size_text(counts.bytes)}; already there: {counts.present}"


def _report(counts: ImportCounts, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _say(msgspec.json.encode(counts).decode())
        return
    _say(
        f"{clear()}Imported {counted(counts.files, 'file')} of {counted(counts.bytes, 'byte')} "
        f"(with shared blocks: {counts.shared}, hard links: {counts.linked}) and "
        f"{counted(counts.folders, 'folder')}. Already there: {counted(counts.present, 'file')}."
    )
    left = {name: getattr(counts, name) for name in ("skipped", "refused", "differs", "changed", "unreadable")}
    if any(left.values()):
        _say("Not imported: " + ", ".join(f"{number} {name}" for name, number in left.items() if number) + ".")


def _import_accounts(arguments: argparse.Namespace, config: Config) -> int:
    from godrive.exchange.filebrowser import AccountOutcome, import_accounts, read_accounts  # noqa: PLC0415

    accounts, refused = read_accounts(arguments.accounts), 0

    def told(result: AccountResult) -> None:
        nonlocal refused
        refused += result.outcome is AccountOutcome.REFUSED
        if arguments.json:
            _say(msgspec.json.encode(result).decode())
            return
        name = one_line(result.username)
        whose = f" as {result.email}" if result.email not in ("", result.username) else ""
        _say(f"{result.outcome:<8} {name}{whose}{f': {result.detail}' if result.detail else ''}")
        if result.outcome is AccountOutcome.ADDED and result.scope:
            folder = shlex.quote(one_line(os.path.normpath("/" + result.scope).lstrip("/") or "."))
            _say(f"         its files: godrive import {folder} --user {shlex.quote(result.email)}")

    async def act() -> None:
        from godrive.blobs.memory import MemoryBlobStore  # noqa: PLC0415
        from godrive.drive import GoDrive  # noqa: PLC0415

        async with GoDrive(config, blobs=MemoryBlobStore(), on_event=logs.on_event, serving=False) as drive:
            await import_accounts(drive, accounts, domain=arguments.domain, told=told)

    logs.configure(config.log, sys.stderr)
    run(act())
    if not accounts:
        raise Invalid("The file has no accounts.")
    return 1 if refused else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
