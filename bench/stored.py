"""Small uploads that clients send to an S3 store, and that events over NATS turn into files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import nats

from bench import stage
from bench.peers import SeaweedStore
from bench.report import Result, median_of
from tests.drive_server import DriveServer, merged
from tests.servers import CephGateway, NatsServer, PostgresServer

SIZE = 4096
AT_ONCE = 16
USER, PASSWORD = "store", "secret"


class Stored:
    """Uploads through a Ceph RADOS Gateway and a NATS server that demands a password."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.uploads = 200 if quick else 1000

    def postgres(self) -> Result:
        """With the catalog in PostgreSQL."""
        return self._run("PostgreSQL", 1.2)

    def sqlite(self) -> Result:
        """With the catalog in SQLite."""
        return self._run("SQLite", None)

    def seaweed(self) -> Result:
        """With the catalog in SQLite and SeaweedFS as the store.  Raises ``MissingProgram``."""
        return self._run("SQLite", None, SeaweedStore)

    def _run(
        self, catalog: str, mark: float | None, kind: Callable[[], CephGateway | SeaweedStore] = CephGateway
    ) -> Result:
        with ExitStack() as stack:
            store = kind()
            stack.enter_context(store)
            broker = stack.enter_context(NatsServer(arguments=("--user", USER, "--pass", PASSWORD)))
            s3 = {"endpoint": store.endpoint, "access_key": store.access_key, "secret_key": store.secret_key}
            tables = merged(
                stage.OPEN_GATE,
                {"blobs": {"driver": "s3", "s3": s3}},
                {"nats": {"url": broker.url, "user": USER, "password": PASSWORD}, "ingest": {"events": "jetstream"}},
                {"ingest": {"reconcile_after": 3600.0}},
            )
            if catalog == "PostgreSQL":
                database = stack.enter_context(PostgresServer(durable=True))
                tables = merged(tables, {"catalog": {"driver": "postgres", "dsn": database.create_database()}})
            server = stack.enter_context(stage.drive(stack.enter_context(stage.folder()), tables))
            ada = stage.person(server)
            asyncio.run(self._round(server, broker, ada.token, 100))
            found = [asyncio.run(self._round(server, broker, ada.token, self.uploads)) for _ in range(self.rounds)]
        parts = {"rate": median_of(rate for _, rate in found)}
        name = f"small upload, {catalog}, {'S3' if kind is CephGateway else 'SeaweedFS'} and NATS, CPU"
        return Result(name, median_of(cpu for cpu, _ in found) * 1000, "ms", mark, lower=True, parts=parts)

    async def _round(self, server: DriveServer, broker: NatsServer, token: str, count: int) -> tuple[float, float]:
        """Return the server's CPU time for an upload, and uploads a second."""
        client = await nats.connect(broker.url, user=USER, password=PASSWORD)
        headers = {"Authorization": f"Bearer {token}"}
        content = os.urandom(SIZE)
        etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
        prefix = f"{time.time_ns()}"
        numbers = iter(range(count))

        async def upload() -> None:
            for number in numbers:
                body = {"filename": f"{prefix}-{number}.bin", "mime": "text/plain", "size_bytes": SIZE}
                async with http.post("/v1/files/upload-intent", json=body, headers=headers) as answer:
                    intent = await answer.json()
                async with http.put(intent["upload_url"], data=content, headers=intent["headers"]) as answer:
                    assert answer.status == 200, await answer.text()
                await client.publish("godrive.uploaded", event(intent, SIZE, etag))

        async with aiohttp.ClientSession(server.url) as http:
            before, began = server.cpu_seconds(), time.perf_counter()
            await asyncio.gather(*(upload() for _ in range(AT_ONCE)))
            while True:
                async with http.get("/v1/uploads?state=pending&limit=1", headers=headers) as answer:
                    if not (await answer.json())["uploads"]:
                        break
                await asyncio.sleep(0.02)
            rate = count / (time.perf_counter() - began)
            await asyncio.sleep(1)  # until the domain events of the last uploads are published
            cpu = (server.cpu_seconds() - before) / count
        await client.close()
        return cpu, rate


def event(intent: dict[str, Any], size: int, etag: str) -> bytes:
    """Return the event that a Ceph gateway sends for the object of *intent*."""
    _, bucket, key = urlsplit(intent["upload_url"]).path.split("/", 2)
    signed = [{"key": name, "val": value} for name, value in intent["headers"].items() if name.startswith("x-amz-meta")]
    described = {"key": unquote(key), "size": size, "eTag": etag, "sequencer": "1", "metadata": signed, "tags": []}
    record = {
        "eventVersion": "2.2",
        "eventSource": "ceph:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": datetime.now(UTC).isoformat(),
        "s3": {"bucket": {"name": bucket}, "object": described},
    }
    return json.dumps({"Records": [record]}).encode()
