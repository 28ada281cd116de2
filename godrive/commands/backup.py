"""``godrive backup``: make, list, verify, prune and restore backups."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import msgspec

from godrive import logs
from godrive.clock import SystemClock
from godrive.commands import Commands, add_group, has_sqlite_catalog, pacer, size
from godrive.commands import add as add_command
from godrive.commands.serve import run
from godrive.config import Config
from godrive.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from godrive.backup.create import Progress
    from godrive.backup.target import Snapshot, Target

Action: TypeAlias = "Callable[[Config, argparse.Namespace], Coroutine[Any, Any, int]]"

_TARGET = "a folder, or s3://BUCKET/PREFIX in the store of blobs.s3"

TOLD_EVERY = 1.0
"""Seconds between two lines of progress on a terminal."""


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the commands."""
    actions = add_group(commands, "backup", "make, verify and restore backups")

    def add(name: str, action: Action, text: str) -> argparse.ArgumentParser:
        command = add_command(actions, name, text, shared)
        command.add_argument(
            "target", metavar="TARGET", help="a folder, or s3://BUCKET/PREFIX in the store of blobs.s3"
        )
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=_run, action=action)
        return command

    def paced(command: argparse.ArgumentParser) -> None:
        command.add_argument("--rate", type=size, default=0, metavar="SIZE", help="bytes to read in a second, at most")

    paced(add("create", _create, "add a snapshot of the drive; a server may be running"))
    add("list", _list, "list the snapshots")
    verify = add("verify", _verify, "read everything back and compare it with what was stored")
    paced(verify)
    verify.add_argument("--snapshot", metavar="ID", help="only this snapshot; by default all")
    prune = add("prune", _prune, "delete old snapshots, and blobs that no other needs")
    for name, number in (("daily", 7), ("weekly", 5), ("monthly", 12)):
        text = f"snapshots to keep, the newest of each of so many {name[:-2] if name != 'daily' else 'day'}s"
        prune.add_argument(f"--{name}", type=int, default=number, metavar="N", help=f"{text} (default: {number})")
    restore = add("restore", _restore, "restore a snapshot into the configured, empty drive")
    paced(restore)
    restore.add_argument("--snapshot", metavar="ID", help="this snapshot; by default the newest")


def _run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    logs.configure(config.log, sys.stderr)
    code = 0

    async def act() -> None:
        nonlocal code
        code = await arguments.action(config, arguments)

    run(act())
    return code


@asynccontextmanager
async def _target(config: Config, arguments: argparse.Namespace, *, create: bool = False) -> AsyncIterator[Target]:
    from godrive.backup.target import open_target  # noqa: PLC0415

    async with open_target(arguments.target, config, SystemClock(), create=create) as target:
        yield target


async def _create(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.create import Progress, create  # noqa: PLC0415
    from godrive.drive import GoDrive  # noqa: PLC0415

    if config.catalog.driver == "sqlite" and not has_sqlite_catalog(config):
        raise ConfigError(f"There is no drive in {config.data_dir}", hint="Name another folder with --data-dir.")
    progress = Progress()
    async with (
        _target(config, arguments, create=True) as target,
        GoDrive(config, on_event=logs.on_event, serving=False) as drive,
        _telling(progress),
    ):
        snapshot = await create(drive, target, progress, pace=pacer(arguments.rate))
    _show(arguments, [snapshot])
    return 0


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
        async for problem in verify(target, chosen, progress, pace=pacer(arguments.rate)):
            problems.append(problem)
            if not arguments.json:
                _say(problem)
    if arguments.json:
        result = {"snapshots": len(chosen), "blobs": progress.blobs, "bytes": progress.bytes, "problems": problems}
        _say(msgspec.json.encode(result).decode())
    else:
        _say(f"{len(chosen)} snapshots, {progress.blobs} blobs of {progress.bytes} bytes: {len(problems)} problems.")
    return 1 if problems else 0


async def _prune(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.verify import chosen, prune  # noqa: PLC0415

    async with _target(config, arguments) as target:
        keep = chosen(
            await target.snapshots(), daily=arguments.daily, weekly=arguments.weekly, monthly=arguments.monthly
        )
        snapshots, blobs = await prune(target, keep)
    if arguments.json:
        _say(msgspec.json.encode({"kept": len(keep), "snapshots": snapshots, "blobs": blobs}).decode())
    else:
        _say(f"Kept {len(keep)} snapshots; deleted {snapshots} snapshots and {blobs} blobs.")
    return 0


async def _restore(config: Config, arguments: argparse.Namespace) -> int:
    from godrive.backup.create import Progress  # noqa: PLC0415
    from godrive.backup.restore import restore  # noqa: PLC0415
    from godrive.opening import make_blobs  # noqa: PLC0415

    progress, blobs = Progress(), make_blobs(config, SystemClock())
    async with _target(config, arguments) as target, _telling(progress):
        snapshot = await target.find(arguments.snapshot)
        try:
            await blobs.open()
            path = await restore(config, blobs, target, snapshot, progress, pace=pacer(arguments.rate))
        finally:
            await blobs.close()
    if path is not None:
        from godrive.catalog.copy import copy_catalog  # noqa: PLC0415
        from godrive.rules.housekeeping import check_usage  # noqa: PLC0415

        await copy_catalog(path, config.catalog, check=check_usage)
        path.unlink()
    _say(f"Restored {snapshot.id}: {progress.blobs} blobs of {progress.bytes} bytes. Nothing expires for a day.")
    return 0


def _show(arguments: argparse.Namespace, snapshots: list[Snapshot]) -> None:
    if arguments.json:
        rows = [msgspec.to_builtins(snapshot) for snapshot in snapshots]
        for row in rows:
            del row["keyring"]
        _say(msgspec.json.encode(rows).decode())
        return
    for each in snapshots:
        added = f"{each.added_blobs} blobs of {each.added_bytes} bytes added"
        _say(f"{each.id}  {each.created_at:%Y-%m-%d %H:%M:%S} UTC  {each.blobs} blobs of {each.bytes} bytes, {added}")


@asynccontextmanager
async def _telling(progress: Progress) -> AsyncIterator[None]:
    """Show progress on a terminal."""
    if not sys.stderr.isatty():
        yield
        return

    async def tell() -> None:
        while True:
            await anyio.sleep(TOLD_EVERY)
            sys.stderr.write(f"\r\x1b[K{progress.blobs} blobs, {progress.bytes} bytes")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        yield
        tasks.cancel_scope.cancel()
    sys.stderr.write("\r\x1b[K")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
