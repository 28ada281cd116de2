"""``godrive fsck``: compare files with their bytes, and repair without destroying anything."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from godrive import logs
from godrive.checker import Checked, check_blobs
from godrive.commands import Commands, add_command, need_drive, size
from godrive.commands.progress import pacer
from godrive.commands.running import run
from godrive.config import Config
from godrive.counted import counted
from godrive.errors import ConfigError, refused
from godrive.messages.expected import BlobFault, Fault
from godrive.messages.storage import QuarantineBlob
from godrive.messages.system import KnownKeys, RecountUsage, UsageDrift
from godrive.model import ObjectKey

if TYPE_CHECKING:
    from godrive.drive import GoDrive

REPAIRED = frozenset({Fault.ORPHAN, Fault.SIZE, Fault.DIGEST, Fault.UNREADABLE})
"""Faults whose blob can be set aside; what is missing can only come back from a backup."""

_TOLD_EVERY = 5.0


class Result(msgspec.Struct, kw_only=True):
    """What was found.  *usage* is by how many bytes and rows the stored usage differs."""

    blobs: int = 0
    bytes: int = 0
    findings: list[BlobFault] = []
    usage_bytes: int = 0
    usage_rows: int = 0
    quarantined: int = 0
    recounted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.findings or self.usage_bytes or self.usage_rows)


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "fsck", shared)
    parser.add_argument("--digests", action="store_true", help="read every blob and compare its SHA-256")
    parser.add_argument("--rate", type=size, default=0, metavar="SIZE", help="read at most this many bytes a second")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="write what is wrong to FILE, as lines of JSON")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move orphaned and damaged blobs to quarantine and correct the usage; with --plan, only what FILE lists",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_fsck)


def _fsck(arguments: argparse.Namespace) -> int:
    config: Config = arguments.configuration(arguments)
    need_drive(config)
    logs.configure(config.log, sys.stderr)
    planned = _read_plan(arguments.plan) if arguments.repair and arguments.plan else None
    plan: Path | None = arguments.plan if planned is None else None
    if plan is not None:
        _write_plan(plan, b"", mode="ab")  # before all blobs are read in vain
    result = Result()

    async def check() -> None:
        from godrive.drive import GoDrive  # noqa: PLC0415

        async with GoDrive(config, on_event=logs.on_event, serving=False) as drive:
            if planned is None:
                await _check(drive, arguments, result)
            else:
                result.findings = planned
            if arguments.repair:
                await _repair(drive, result, usage=planned is None)

    run(check())
    _report(result, arguments)
    if plan is not None:
        _write_plan(plan, b"".join(msgspec.json.encode(finding) + b"\n" for finding in result.findings))
    return 0 if result.is_clean else 1


async def _check(drive: GoDrive, arguments: argparse.Namespace, result: Result) -> None:
    checked, told = Checked(), time.monotonic()
    before = drive.clock.now() - timedelta(seconds=drive.config.janitor.orphan_age)
    pace = pacer(arguments.rate)
    async for finding in check_blobs(
        drive, digests=arguments.digests, orphans_before=before, checked=checked, pace=pace
    ):
        result.findings.append(finding)
        if not arguments.json:
            _say(finding)
        if sys.stderr.isatty() and time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            sys.stderr.write(f"{counted(checked.blobs, 'blob')}, {counted(checked.bytes, 'byte')}\n")
    drift = await drive.metadata.ask(UsageDrift())
    result.blobs, result.bytes = checked.blobs, checked.bytes
    result.usage_bytes, result.usage_rows = drift.bytes, drift.rows


async def _repair(drive: GoDrive, result: Result, *, usage: bool) -> None:
    for finding in result.findings:
        if finding.fault not in REPAIRED:
            continue
        known: list[ObjectKey] = await drive.metadata.ask(KnownKeys([finding.object_key]))
        if finding.fault is Fault.ORPHAN and known:
            continue  # it has got its row since
        await drive.storage.ask(QuarantineBlob(finding.object_key))
        result.quarantined += 1
    while usage and (corrected := await drive.metadata.ask(RecountUsage())):
        result.recounted += corrected


def _read_plan(path: Path) -> list[BlobFault]:
    try:
        return [msgspec.json.decode(line, type=BlobFault) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read as a plan: {reason}.", hint="Make one with --plan alone.") from None


def _write_plan(path: Path, lines: bytes, *, mode: Literal["ab", "wb"] = "wb") -> None:
    """Raises what :func:`godrive.errors.refused` returns."""
    try:
        with path.open(mode) as file:
            file.write(lines)
    except OSError as error:
        raise refused(f"The plan {path} cannot be written", error) from None


def _report(result: Result, arguments: argparse.Namespace) -> None:
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        return
    if result.usage_bytes or result.usage_rows:
        differs = f"{counted(result.usage_bytes, 'byte')} and {counted(result.usage_rows, 'row')}"
        sys.stdout.write(f"usage       differs by {differs}\n")
    if arguments.repair:
        moved, corrected = counted(result.quarantined, "blob"), counted(result.recounted, "user")
        sys.stdout.write(f"Moved {moved} to quarantine, corrected {corrected}.\n")
    what = f"{counted(result.blobs, 'blob')} of {counted(result.bytes, 'byte')}"
    done = "Read" if arguments.digests else "Compared"
    sys.stdout.write(f"{done} {what}: {counted(len(result.findings), 'fault')}.\n")


def _say(finding: BlobFault) -> None:
    whose = f" of file {finding.file_id}" if finding.file_id else ""
    sys.stdout.write(f"{finding.fault:<11} {finding.object_key}{whose}: {finding.detail}\n")
