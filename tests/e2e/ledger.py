"""What clients were promised while servers came and went, and whether it was kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from tests.e2e.client import Client, Json, Refused
from tests.e2e.wire import Wire

SIZES = (0, 1, 4096, 65_536, 700_000, 3_000_000)

GONE = (aiohttp.ClientError, OSError, asyncio.IncompleteReadError, TimeoutError, Refused)
"""What a client sees of a server that is killed, or of one that misses another."""


@dataclass
class Ledger:
    """What was sent, by name the digest, and of that what was answered with success."""

    sent: dict[str, str] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)

    async def upload(self, client: Client, size: int | None = None, *, declare: bool = False) -> None:
        """Announce and send one file.  Raises one of :data:`GONE`."""
        content = os.urandom(random.choice(SIZES) if size is None else size)
        name = f"{len(self.sent)}-{os.urandom(4).hex()}.bin"
        self.sent[name] = digest = hashlib.sha256(content).hexdigest()
        intent = await client.intent(name, content, **({"sha256": digest} if declare else {}))
        async with asyncio.timeout(20), Wire.open(intent["upload_url"]) as wire:
            await wire.exchange(intent["upload_url"], intent["headers"], content)
        self.promised.add(name)

    async def store(self, client: Client, *, chunked: bool) -> None:
        """Send one file in one request.  Raises one of :data:`GONE`."""
        content = os.urandom(random.choice(SIZES))
        name = f"{len(self.sent)}-{os.urandom(4).hex()}.bin"
        self.sent[name] = hashlib.sha256(content).hexdigest()
        url, headers = f"{client.url}/v1/files/by-path/{name}", {"Authorization": f"Bearer {client.token}"}
        async with asyncio.timeout(20), Wire.open(url) as wire:
            await wire.exchange(url, headers, content, chunked=chunked)
        self.promised.add(name)

    async def check(self, client: Client) -> list[Json]:
        """Every promise is kept, once, and nothing is listed that was not sent."""
        files = await client.files()
        counts = Counter(file["name"] for file in files)
        assert set(counts.values()) <= {1}
        assert self.promised <= counts.keys() <= self.sent.keys()
        return files

    async def check_bytes(self, client: Client, files: list[Json]) -> None:
        """Every file is what was sent."""
        for file in files:
            assert await client.digest(file["id"]) == self.sent[file["name"]]
