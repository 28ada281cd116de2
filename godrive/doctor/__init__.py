"""``godrive doctor``: checks whether a drive can work in its environment, and says what to do if not.

A check tries the real operation and leaves nothing behind.  An error that it
raises is a finding too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial

import anyio
import msgspec

from godrive.clock import Clock
from godrive.config import Config
from godrive.errors import DriveError
from godrive.extras import EXTRAS

PATIENCE = 30.0
"""Time limit of one check in seconds."""

TABLES = {
    "data folder": "server.data_dir",
    "secret": "auth.secret_file",
    "free space": "server.data_dir",
    "clock": "server.data_dir",
    "catalog": "[catalog]",
    "blob store": "[blobs]",
    "packs": "[blobs]",
    "signed URLs": "[blobs.s3]",
    "NATS": "[nats]",
    "server": "[server]",
}
"""The settings to look at if an error has no hint."""


class Verdict(StrEnum):
    """``WARNING``: it works, but needs attention.  ``FAILURE``: it does not work."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(msgspec.Struct, frozen=True):
    """The result of one check.  ``hint`` says what to do."""

    check: str
    verdict: Verdict
    detail: str
    hint: str = ""


class Report:
    """The findings so far.  *tell* is called with each new one."""

    def __init__(self, tell: Callable[[Finding], None] = lambda finding: None) -> None:
        self.findings: list[Finding] = []
        self._tell = tell

    @property
    def failed(self) -> bool:
        """Whether there is a failure."""
        return any(finding.verdict is Verdict.FAILURE for finding in self.findings)

    def ok(self, check: str, detail: str) -> None:
        """Add a finding without a problem."""
        self._add(Finding(check, Verdict.OK, detail))

    def warning(self, check: str, detail: str, hint: str) -> None:
        """Add a warning."""
        self._add(Finding(check, Verdict.WARNING, detail, hint))

    def failure(self, check: str, detail: str, hint: str) -> None:
        """Add a failure."""
        self._add(Finding(check, Verdict.FAILURE, detail, hint))

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._tell(finding)


async def examine(
    config: Config, clock: Clock, report: Report, *, set_cors: bool = False, accept_clock: bool = False
) -> None:
    """Run every check.

    With *set_cors*, set the CORS rules of the bucket that browsers need.  With
    *accept_clock*, record in the catalog that the clock is right.
    """
    from godrive.doctor import machine, messaging, stores, urls  # noqa: PLC0415 - they use the words above

    checks: dict[str, Callable[[], Awaitable[None]]] = {
        "configuration": partial(machine.configuration, config, report),
        "data folder": partial(machine.folders, config, report),
        "secret": partial(machine.secret, config, report),
        "free space": partial(machine.space, config, report),
        "clock": partial(machine.clock, config, clock, report),
        "catalog": partial(stores.catalog, config, clock, report, accept_clock=accept_clock),
        "blob store": partial(stores.blobs, config, clock, report),
        "signed URLs": partial(urls.signed, config, clock, report, set_cors=set_cors),
        "NATS": partial(messaging.nats, config, clock, report),
        "server": partial(machine.server, config, report),
        "events": partial(messaging.posted, config, report),
    }
    for name, check in checks.items():
        advice = f"See whether {TABLES.get(name, 'the configuration')} is right."
        try:
            with anyio.fail_after(PATIENCE):
                await check()
        except DriveError as error:
            report.failure(name, error.detail, error.hint or advice)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            report.failure(
                name, f"{error.name} is not installed.", f"pip install 'godrive-server[{EXTRAS[error.name]}]'"
            )
        except TimeoutError:
            report.failure(name, f"No answer within {PATIENCE:g} seconds.", advice)
        except OSError as error:
            report.failure(name, f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "), advice)
