"""``godrive recount``: correct what is kept about the files of users: their usage and the index of names."""

from __future__ import annotations

import argparse
import sys

import msgspec

from godrive import logs
from godrive.commands import Commands, add_command, need_drive
from godrive.commands.running import run
from godrive.config import Config
from godrive.counted import counted

_AT_ONCE = 128


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "recount", shared)
    parser.add_argument("--check", action="store_true", help="change nothing, and exit with 1 if something is wrong")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_recount)


def _recount(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    need_drive(config)
    logs.configure(config.log, sys.stderr)
    result = {"bytes": 0, "rows": 0, "corrected": 0, "names": 0}

    async def recount() -> None:
        from godrive.blobs.memory import MemoryBlobStore  # noqa: PLC0415
        from godrive.drive import GoDrive  # noqa: PLC0415
        from godrive.messages.system import CheckNames, IndexNames, RecountUsage, UsageDrift  # noqa: PLC0415

        # Nothing here needs the blobs.
        async with GoDrive(config, blobs=MemoryBlobStore(), on_event=logs.on_event, serving=False) as drive:
            drift = await drive.metadata.ask(UsageDrift())
            result.update(bytes=drift.bytes, rows=drift.rows)
            while not arguments.check and (corrected := await drive.metadata.ask(RecountUsage())):
                result["corrected"] += corrected
            checked = await drive.metadata.ask(CheckNames(correct=not arguments.check))
            result["names"] += len(checked.wrong)
            while checked.next:
                checked = await drive.metadata.ask(CheckNames(after=checked.next, correct=not arguments.check))
                result["names"] += len(checked.wrong)
            waits = not arguments.check and result["names"] > 0
            while waits:
                waits = await drive.metadata.ask(IndexNames(_AT_ONCE))

    run(recount())
    wrong = bool(result["bytes"] or result["rows"] or result["names"])
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    elif not wrong:
        sys.stdout.write("The usage of every user equals their files, and the index has every name.\n")
    else:
        done = "nothing was changed" if arguments.check else f"corrected {counted(result['corrected'], 'user')}"
        sys.stdout.write(
            f"The stored usage differed by {counted(result['bytes'], 'byte')} and {counted(result['rows'], 'row')}, "
            f"the index by {counted(result['names'], 'name')}; {done}.\n"
        )
    return 1 if wrong and arguments.check else 0
