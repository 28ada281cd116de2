"""A world in which the bytes are in an S3 store, to which clients send them with signed URLs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.auth

from godrive.blobs.s3 import S3BlobStore, appends, body, transport
from godrive.blobs.s3.probe import Capabilities
from godrive.config import Config
from godrive.memory import MemoryBudget
from godrive.simulation.client import Client, Lost
from godrive.simulation.clients_world import ClientsWorld
from godrive.simulation.faults import FAULTS_OF, Fault
from godrive.simulation.faults_of_s3 import FAULTS_OF_S3, end_faults_of_s3
from godrive.simulation.loop import process
from godrive.simulation.machine import Life, with_tables
from godrive.simulation.s3_bucket import BUCKET, CREDENTIALS, Honours
from godrive.simulation.s3_server import ADDRESS, NAME, S3Server, Send
from godrive.simulation.s3_user import S3User
from godrive.simulation.world import Plan

if TYPE_CHECKING:
    from datetime import datetime

_PART = 20_000
"""Bytes of a part, so that files of a run have several."""

_TOKEN = "simulated-token"  # noqa: S105
_EVENT_ATTEMPTS = 5

_DISK_FAULTS = ("fail_disk", "fill_disk", "slow_disk", "shorten_writes")


class S3World(ClientsWorld):
    """One server, and a store of its own address."""

    user = S3User
    faults_of: Mapping[Fault, int] = {
        **{fault: weight for fault, weight in FAULTS_OF.items() if fault.__name__ not in _DISK_FAULTS},
        **FAULTS_OF_S3,
    }
    undone = frozenset({"crashed"})
    may_end = True
    most_failures = 60  # a server whose clock is wrong does not start: the store refuses it

    def __init__(self, plan: Plan, folder: Path, write: Callable[[str], None] | None) -> None:
        super().__init__(plan, folder, write)
        chance = self.chance("s3")
        self.honours = Honours(conditional_put=chance.random() < 0.7, conditional_complete=chance.random() < 0.5)
        self.has_events = chance.random() < 0.7
        self.s3 = S3Server(
            self.loop, chance, self.trace, self.honours, self.event_sender() if self.has_events else None
        )
        for machine in self.machines:
            machine.store = self._store

    def replaced(self) -> list[tuple[Any, str, Any]]:
        """What states the time to the store, and how large parts are."""

        def now() -> datetime:
            return Life.now(owner) if isinstance(owner := process(), Life) else self.s3.now()

        return [
            (transport, "wall_clock", now),
            (botocore.auth, "get_current_datetime", lambda: now().replace(tzinfo=None)),
            (appends, "SMALLEST_PART", _PART // 2),
            (body, "MIB", 1),  # to which the parts of a body of known size are rounded up
        ]

    def skip(self, seconds: float) -> None:
        super().skip(seconds)
        self.s3.offset += seconds

    def neighbours(self) -> list[str]:
        return [*super().neighbours(), NAME]

    def may_be_back(self) -> set[str]:
        return self.s3.late

    def end_faults(self) -> None:
        super().end_faults()
        end_faults_of_s3(self)

    def _config(self, folder: Path) -> Config:
        return with_tables(
            super()._config(folder),
            blobs={
                "driver": "s3",
                "s3": {
                    "endpoint": f"http://{ADDRESS[0]}:{ADDRESS[1]}",
                    "bucket": BUCKET,
                    "access_key": CREDENTIALS.access_key,
                    "secret_key": CREDENTIALS.secret_key,
                    "multipart_threshold": 50_000,
                },
            },
            ingest={"webhook_token": _TOKEN},
        )

    def _store(self, life: Life) -> S3BlobStore:
        """The store of a process.  It is told what the store honours, since probing takes a hundred requests."""
        return S3BlobStore(
            life.machine.config.blobs.s3,
            clock=life,
            capabilities=Capabilities(
                conditional_put=self.honours.conditional_put,
                conditional_complete=self.honours.conditional_complete,
                signed_digest=True,
                checksums=True,
            ),
            part=_PART,
            memory=MemoryBudget(life.machine.config.server.memory_bytes),
        )

    def event_sender(self) -> Send:
        """Return what sends bucket events: here requests, which the store repeats a few times."""
        return WebhookSender(self, self.chance("events")).send


class WebhookSender:
    """Sends bucket events to the server."""

    def __init__(self, world: ClientsWorld, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def send(self, event: bytes) -> None:
        """Send an event until it is accepted, or give up."""
        client = Client(self._world.loop.network, self._world.address(0))
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
        for _ in range(_EVENT_ATTEMPTS):
            with suppress(Lost):
                answer = await client.request("POST", "/v1/events/bucket", headers=headers, body=event, patience=5.0)
                if answer.status == 204:
                    break
            await asyncio.sleep(self._chance.uniform(0.5, 5.0))
        client.hang_up()
