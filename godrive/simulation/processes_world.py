"""A world of three processes: two gateways that serve users and reach the bytes, and a host that has the catalog.

They talk through a NATS server.  The bytes are in an S3 store, whose bucket
events come through JetStream.  A real host of several processes has PostgreSQL,
which cannot be simulated; the one here has SQLite.  The gateways have no
catalog, so they do not know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from godrive.simulation.account import Violation
from godrive.simulation.faults import Fault
from godrive.simulation.faults_of_broker import FAULTS_OF_BROKER, end_faults_of_broker
from godrive.simulation.invariants import rows
from godrive.simulation.loop import process
from godrive.simulation.machine import Machine, with_tables
from godrive.simulation.nats_messages import Message
from godrive.simulation.nats_server import ADDRESS, NAME, Broker
from godrive.simulation.s3_server import Send
from godrive.simulation.s3_world import S3World
from godrive.simulation.world import Plan

_OF_THE_HOST = ("auth", "metadata", "ingest", "janitor")
_GATEWAYS = (("10.0.0.2", 8080), ("10.0.0.3", 8080))
_SUBJECT, _EVENTS = "godrive.uploaded", "GODRIVE_EVENTS"
_ATTEMPTS = 5


class ProcessesWorld(S3World):
    """See the module."""

    undone = frozenset()
    faults_of: Mapping[Fault, int] = {**S3World.faults_of, **FAULTS_OF_BROKER}

    def __init__(self, plan: Plan, folder: Path, write: Callable[[str], None] | None) -> None:
        super().__init__(plan, folder, write)
        self.store_machine = self.machines[1]
        self.broker = Broker(self.loop, self.chance("broker"), self.trace)

    def make_machines(self, folder: Path) -> list[Machine]:
        everywhere = with_tables(
            self._config(folder),
            auth={"secret_file": str(folder / "secret.key")},
            nats={"url": f"nats://{ADDRESS[0]}:{ADDRESS[1]}", "user": "godrive", "password": "simulated"},
            ingest={"events": "jetstream", "subject": _SUBJECT},
        )
        machines = [self.add_machine("host", with_tables(everywhere, actors={"storage": {"location": "nats"}}))]
        for number, (host, port) in enumerate(_GATEWAYS, start=1):
            name = f"gateway-{number}"
            config = with_tables(
                everywhere,
                server={"host": host, "port": port, "data_dir": str(folder / name)},
                catalog={"driver": "postgres", "dsn": "postgresql://none"},
                actors={actor: {"location": "nats"} for actor in _OF_THE_HOST},
            )
            machines.append(self.add_machine(name, config))
        return machines

    def address(self, user: int) -> tuple[str, int]:
        return _GATEWAYS[user % len(_GATEWAYS)]

    async def check_more(self) -> None:
        """Also: every change is published, and those of each owner in order, with repetitions next to the original."""
        await super().check_more()
        for _ in range(120):
            if not rows(self, "SELECT change FROM changes WHERE published = 0"):
                break
            await asyncio.sleep(1.0)
        else:
            raise Violation("changes are not published although nothing goes wrong")
        stream = self.broker.jetstream.streams.get(_EVENTS)
        numbers: dict[str, list[int]] = {}
        for kept in stream.kept.values() if stream else ():
            event = msgspec.json.decode(kept.message.body)
            numbers.setdefault(event["owner_id"], []).append(event["seq"])
        for owner, seen in numbers.items():
            if seen != sorted(seen):
                raise Violation(f"the events of {owner} are out of order: {seen}")
            made = {change for (change,) in rows(self, f"SELECT change FROM changes WHERE owner_id = '{owner}'")}  # noqa: S608
            if not self.broker.jetstream.forgotten and set(seen) != made:
                raise Violation(f"of the events of {owner} are missing {made - set(seen)}, more {set(seen) - made}")

    def neighbours(self) -> list[str]:
        return [*super().neighbours(), NAME]

    def end_faults(self) -> None:
        super().end_faults()
        end_faults_of_broker(self)

    async def restart_all(self) -> None:
        restarts = [
            self.loop.create_task(self.restart(machine, self.chance(f"restart of {machine.name}")))
            for machine in self.machines
        ]
        await asyncio.gather(*restarts)

    def event_sender(self) -> Send:
        return JetStreamSender(self, self.chance("events")).send


class JetStreamSender:
    """Publishes bucket events from the store, as long as it reaches the broker, and gives up after some attempts."""

    def __init__(self, world: ProcessesWorld, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def send(self, event: bytes) -> None:
        """Publish an event."""
        for _ in range(_ATTEMPTS):
            broker = self._world.broker
            if broker.is_up and self._world.loop.network.is_open(process(), broker):
                broker.publish(Message(_SUBJECT, "", b"", event))
                return
            await asyncio.sleep(self._chance.uniform(0.5, 5.0))
