"""``godrive backup``: make, list, verify, prune and restore backups."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from godrive import logs
from godrive.clock import SystemClock
from godrive.commands import Commands, add_action, add_group, need_drive, size, size_text
from godrive.commands.progress import pacer, telling
from godrive.commands.running import run
from godrive.commands.user import find_user, new_secret
from godrive.config import Config
from godrive.counted import counted
from godrive.errors import ConfigError
from godrive.paths import exists
from godrive.priority import run_in_background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godrive.backup.create import Progress
    from godrive.backup.restore_files import RestoredFiles
    from godrive.backup.rests import Pace
    from godrive.backup.target import Snapshot, Target
    from godrive.drive import GoDrive

Action: TypeAlias = "Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]"

_TARGET = "a folder, or s3://BUCKET/PREFIX in the store of blobs.s3"


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "backup")

    def add(name: str, action: Action, text: str) -> argparse.ArgumentParser:
        command = add_action(actions, name, text, shared)
        command.add_argument("target", nargs="?", metavar="TARGET", help=f"{_TARGET} (default: backup.target)")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=_run, action=action)
        return command

    def paced(command: argparse.ArgumentParser) -> None:
        text = "bytes to read in a second, at most (default: backup.rate)"
        command.add_argument("--rate", type=size, metavar="SIZE", help=text)

    create = add("create", _create, "add a snapshot of the drive; a server may be running")
    paced(create)
    create.add_argument(
        "--prune", action="store_true", help="then delete old snapshots, as the settings of [backup] say"
    )
    text = "leave the machine to a server: run with a low priority, and rest between slices of work"
    create.add_argument("--background", action="store_true", help=text)
    add("list", _list, "list the snapshots")
    verify = add("verify", _verify, "read everything back and compare it with what was stored")
    paced(verify)
    verify.add_argument("--snapshot", metavar="ID", help="only this snapshot; by default all")
    prune = add("prune", _prune, "delete old snapshots, and blobs that no other needs")
    for name, period in (("daily", "days"), ("weekly", "weeks"), ("monthly", "months")):
        text = f"snapshots to keep, the newest of each of so many {period} (default: backup.keep_{name})"
        prune.add_argument(f"--{name}", type=int, metavar="N", help=text)
    text = "change the passphrase of an encrypted backup; the new one is asked for, or read from standard input"
    add("passphrase", _passphrase, text)
    text = "restore a snapshot into the configured, empty drive; or the files of one user, beside a running server"
    restore = add("restore", _restore, text)
    paced(restore)
    restore.add_argument("--snapshot", metavar="ID", help="this snapshot; by default the newest")
    restore.add_argument("--user", metavar="USER", help="only files of this user, who exists (e-mail address or id)")
    text = "restore the drive also if blobs of the backup are damaged; their files cannot be read"
    restore.add_argument("--despite-damage", action="store_true", help=text)
    restore.add_argument("--path", default="", metavar="PATH", help="only this file or folder of the user")


def _run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    logs.configure(config.log, sys.stderr)
    code = 0

    async def act() -> None:
        nonlocal code
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - this is a task

        def stop() -> None:
            nonlocal code
            code = 128 + signal.SIGTERM
            me.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)  # a server that stops sends it
        try:
            code = await arguments.action(config, arguments)
        except asyncio.CancelledError:
            if not code:
                raise

    run(act())
    return code


@asynccontextmanager
async def _target(config: Config, arguments: argparse.Namespace, *, create: bool = False) -> AsyncIterator[Target]:
    from godrive.backup.target import open_target  # noqa: PLC0415

    async with open_target(_name_of(config, arguments), config, SystemClock(), create=create) as target:
        yield target


def _name_of(config: Config, arguments: argparse.Namespace) -> str:
    name: str = arguments.target or config.backup.target
    if not name:
        raise ConfigError("Name the backup, or set backup.target.", field="backup.target")
    return name


def _pace(config: Config, arguments: argparse.Namespace) -> Pace | None:
    return pacer(config.backup.rate if arguments.rate is None else arguments.rate)


async def _create(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.create import Progress, create  # noqa: PLC0415
    from godrive.backup.rests import BACKGROUND, Rests  # noqa: PLC0415
    from godrive.backup.verify import prune  # noqa: PLC0415
    from godrive.drive import GoDrive  # noqa: PLC0415

    need_drive(config)
    if arguments.background:
        run_in_background()
    progress, rests = Progress(), Rests(BACKGROUND if arguments.background else 1.0)
    async with GoDrive(config, on_event=logs.on_event, serving=False) as drive, AsyncExitStack() as stack:
        if not arguments.target:
            await _check_is_there(drive)
        target = await stack.enter_async_context(_target(config, arguments, create=True))
        await stack.enter_async_context(_telling(progress))
        snapshot = await create(drive, target, progress, pace=_pace(config, arguments), rests=rests)
        _show(arguments, [snapshot])
        if arguments.prune:
            await prune(target, await _kept(config, target), rests)
    return 0


async def _check_is_there(drive: GoDrive) -> None:
    """Check that the folder of the configured target, if it ever had a backup, still has one.  Raises ``ConfigError``.

    If its disk is not mounted, another backup would fill the disk beneath.
    """
    from godrive.messages.backups import ListBackups  # noqa: PLC0415

    target, folder = drive.config.backup.target, Path(drive.config.backup.target)
    if not target or target.startswith("s3:") or exists(folder / "objects"):
        return
    for made in await drive.metadata.ask(ListBackups()):
        if made.target == str(folder):
            raise ConfigError(
                f"The backup in {target}, made on {made.made_at:%Y-%m-%d}, is not there.",
                field="backup.target",
                hint=f"Mount its disk. To begin another one in its place: mkdir -p {target}/objects",
            )


async def _list(config: Config, arguments: argparse.Namespace) -> int:
    async with _target(config, arguments) as target:
        _show(arguments, await target.snapshots())
    return 0


async def _verify(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.create import Progress  # noqa: PLC0415
    from godrive.backup.verify import verify  # noqa: PLC0415

    progress, problems = Progress(), []
    async with _target(config, arguments) as target, _telling(progress):
        chosen = [await target.find(arguments.snapshot)] if arguments.snapshot else await target.snapshots()
        if not chosen:
            raise ConfigError("There is no whole snapshot to verify.", hint="godrive backup create makes one.")
        async for problem in verify(target, chosen, progress, pace=_pace(config, arguments)):
            problems.append(problem)
            if not arguments.json:
                _say(problem)
    if arguments.json:
        result = {"snapshots": len(chosen), "blobs": progress.blobs, "bytes": progress.bytes, "problems": problems}
        _say(msgspec.json.encode(result).decode())
    else:
        _say(f"{counted(len(chosen), 'snapshot')}, {_blobs(progress)}: {counted(len(problems), 'problem')}.")
    return 1 if problems else 0


async def _prune(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.verify import prune  # noqa: PLC0415

    given = {name: getattr(arguments, name) for name in ("daily", "weekly", "monthly")}
    kept = {f"keep_{name}": number for name, number in given.items() if number is not None}
    config = msgspec.structs.replace(config, backup=msgspec.structs.replace(config.backup, **kept))
    async with _target(config, arguments) as target:
        keep = await _kept(config, target)
        snapshots, blobs = await prune(target, keep)
    if arguments.json:
        _say(msgspec.json.encode({"kept": len(keep), "snapshots": snapshots, "blobs": blobs}).decode())
    else:
        deleted = f"{counted(snapshots, 'snapshot')} and {counted(blobs, 'blob')}"
        _say(f"Kept {counted(len(keep), 'snapshot')}; deleted {deleted}.")
    return 0


async def _passphrase(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.passphrase import change_passphrase  # noqa: PLC0415

    name = _name_of(config, arguments)
    passphrase = new_secret("passphrase")
    await change_passphrase(name, config, SystemClock(), passphrase)
    if arguments.json:
        _say(msgspec.json.encode({"changed": name}).decode())
    else:
        _say(f"The passphrase of {name} was changed. The old one does not open it any more.")
    return 0


async def _kept(config: Config, target: Target) -> list[Snapshot]:
    """Return the snapshots that the settings keep."""
    from godrive.backup.verify import chosen  # noqa: PLC0415

    settings, snapshots = config.backup, await target.snapshots()
    numbers = (settings.keep_daily, settings.keep_weekly, settings.keep_monthly)
    return chosen(snapshots, daily=numbers[0], weekly=numbers[1], monthly=numbers[2]) if any(numbers) else snapshots


async def _restore(config: Config, arguments: argparse.Namespace) -> int:
    if arguments.user:
        return await _restore_files(config, arguments)
    if arguments.path:
        raise ConfigError("--path needs --user.")
    from godrive.backup.copying import Damaged  # noqa: PLC0415
    from godrive.backup.create import Progress  # noqa: PLC0415
    from godrive.backup.restore import restore  # noqa: PLC0415
    from godrive.opening import make_blobs  # noqa: PLC0415

    progress, blobs = Progress(), make_blobs(config, SystemClock(), guest=True)
    async with _target(config, arguments) as target, _telling(progress):
        snapshot, damaged = await target.find(arguments.snapshot), Damaged(target.store)
        accepted, pace = damaged if arguments.despite_damage else None, _pace(config, arguments)
        try:
            await blobs.open()
            path = await restore(
                config, blobs, target, snapshot, progress, clock=SystemClock(), pace=pace, damaged=accepted
            )
        finally:
            await blobs.close()
    if path is not None:
        from godrive.catalog.copy import copy_catalog  # noqa: PLC0415
        from godrive.rules.housekeeping import check_usage  # noqa: PLC0415

        await copy_catalog(path, config.catalog, check=check_usage)
        path.unlink()
    if damaged.count:
        _say(f"{damaged.text} godrive fsck shows their files.")
    _say(f"Restored {snapshot.id}: {_blobs(progress)}. Nothing expires for a day.")
    return 1 if damaged.count else 0


async def _restore_files(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.restore_files import RestoredFiles, restore_files  # noqa: PLC0415
    from godrive.drive import GoDrive  # noqa: PLC0415

    restored = RestoredFiles()
    async with (
        _target(config, arguments) as target,
        GoDrive(config, on_event=logs.on_event, serving=False) as drive,
        _telling(restored, "files"),
    ):
        user, snapshot = await find_user(drive, arguments.user), await target.find(arguments.snapshot)
        pace = _pace(config, arguments)
        await restore_files(drive, target, snapshot, user, restored, path=arguments.path, pace=pace)
    if arguments.json:
        _say(msgspec.json.encode(restored).decode())
    else:
        for each in restored.damaged:
            _say(f"damaged  {each}")
        what = f"{counted(restored.files, 'file')} of {counted(restored.bytes, 'byte')}"
        _say(f"Restored from {snapshot.id}: {what}. Already there: {restored.unchanged}.")
    return 1 if restored.damaged else 0


def _show(arguments: argparse.Namespace, snapshots: list[Snapshot]) -> None:
    if arguments.json:
        rows = [msgspec.to_builtins(snapshot) for snapshot in snapshots]
        for row in rows:
            del row["keyring"]
        _say(msgspec.json.encode(rows).decode())
        return
    for each in snapshots:
        added = f"{counted(each.added_blobs, 'blob')} of {counted(each.added_bytes, 'byte')} added"
        _say(f"{each.id}  {each.created_at:%Y-%m-%d %H:%M:%S} UTC  {_blobs(each)}, {added}")


def _blobs(of: Progress | Snapshot) -> str:
    return f"{counted(of.blobs, 'blob')} of {counted(of.bytes, 'byte')}"


def _telling(progress: Progress | RestoredFiles, what: str = "blobs") -> AbstractAsyncContextManager[None]:
    """Tell how many of *what* were done."""
    return telling(lambda: f"{counted(getattr(progress, what), what[:-1])}, {size_text(progress.bytes)}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
