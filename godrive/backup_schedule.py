"""Backs the drive up when it is time, in a process of its own.

The process has a low priority, rests between slices of work, and has a memory
and an interpreter of its own, so the server stays as quick as it was.  It reads the configuration from its standard
input, because the passphrase must not be among its arguments, and is a
``godrive backup create``.  When the last one was made is in the
catalog.  If several processes serve the drive, a lease lets one of them do it.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec

from godrive.clock import Clock
from godrive.config import Backup, Config
from godrive.errors import DriveError, StoreUnavailable
from godrive.lease import Lease
from godrive.messages.backups import ListBackups, MadeBackup
from godrive.messages.metadata import Metadata
from godrive.runtime import Ref

CHILD = "backup"

LEASE, LEASE_TTL = "backup", 60.0

LOOK_EVERY = 60.0
"""Seconds between two looks whether a backup is due; the first comes as long after the start."""

RETRY_AFTER = 600.0
"""Seconds after a failure."""

_STOP, SHUTDOWN = 5.0, 8.0
"""Seconds that the process has to stop, and the child that waits for it."""


class Look(msgspec.Struct, frozen=True):
    """The result of a look: the last backup in the configured target, and whether it was made just now."""

    last: MadeBackup | None
    is_new: bool = False


def is_due(settings: Backup, last: datetime | None, now: datetime, started: datetime) -> bool:
    """Whether it is time, after a backup at *last*, in a process that *started* then."""
    if last is not None and last > now:
        return True  # the clock was set back
    if not settings.at:
        return last is None or (now - last).total_seconds() >= settings.every
    hour, minute = map(int, settings.at.split(":"))
    time = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if time > now:
        time -= timedelta(days=1)
    return time > (last or started)


def is_late(settings: Backup, last: datetime | None, now: datetime) -> bool:
    """Whether the last backup is much older than it should be."""
    every = 86_400.0 if settings.at else settings.every
    return last is None or (now - last).total_seconds() > 2 * every + 3600


class BackupSchedule:
    """The child that waits until a backup is due.  It ends only when cancelled."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        metadata: Ref[Metadata],
        *,
        on_look: Callable[[Look], None],
        on_error: Callable[[DriveError], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._metadata = metadata
        self._on_look = on_look
        self._on_error = on_error
        self._started = clock.now()
        self._lease = Lease(LEASE, LEASE_TTL, clock.monotonic)

    async def run(self) -> None:
        """Back up forever."""
        wait = LOOK_EVERY
        while True:
            await asyncio.sleep(wait)
            wait = LOOK_EVERY
            try:
                await self.look()
            except DriveError as error:
                self._on_error(error)
                wait = RETRY_AFTER

    async def look(self) -> None:
        """Make a backup if one is due.  Raises ``DriveError``."""
        last = await self._last()
        made_at = None if last is None else last.made_at
        if is_due(self._config.backup, made_at, self._clock.now(), self._started):
            if await self._lease.hold(self._metadata):
                try:
                    await self._back_up()
                finally:
                    await self._lease.release(self._metadata)
                self._on_look(Look(await self._last(), is_new=True))
        else:
            self._on_look(Look(last))

    async def _last(self) -> MadeBackup | None:
        made = await self._metadata.ask(ListBackups())
        return next((each for each in made if each.target == self._config.backup.target), None)

    async def _back_up(self) -> None:
        """Run the process to its end.  Raises ``StoreUnavailable`` with what it said if it failed."""
        program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "godrive"]
        command = [*program, "backup", "create", "--config", "-", "--prune", "--background"]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        keeping = asyncio.ensure_future(self._keep())
        try:
            _, said = await process.communicate(msgspec.json.encode(self._config))
        finally:
            keeping.cancel()
            await _stop(process)
        if process.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or [f"It ended with {process.returncode}."]
            raise StoreUnavailable(f"The backup failed: {lines[-1].removeprefix('godrive: ')}")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LEASE_TTL / 4)
            with suppress(DriveError):
                await self._lease.hold(self._metadata)


async def _stop(process: Process) -> None:
    """End the process if it runs."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
