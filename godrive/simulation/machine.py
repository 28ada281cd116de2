"""A machine: one server process of a drive, with its clock, its disk and its data folder.

A kill leaves what a process leaves that ends between two statements: the files
of the catalog as they are, the disk of the blobs as its page cache is, and no
clean-up.  SQLite's own files are trusted, because Python cannot put anything
between SQLite and its files: the kill copies them at a statement boundary, and
the next life opens the copy.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from godrive.blobs import BlobStore
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.http.wire.server import serve
from godrive.paths import exists
from godrive.runtime import Event
from godrive.simulation.disk import Disk
from godrive.simulation.loop import EPOCH, WORLD, Killed, Process, SimulatedLoop, process, within
from godrive.simulation.trace import Trace


class Machine(Process):
    """A machine that runs one server.  It survives its process: :meth:`kill`, then :meth:`boot` again."""

    def __init__(
        self, loop: SimulatedLoop, name: str, *, folder: Path, config: Config, trace: Trace, chance: random.Random
    ) -> None:
        super().__init__(name)
        self.loop = loop
        self.folder = folder
        self.config = config
        self.trace = trace
        self.offset = self.usual_offset = 0.0
        """Seconds by which the wall clock is wrong."""
        self.statement_fails_in = 0
        """The number of statements from now after which one fails; 0 is none."""
        self.statement_error = 0
        """The code of SQLite with which it fails; 0 is an exception that nobody expects."""
        self.index_fails_in = 0
        """The number of statements of the index of the packs after which one fails; 0 is none."""
        self.index_error = 0
        self.rate = 1.0
        """How fast its clocks run."""
        self.tick = 0.0
        """Seconds by which the wall clock moves on at a time; 0 is a clock that is fine enough."""
        self.disk = Disk(chance)
        self.wrongs: list[str] = []
        """What was seen to be wrong while it ran."""
        self.store: Callable[[Life], BlobStore] | None = None
        """Makes the blob store of a process, in place of the configured one."""
        self.deaths: list[Death] = []
        """What happens at a sync to this process and to those after it."""
        self.life: Life | None = None
        self.lives = 0
        self.graveyard: list[object] = []
        """What killed processes leave in memory, kept so that none of it is finalised."""

    @property
    def address(self) -> tuple[str, int]:
        return self.config.server.host, self.config.server.port

    def boot(self) -> Life:
        """Start the process.  ``life.serving`` is set once it serves."""
        self.lives += 1
        self.life = Life(self)
        self.trace("boot", self.name, life=self.lives)
        return self.life

    def kill(self) -> None:
        """Kill the process between two of its effects."""
        if self.life is not None:
            life, self.life = self.life, None
            life.end()

    def cut_power(self) -> None:
        """Kill the process, and lose what the disk had not yet written."""
        self.kill()
        self.lose_unsynced()

    def lose_unsynced(self) -> None:
        """What a power cut does to the disk."""
        self.disk.cut_power()
        for log in sorted(self.folder.rglob("blobs/**/*-wal")):
            if self.disk.chance.random() < 0.5:
                log.unlink()  # this index is not synced with every commit: a power cut may take it back in time
        self.trace("power cut", self.name, lost=self.disk.lost)


@dataclass
class Death:
    """A process is killed, or its machine loses power, right before a sync."""

    after: int
    """Which of the syncs that make something durable it is."""
    loses_power: bool


class Life(Process):
    """One process of a machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.name)
        self.machine = machine
        self.serving = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.events: Counter[str] = Counter()
        self.letters: list[Any] = []
        """Every message that an actor of this process was sent."""
        self.drive: GoDrive
        self.effects = 0
        self.dies_at = 0
        """The number of the effect at which this process is killed."""
        self.loses_power = False
        """Whether the machine loses power then."""
        self.freezes_at = 0
        """The number of the message that is waiting when the machine is suspended."""
        self.freezes_for = 0.0
        self._delay = 0.0
        self.connections: list[Connection] = []
        """Those that it has opened to SQLite."""
        self._stop = asyncio.Event()
        self._reader: sqlite3.Connection | None = None
        self._blobs = None if machine.store is None else machine.store(self)
        self.task = within(self, machine.loop.create_task, self._run())

    # Clocks

    def wall_time(self) -> float:
        machine = self.machine
        time = EPOCH + machine.offset + machine.loop.now * machine.rate
        return time - time % machine.tick if machine.tick else time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall_time(), UTC)

    def monotonic(self) -> float:
        return self.machine.loop.time() * self.machine.rate

    # Effects

    def effect(self, kind: str) -> None:
        """The process is about to change the world, or just has.  Here it may be killed."""
        if not self.alive:
            raise Killed(self.name)
        self.effects = number = self.effects + 1
        if number == self.dies_at:
            self._die(power=self.loses_power)

    def before_sync(self) -> None:
        """The process is about to make something durable that is not.  Here it may die."""
        if deaths := self.machine.deaths:
            deaths[0].after -= 1
            if not deaths[0].after:
                self._die(power=deaths.pop(0).loses_power)

    def _die(self, *, power: bool) -> None:
        self.machine.kill()
        if power:
            self.machine.lose_unsynced()
        raise Killed(self.name)

    def delay(self, seconds: float) -> None:
        """The current call in a thread takes that much longer."""
        self._delay += seconds

    def spent(self) -> float:
        seconds, self._delay = self._delay, 0.0
        return seconds

    def note_letter(self, letter: Any) -> None:
        """A message is sent to an actor of this process.  Here the machine may be suspended."""
        self.letters.append(letter)
        if len(self.letters) == self.freezes_at:
            self.machine.loop.suspend(self, self.freezes_for)

    # Life

    async def _run(self) -> None:
        machine = self.machine
        try:
            async with (
                GoDrive(machine.config, blobs=self._blobs, clock=self, on_event=self._note) as self.drive,
                serve(self.drive, *machine.address),
            ):
                self.serving.set()
                await self._stop.wait()
        except BaseException as error:
            self.error = error
            raise
        finally:
            if machine.life is self:
                machine.life = None
            within(WORLD, machine.loop.call_soon, self._exit)

    def _exit(self) -> None:
        """The process has ended by itself: its kernel closes what it has open.

        It must have closed the databases: a host that embeds a drive goes on, and so do their locks.
        """
        self.alive = False
        self._end_reader()
        if any(connection.is_open() for connection in self.connections):
            self.machine.wrongs.append(f"{self.name} has ended with a database open")
        self.machine.loop.network.kill(self)
        self.ended.set()

    def stop(self) -> None:
        """Stop in good order."""
        self.machine.trace("stop", self.name)
        self._end_reader()
        self._stop.set()

    def is_going_on(self) -> bool:
        """Whether the process serves, and has not been told to stop."""
        return self.serving.is_set() and not self._stop.is_set()

    def reader(self) -> sqlite3.Connection:
        """A connection for those who check its catalog while it goes on.  A new one would read the schema first.

        It is closed before the process is told to stop: the last connection that is closed empties SQLite's log.
        """
        if self._reader is None:
            self._reader = sqlite3.connect(self.machine.config.catalog_path, isolation_level=None)
        return self._reader

    def _end_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def before_statement(self, *, is_catalog: bool) -> None:
        """A statement is about to be executed.  Raises what makes it fail."""
        self.effect("sql")
        machine = self.machine
        if machine.statement_fails_in and is_catalog:
            machine.statement_fails_in -= 1
            if not machine.statement_fails_in:
                raise _failure(machine.statement_error)
        elif machine.index_fails_in and not is_catalog:
            machine.index_fails_in -= 1
            if not machine.index_fails_in:
                raise _failure(machine.index_error)

    def _note(self, event: Event) -> None:
        kind = type(event).__name__
        self.events[kind] += 1
        self.machine.trace("event", self.name, what=kind, detail=event)

    def end(self) -> None:
        """Nothing of this process runs from now on."""
        machine = self.machine
        machine.trace("kill", self.name, effects=self.effects)
        self.alive = False
        self._end_reader()
        machine.graveyard += [self, *asyncio.all_tasks(machine.loop)]
        machine.loop.network.kill(self)
        _copy_as_it_is(machine.folder, machine.folder.with_name(f"{machine.folder.name}.{machine.lives}"))
        within(WORLD, machine.loop.call_soon, self.ended.set)


def _copy_as_it_is(folder: Path, aside: Path) -> None:
    """Give the next life new files of the same content: the dead process still has locks on the old ones."""
    if not exists(folder):
        return
    folder.rename(aside)
    for at, _, names in os.walk(aside):
        copies = f"{folder}{at.removeprefix(str(aside))}"
        os.mkdir(copies)  # noqa: PTH102 - a path for each file takes longer than its copy
        for name in names:
            path, copy = f"{at}/{name}", f"{copies}/{name}"
            if name.endswith((".db", "-wal")):
                shutil.copyfile(path, copy)
                os.chmod(copy, 0o600)  # noqa: PTH101
            elif not name.endswith(("lock", "-shm")):  # the lock, and the memory that the process shared
                os.link(path, copy)


class InjectedCrash(Exception):
    """In place of a bug."""


def _failure(code: int) -> Exception:
    if not code:
        return InjectedCrash("a bug")
    error = sqlite3.OperationalError("simulated")
    error.sqlite_errorcode = code
    return error


class Connection(sqlite3.Connection):
    """A connection to SQLite whose process may be killed before and after each statement."""

    is_catalog = False

    def is_open(self) -> bool:
        try:
            return self.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False

    def execute(self, *values: Any) -> sqlite3.Cursor:
        owner = process()
        owner.before_statement(is_catalog=self.is_catalog)
        cursor = _execute(self, *values)
        owner.effect("sql")
        return cursor


_execute = sqlite3.Connection.execute


def with_tables(config: Config, **tables: dict[str, Any]) -> Config:
    """The configuration with the keys of some tables replaced."""
    raw = msgspec.to_builtins(config)
    for name, table in tables.items():
        raw[name].update(table)
    return msgspec.convert(raw, Config)
