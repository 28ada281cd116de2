"""Larger deployments: PostgreSQL against SQLite, uploads through S3 and events, memory with all of them configured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import aiohttp
import nats

from bench import stage
from bench.clients import wrk
from bench.report import Result, median_of
from bench.uploads import send
from tests.drive_server import DriveServer, environment, merged
from tests.servers import CephGateway, NatsServer, PostgresServer

MIB = 1024 * 1024
UNCACHED = Path(__file__).with_name("uncached.py")

LEFT_ALONE = merged(stage.OPEN_GATE, {"ingest": {"reconcile_after": 3600.0}})
"""Disables the reconciler, which would otherwise check thousands of abandoned intents during the measurements."""


class Cached(DriveServer):
    """A server with its cache of encoded pages, unless told otherwise."""

    cached = True

    def command(self) -> list[str | Path]:
        command = super().command()
        at = command.index("-m")
        return command if self.cached else [*command[:at], UNCACHED, *command[at + 2 :]]


class Distributed:
    """Each measurement starts the servers that it needs."""

    def __init__(self, *, quick: bool) -> None:
        self.rounds = 1 if quick else 3
        self.seconds = 2.0 if quick else 5.0
        self.files = 10_000 if quick else 100_000
        self.uploads = 40 if quick else 300

    def postgres(self) -> list[Result]:
        """List and intent with PostgreSQL (synced to disk) against SQLite, with the same rows and requests."""
        with stage.folder() as place, stage.folder() as second, PostgresServer(durable=True) as database:
            with Cached(place, tables=LEFT_ALONE, quick=False) as sqlite:
                ada = stage.person(sqlite)
                file = stage.upload_one(sqlite, ada, "first.txt", b"first")
            stage.preload(sqlite.data / "godrive.db", files=self.files, users=100, like=file["id"])
            catalog = {"catalog": {"driver": "postgres", "dsn": database.create_database()}}
            keys = {"auth": {"secret_file": str(sqlite.data / "secret.key")}}
            data = {"server": {"data_dir": str(sqlite.data)}}
            other = Cached(second, tables=merged(LEFT_ALONE, catalog, keys, data), quick=False)
            config = str(other.folder / "config.toml")
            other.command()
            copy = [sys.executable, "-m", "godrive", "catalog", "copy", "--config", config]
            subprocess.run(copy, check=True, capture_output=True, env=environment())
            other.tables["server"]["data_dir"] = str(other.folder / "data")
            with sqlite, other:
                ada = stage.log_in(sqlite, ada)
                eve = stage.log_in(other, ada)
                lists = [(self._list(other, eve), self._list(sqlite, ada)) for _ in range(self.rounds)]
                intents = [(self._intent(other, eve), self._intent(sqlite, ada)) for _ in range(self.rounds)]
            sqlite.cached = other.cached = False
            with sqlite, other:
                anew = [(self._list(other, eve), self._list(sqlite, ada)) for _ in range(self.rounds)]
        return [
            self._ratio("list, PostgreSQL", lists, 0.5),
            self._ratio("list read anew, PostgreSQL", anew, 0.7),
            self._ratio("upload intent, PostgreSQL", intents, 0.6),
        ]

    def _list(self, server: DriveServer, who: stage.Person) -> float:
        return wrk(f"{server.url}/v1/files?limit=20", seconds=self.seconds, token=who.token).rate

    def _intent(self, server: DriveServer, who: stage.Person) -> float:
        return send(server, "intent", [who], seconds=self.seconds).rate

    @staticmethod
    def _ratio(name: str, pairs: list[tuple[float, float]], mark: float) -> Result:
        parts = {"postgres": median_of(ours for ours, _ in pairs), "sqlite": median_of(base for _, base in pairs)}
        return Result(name, median_of(ours / base for ours, base in pairs), "sqlite", mark, parts=parts)

    def events(self) -> Result:
        """Seconds from intent to listed, with S3 and JetStream events, minus those of the PUT itself."""
        with ExitStack() as stack:
            store, broker = stack.enter_context(CephGateway()), stack.enter_context(NatsServer())
            server = stack.enter_context(stage.drive(stack.enter_context(stage.folder()), self._tables(store, broker)))
            ada = stage.person(server)
            found = sorted(asyncio.run(self._uploads(server, broker, ada.token)))
        extra = [total - put for total, put in found]
        parts = {
            "put ms": median_of(put for _, put in found) * 1000,
            "p95 ms": sorted(extra)[len(extra) * 95 // 100] * 1000,
        }
        return Result("intent and event to listed", median_of(extra) * 1000, "ms", 50, lower=True, parts=parts)

    @staticmethod
    def _tables(store: CephGateway, broker: NatsServer) -> dict[str, dict[str, Any]]:
        s3 = {"endpoint": store.endpoint, "access_key": store.access_key, "secret_key": store.secret_key}
        return merged(
            stage.OPEN_GATE,
            {"blobs": {"driver": "s3", "s3": s3}},
            {"nats": {"url": broker.url}, "ingest": {"events": "jetstream"}},
        )

    async def _uploads(self, server: DriveServer, broker: NatsServer, token: str) -> list[tuple[float, float]]:
        """Return, for each upload, the seconds from intent to listed and those of the PUT alone."""
        client = await nats.connect(broker.url)
        stream = client.jetstream()
        headers = {"Authorization": f"Bearer {token}"}
        times = []
        async with aiohttp.ClientSession(server.url) as http:
            for number in range(self.uploads):
                began = time.perf_counter()
                body = {"filename": f"{number}.bin", "mime": "text/plain", "size_bytes": 4096}
                async with http.post("/v1/files/upload-intent", json=body, headers=headers) as answer:
                    intent = await answer.json()
                before = time.perf_counter()
                async with http.put(intent["upload_url"], data=b"x" * 4096, headers=intent["headers"]) as answer:
                    assert answer.status == 200, await answer.text()
                put = time.perf_counter() - before
                await stream.publish("godrive.uploaded", event(intent["upload_url"]))
                while True:
                    async with http.get("/v1/files?limit=1", headers=headers) as answer:
                        files = (await answer.json())["files"]
                    if files and files[0]["name"] == body["filename"]:
                        break
                times.append((time.perf_counter() - began, put))
        await client.close()
        return times

    def rest(self) -> Result:
        """Memory of one process with S3 and NATS configured, a second after the first answer."""
        with ExitStack() as stack:
            store, broker = stack.enter_context(CephGateway()), stack.enter_context(NatsServer())
            server = stack.enter_context(stage.drive(stack.enter_context(stage.folder()), self._tables(store, broker)))
            stage.request(server, "GET", "/health")
            time.sleep(1)
            memory = server.resident_bytes() / MIB
        return Result("idle memory, S3 and NATS", memory, "MiB", 110, lower=True)


def event(url: str) -> bytes:
    """Return the event that MinIO publishes for an object at *url*."""
    _, bucket, key = urlsplit(url).path.split("/", 2)
    record = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "size": 4096}},
    }
    return json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": f"{bucket}/{key}", "Records": [record]}).encode()
