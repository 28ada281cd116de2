"""``godrive sweep``: run the chores of the janitor once."""

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
    text = "purge what is due and remove leftovers; a server may be running"
    parser = add(commands, "sweep", text, shared)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--trust-clock", action="store_true", help="purge even if the clock seems to have jumped")
    parser.set_defaults(run=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    logs.configure(config.log, sys.stderr)
    failed = 0

    async def sweep() -> None:
        from godrive.drive import GoDrive  # noqa: PLC0415
        from godrive.messages.janitor import Sweep  # noqa: PLC0415

        nonlocal failed
        async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
            swept = await drive.janitor.ask(Sweep(trust_clock=arguments.trust_clock))
        failed = swept.failed
        if arguments.json:
            sys.stdout.write(msgspec.json.encode(swept).decode() + "\n")
            return
        counts = msgspec.structs.asdict(swept)
        problem = counts.pop("problem")
        sys.stdout.writelines(f"{count:>8} {what}\n" for what, count in counts.items() if count or what == "purged")
        if problem:
            sys.stderr.write(f"godrive: {problem}\n")

    run(sweep())
    return 1 if failed else 0
