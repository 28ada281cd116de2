"""``godrive export``: write the drive of a user to a local folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from godrive import logs
from godrive.commands import Commands, add_command, need_drive, one_line, size_text
from godrive.commands.importing import folders_of
from godrive.commands.progress import clear, telling
from godrive.commands.running import raise_limit, run
from godrive.commands.user import find_user
from godrive.config import Config
from godrive.counted import counted
from godrive.errors import ConfigError

if TYPE_CHECKING:
    from godrive.exchange.exporting import Exported, ExportProblem


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "export", shared)
    parser.add_argument("target", metavar="DIR", type=Path, help="the folder, which is created if absent")
    parser.add_argument("--user", metavar="USER", required=True, help="e-mail address or id")
    parser.add_argument("--json", action="store_true", help="print lines of JSON: each problem, then the counts")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    need_drive(config)
    if any(arguments.target.resolve().is_relative_to(folder.resolve()) for folder in folders_of(config)):
        raise ConfigError(f"{arguments.target} is the folder of a drive.", hint="Export to another folder.")
    raise_limit()
    logs.configure(config.log, sys.stderr)
    is_complete = False

    async def act() -> None:
        nonlocal is_complete
        is_complete = (await _export_drive(arguments, config)).is_complete

    run(act())
    return 0 if is_complete else 1


async def _export_drive(arguments: argparse.Namespace, config: Config) -> Exported:
    from godrive.drive import GoDrive  # noqa: PLC0415
    from godrive.exchange.exporting import Exporter  # noqa: PLC0415
    from godrive.principal import HostUser  # noqa: PLC0415

    def note(report: ExportProblem) -> None:
        if arguments.json:
            _say(msgspec.json.encode(report).decode())
        else:
            _say(f"{clear()}{report.problem:<10} {one_line(report.path)}: {report.detail}")

    async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
        user = await find_user(drive, arguments.user)
        exporter = Exporter(drive, HostUser(user_id=user.id), note=note)
        async with telling(lambda: _progress(exporter.counts)):
            try:
                await exporter.run(arguments.target, user.email or user.external_id or user.id)
            finally:
                _report(exporter.counts, arguments)
    return exporter.counts


def _progress(counts: Exported) -> str:
    return f"{counted(counts.files, 'file')} exported, {size_text(counts.bytes)}; already there: {counts.present}"


def _report(counts: Exported, arguments: argparse.Namespace) -> None:
    if arguments.json:
        _say(msgspec.json.encode(counts).decode())
        return
    _say(
        f"{clear()}Exported {counted(counts.files, 'file')} of {counted(counts.bytes, 'byte')} and "
        f"{counted(counts.folders, 'folder')}. Already there: {counted(counts.present, 'file')}. "
        f"Names that differ, as the manifest says: {counts.mapped}."
    )
    left = {name: getattr(counts, name) for name in ("in_the_way", "damaged", "failed")}
    if any(left.values()):
        _say("Not exported: " + ", ".join(f"{number} {name}" for name, number in left.items() if number) + ".")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
