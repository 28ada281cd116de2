"""A run: a world made from a seed, the users in it, what goes wrong, and what must be true in the end."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from godrive.config import Config
from godrive.errors import ConfigError
from godrive.simulation.account import Violation
from godrive.simulation.faults import FAULTS_OF, FAVOURED_FAULTS, Fault, end_all
from godrive.simulation.invariants import check_all
from godrive.simulation.loop import SimulatedLoop, process
from godrive.simulation.machine import Machine
from godrive.simulation.network import Network
from godrive.simulation.threads import Threads
from godrive.simulation.trace import Trace
from godrive.simulation.user import User
from godrive.testing import quick_config

T = TypeVar("T")

DISK = "disk"
"""The world that a plan is for unless it says otherwise."""

USERS, OPERATIONS, FAULTS = 3, 100, 20
"""What a seed is: operations are for each user."""

_HORIZON = 40.0
"""Seconds within which faults begin."""


@dataclass(frozen=True)
class Plan:
    """What to run: a seed in a world, or what is left of it.

    Written as ``17`` or ``17,world=s3,ops=40,skip=0.3+1.7,without=2+5``.
    """

    seed: int
    operations: int = OPERATIONS
    faults: int = FAULTS
    skipped: frozenset[tuple[int, int]] = frozenset()
    """Operations to leave out: the number of the user, and of the operation."""
    without: frozenset[int] = frozenset()
    """Faults to leave out."""
    world: str = DISK
    """The name of the kind of world: see :mod:`godrive.simulation.worlds`."""
    favour: frozenset[str] = frozenset()
    """What users do and what goes wrong much more often than usually: names of actions and of faults."""

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read what ``str`` writes.  Raises ``ValueError``."""
        seed, *rest = text.split(",")
        fields = dict(each.split("=", 1) for each in rest)
        left_out = [each.split(".") for each in fields.pop("skip", "").split("+") if each]
        without = frozenset(int(each) for each in fields.pop("without", "").split("+") if each)
        plan = cls(
            int(seed),
            int(fields.pop("ops", OPERATIONS)),
            int(fields.pop("faults", FAULTS)),
            world=fields.pop("world", DISK),
            favour=frozenset(each for each in fields.pop("favour", "").split("+") if each),
        )
        if fields:
            raise ValueError(f"unknown: {', '.join(fields)}")
        return replace(plan, skipped=frozenset((int(user), int(number)) for user, number in left_out), without=without)

    def __str__(self) -> str:
        text = str(self.seed)
        if self.world != DISK:
            text += f",world={self.world}"
        if self.favour:
            text += f",favour={'+'.join(sorted(self.favour))}"
        if self.operations != OPERATIONS:
            text += f",ops={self.operations}"
        if self.faults != FAULTS:
            text += f",faults={self.faults}"
        if self.skipped:
            text += ",skip=" + "+".join(f"{user}.{number}" for user, number in sorted(self.skipped))
        if self.without:
            text += ",without=" + "+".join(map(str, sorted(self.without)))
        return text

    def done(self) -> list[tuple[int, int]]:
        """The operations that are not left out."""
        every = ((user, number) for user in range(USERS) for number in range(self.operations))
        return [each for each in every if each not in self.skipped]

    def size(self) -> str:
        """How much is left, in words."""
        return f"{len(self.done())} operations and {self.faults - len(self.without)} faults"

    def smaller(self) -> Iterator[Plan]:
        """Plans that leave out more, those that leave out most first."""
        for share in (2, 4, 8, 16):
            if self.operations // share:
                yield replace(self, operations=self.operations - self.operations // share)
        yield replace(self, operations=self.operations - 1)
        faults = [number for number in range(self.faults) if number not in self.without]
        for parts in (1, 2, 4, len(faults)):
            for leave_out in _parts(faults, parts):
                yield replace(self, without=self.without | frozenset(leave_out))
        done = self.done()
        for parts in (USERS, 8, 24):
            for part in _parts(done, parts):
                yield replace(self, skipped=self.skipped | frozenset(part))


def _parts(items: list[T], count: int) -> Iterator[list[T]]:
    """The items in *count* consecutive parts."""
    size = -(-len(items) // max(1, count))
    for start in range(0, len(items), max(1, size)):
        yield items[start : start + size]


@dataclass
class Outcome:
    """What came of a run."""

    plan: Plan
    problem: str = ""
    digest: str = ""
    operations: int = 0
    faults: int = 0
    seconds: float = 0.0
    """Of virtual time."""
    cpu: float = 0.0
    """Seconds of a processor."""


class World:
    """Everything of one run: here one server with its bytes on a disk.  Other worlds replace parts of it."""

    user = User
    """What users do."""
    faults_of: Mapping[Fault, int] = FAULTS_OF | FAVOURED_FAULTS
    """What goes wrong, and how often each of it is chosen."""
    patience = 60.0
    """Virtual seconds within which every upload and every purge must have ended, if it is due."""
    undone: frozenset[str] = frozenset({"crashed", "store_unavailable"})
    """Errors of a first attempt after which nothing has been done.  Where the store is elsewhere, it may have been."""
    may_end = False
    """Whether a process that serves may end by itself, because of something that it cannot reach."""
    most_failures = 40
    """How often a server may fail to start in a row: for longer than a disk is full or broken at a stretch."""

    def __init__(self, plan: Plan, folder: Path, write: Callable[[str], None] | None) -> None:
        self.plan = plan
        self.loop = SimulatedLoop(self.chance("loop"))  # type: ignore[abstract]  # only what is used is there
        self.loop.network = Network(self.loop, self.chance("network"))
        self.loop.threads = Threads(self.loop, self.chance("threads"))
        self.trace = Trace(self.loop.time, write)
        self.pause = 0.3
        self.hang_ups = 0.03
        self.crashes_allowed = self.is_rough = True
        self.machines = self.make_machines(folder)
        self.machine = self.store_machine = self.machines[0]
        """The machine that has the catalog, and the one that has the bytes."""
        self.users = [self.user(self, number) for number in range(USERS)]
        self.faults_done = 0
        self.referred: set[str] = set()
        """Keys of blobs that rows referred to before something was purged."""
        self._watch: asyncio.Task[None]

    def make_machines(self, folder: Path) -> list[Machine]:
        """Make all machines of this world, the one with the catalog first."""
        return [self.add_machine("server", self._config(folder))]

    def add_machine(self, name: str, config: Config) -> Machine:
        """Make a machine.  It runs nothing yet."""
        chance = self.chance("disk" if name == "server" else f"disk of {name}")
        return Machine(self.loop, name, folder=config.data_dir, config=config, trace=self.trace, chance=chance)

    def replaced(self) -> list[tuple[Any, str, Any]]:
        """What this world replaces in modules while it runs: the owner, the name, and the value."""
        return []

    def chance(self, name: str) -> random.Random:
        """Chance of its own for each purpose, so that leaving out one thing does not change all others."""
        return random.Random(f"{self.plan.seed}:{name}")

    def swarm(self, kinds: Mapping[T, int], name: str) -> dict[T, float]:
        """The weights of kinds in this run.  Each seed does some often and some hardly ever."""
        chance, favour = self.chance(f"swarm of {name}"), self.plan.favour
        found = {kind: weight * chance.choice((0.05, 1, 1, 5)) for kind, weight in kinds.items()}
        return {kind: 50 if getattr(kind, "__name__", kind) in favour else weight for kind, weight in found.items()}

    def address(self, _user: int) -> tuple[str, int]:
        """The server of a user."""
        return self.machine.address

    def skip(self, seconds: float) -> None:
        """Set every clock forward."""
        for machine in self.machines:
            machine.offset += seconds

    def note_log(self, record: logging.LogRecord) -> None:
        """Write what a server logs into the trace."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        self.trace.write_only("log", process().name, text)

    def some_machine(self, chance: random.Random) -> Machine:
        """A machine to which something happens."""
        return chance.choice(self.machines)

    def neighbours(self) -> list[str]:
        """The names of the processes that talk to servers."""
        return [user.name for user in self.users]

    def _config(self, folder: Path) -> Config:
        return quick_config(
            folder / "data",
            server={"host": "10.0.0.1", "port": 8080},
            auth={"attempts_per_address": 100_000, "attempts_per_account": 100_000},
            blobs={"driver": "disk", "min_free_bytes": 1_000_000, "upload_ttl": 30.0, "resume_ttl": 30.0},
            log={"requests": False},
            ingest={"reconcile_after": 3.0, "reconcile_every": 4.0},
            janitor={"sweep_every": 10.0},
        )

    async def run(self) -> None:
        """Let it all happen, and check it."""
        self._watch = self.loop.create_task(self.restart_all())
        faults = self.loop.create_task(self._go_wrong())
        await self._gather([user.start(self.plan.operations) for user in self.users])
        await faults
        await self._verify()

    async def restart_all(self) -> None:
        """Start the server again whenever it has ended, as an init system does."""
        await self.restart(self.machine, self.chance("restart"))

    async def restart(self, machine: Machine, chance: random.Random) -> None:
        """Start the process of a machine, and start it again whenever it has ended."""
        failures = 0
        while True:
            life = machine.boot()
            await life.ended.wait()
            if life.error is not None:
                if life.serving.is_set() and not self.may_end:
                    raise Violation(f"{machine.name} has ended by itself: {life.error!r}")
                failures = 0 if life.serving.is_set() else failures + 1
                self.trace("ended", life.name, detail=repr(life.error))
                if isinstance(life.error, ConfigError):
                    raise Violation(f"{machine.name} calls it a mistake of the operator: {life.error!r}")
                if failures > self.most_failures:
                    raise Violation(f"the server does not start: {life.error!r}")
            await asyncio.sleep(chance.uniform(0.1, 3.0))

    async def _go_wrong(self) -> None:
        chance = self.chance("faults")
        weights = self.swarm(self.faults_of, "faults")
        moments = sorted(chance.uniform(1.0, _HORIZON) for _ in range(self.plan.faults))
        for number, moment in enumerate(moments):
            (kind,) = chance.choices(list(weights), list(weights.values()))
            if number not in self.plan.without:
                await asyncio.sleep(max(0.0, moment - self.loop.time()))
                self.trace("fault", "world", number=number, what=kind.__name__)
                kind(self, self.chance(f"fault:{number}"))
                self.faults_done += 1

    async def _gather(self, tasks: list[asyncio.Task[None]]) -> None:
        """Wait for all, or for the first that fails."""
        left = list(tasks)
        while left:
            await asyncio.wait([*left, self._watch], return_when=asyncio.FIRST_COMPLETED)
            for task in [*left, self._watch]:
                if task.done():
                    task.result()
            left = [task for task in left if not task.done()]

    def may_be_back(self) -> set[str]:
        """Keys of blobs that may be there again after they were deleted, so the janitor sets them aside."""
        return set()

    def end_faults(self) -> None:
        """Nothing goes wrong from now on."""
        end_all(self)

    async def check_more(self) -> None:
        """Check what else must be true of this world in the end."""

    async def _verify(self) -> None:
        self.hang_ups = 0.0
        self.end_faults()
        await self._gather([self.loop.create_task(check_all(self))])
