"""``godrive sweep``: run the chores of the janitor once."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import msgspec

from godrive import logs
from godrive.commands import Commands, add_command, need_drive
from godrive.commands.running import run
from godrive.config import Config
from godrive.errors import ConfigError

if TYPE_CHECKING:
    from godrive.drive import GoDrive


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "sweep", shared)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    moves = parser.add_mutually_exclusive_group()
    moves.add_argument("--pack", action="store_true", help="also move small blobs from files into packs")
    moves.add_argument("--unpack", action="store_true", help="also move every packed blob into a file of its own")
    parser.set_defaults(run=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    need_drive(config)
    logs.configure(config.log, sys.stderr)
    failed = 0

    async def sweep() -> None:
        from godrive.drive import GoDrive  # noqa: PLC0415
        from godrive.messages.janitor import Sweep  # noqa: PLC0415

        nonlocal failed
        async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
            swept = await drive.janitor.ask(Sweep())
            moved = await _move(drive, pack=arguments.pack, unpack=arguments.unpack)
        failed = swept.failed
        counts = msgspec.structs.asdict(swept) | moved
        if arguments.json:
            sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
            return
        problem = counts.pop("problem")
        sys.stdout.writelines(
            f"{count:>8} {what}\n" for what, count in counts.items() if count or what in ("purged", *moved)
        )
        if problem:
            sys.stderr.write(f"godrive: {problem}\n")

    run(sweep())
    return 1 if failed else 0


async def _move(drive: GoDrive, *, pack: bool, unpack: bool) -> dict[str, int]:
    """Move small blobs into the packs or out of them, and return how many.  Raises ``ConfigError``."""
    from godrive.blobs.disk import DiskBlobStore  # noqa: PLC0415

    if not pack and not unpack:
        return {}
    if not isinstance(drive.blobs, DiskBlobStore):
        raise ConfigError("Only the disk store has packs.", field="blobs.driver")
    if unpack:
        return {"unpacked": await drive.blobs.unpack()}
    if not drive.blobs.pack_below:
        raise ConfigError("No blob is small enough to be packed.", field="blobs.pack_below", hint="Set it above 0.")
    return {"packed": await drive.blobs.pack()}
