"""``godrive recount``: set the kept usage of users to what their files add up to."""

from __future__ import annotations

import argparse
import sys

import msgspec

from godrive import logs
from godrive.commands import Commands, add
from godrive.commands.serve import run
from godrive.config import Config


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    text = "correct the kept usage of users from their files, also beside a running server"
    parser = add(commands, "recount", text, shared)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a usage is wrong")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.set_defaults(run=_recount)


def _recount(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    logs.configure(config.log, sys.stderr)
    result = {"bytes": 0, "rows": 0, "corrected": 0}

    async def recount() -> None:
        from godrive.drive import GoDrive  # noqa: PLC0415
        from godrive.messages.system import RecountUsage, UsageDrift  # noqa: PLC0415

        async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
            drift = await drive.metadata.ask(UsageDrift())
            result.update(bytes=drift.bytes, rows=drift.rows)
            while not arguments.check and (corrected := await drive.metadata.ask(RecountUsage())):
                result["corrected"] += corrected

    run(recount())
    wrong = bool(result["bytes"] or result["rows"])
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    elif not wrong:
        sys.stdout.write("The usage of every user is what their files add up to.\n")
    else:
        done = "nothing was changed" if arguments.check else f"{result['corrected']} users were corrected"
        sys.stdout.write(f"The kept usage differed by {result['bytes']} bytes and {result['rows']} rows; {done}.\n")
    return 1 if wrong and arguments.check else 0
