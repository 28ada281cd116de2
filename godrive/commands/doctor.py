"""``godrive doctor``: check the installation, and say how to correct it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import msgspec

from godrive.clock import SystemClock
from godrive.commands import Commands, add_command
from godrive.commands.running import run
from godrive.config import Config
from godrive.errors import ConfigError

if TYPE_CHECKING:
    from godrive.doctor import Finding


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "doctor", shared)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--set-cors", action="store_true", help="set the CORS rules of the bucket, which browsers need")
    text = "confirm that the clock is right: what it says has expired is deleted, also by running servers"
    parser.add_argument("--accept-clock", action="store_true", help=text)
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from godrive.doctor import Report, examine  # noqa: PLC0415

    report = Report() if arguments.json else Report(_say)
    try:
        config: Config = arguments.configuration(arguments)
    except ConfigError as error:
        report.failure("configuration", error.detail, error.hint or "")
    else:
        run(
            examine(
                config,
                SystemClock(),
                report,
                set_cors=arguments.set_cors,
                accept_clock=arguments.accept_clock,
            )
        )
    if arguments.json:
        found = {"ok": not report.failed, "findings": report.findings}
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 1 if report.failed else 0


def _say(finding: Finding) -> None:
    sys.stdout.write(f"{finding.verdict:<8} {finding.check:<14} {finding.detail}\n")
    if finding.hint:
        sys.stdout.write(f"{'':<23} -> {finding.hint}\n")
    sys.stdout.flush()
