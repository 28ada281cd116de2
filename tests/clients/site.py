"""A server, the ways to it, and how the tests have each client of others upload there."""

from __future__ import annotations

import asyncio
import os
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.clients.jobs import JobFailed, Jobs
from tests.clients.line import Line
from tests.drive_server import DriveServer
from tests.e2e.client import Client

CHUNK = 128 * 1024
LIMIT = 200_000
"""The limit on request bodies of the proxies: a chunk passes, a file of the tests does not."""

CUT = 100_000
"""Bytes after which a line is cut or falls silent: in the middle of the first chunk of a connection."""

WAYS = ("direct", "nginx", "nginx-buffers", "caddy", "caddy-buffers")

PLAIN, PARALLEL, DEFERRED, CHECKSUM = "plain", "parallel", "deferred", "checksum"

CLIENTS: dict[str, tuple[str, ...]] = {
    "tus-js-client in Node.js": (PLAIN, PARALLEL, DEFERRED, CHECKSUM),
    "tus-js-client in Chromium": (PLAIN, PARALLEL, DEFERRED, CHECKSUM),
    "Uppy": (PLAIN, PARALLEL, DEFERRED, CHECKSUM),
    "tuspy": (PLAIN, CHECKSUM),  # implements neither concatenation nor a length that is deferred
    "aiotus": (PLAIN, PARALLEL),  # sends no checksums, and always the length
    "curl": (PLAIN, PARALLEL, DEFERRED, CHECKSUM),
}
"""What each client can do, as the table of docs/uploads.md says."""


_CURL = {
    PLAIN: "upload",
    PARALLEL: "upload_in_parts",
    DEFERRED: "upload_with_length_later",
    CHECKSUM: "upload_with_checksum",
}
_OF_TUS_JS: dict[str, dict[str, Any]] = {PARALLEL: {"parallelUploads": 3}, DEFERRED: {"uploadLengthDeferred": True}}


@dataclass
class Parcel:
    """A file to upload for somebody, over a line."""

    line: Line
    token: str
    name: str
    content: bytes
    number: str = field(default_factory=lambda: uuid4().hex)

    @property
    def wrong_checksum(self) -> str:
        """The SHA-256 of other bytes, in Base64."""
        return b64encode(sha256(self.content + b"others").digest()).decode()


class Site:
    """The server, its ports by way, and ports for lines, with which its URLs may begin."""

    LINES = len(CLIENTS) * len(WAYS)

    def __init__(self, server: DriveServer, ways: dict[str, int], lines: list[int], jobs: Jobs, folder: Path) -> None:
        """*folder* has the script of docs/uploads.md in ``curl.sh``."""
        self.server = server
        self.ways = ways
        self.jobs = jobs
        self._lines = lines
        self._folder = folder

    @asynccontextmanager
    async def line(self, way: str) -> AsyncIterator[Line]:
        """A line to the server that goes one of its ways."""
        port = self._lines.pop()
        try:
            async with Line.open(port, self.ways[way]) as line:
                yield line
        finally:
            self._lines.append(port)

    @asynccontextmanager
    async def person(self) -> AsyncIterator[Client]:
        """Somebody who has an account and is logged in."""
        async with Client.connect(self.server.url) as client:
            yield await client.enter(f"{os.urandom(8).hex()}@example.org")

    async def upload(self, client: str, case: str, parcel: Parcel, *, attempts: int = 200) -> None:
        """Have a client upload.  Raises :class:`JobFailed`.  In the case CHECKSUM, tuspy sends the right one."""
        options: dict[str, Any]
        match client.split(maxsplit=1)[0]:
            case "curl":
                await self._run_curl(case, parcel)
            case "tuspy":
                options = {"chunk_size": CHUNK, "retries": attempts, "retry_delay": 0.1}
                await self._run(
                    "python", "tuspy", parcel, options | {"kept": str(self._folder / f"{parcel.number}.json")}
                )
            case "aiotus":
                options = {"chunk_size": CHUNK, "attempts": attempts, "pause": 0.1}
                await self._run("python", "aiotus", parcel, options | ({"parts": 3} if case == PARALLEL else {}))
            case name:
                checksum = f"sha256 {parcel.wrong_checksum}" if case == CHECKSUM else ""
                options = {"chunkSize": CHUNK, "retryDelays": [100] * attempts, "endpoint": f"{parcel.line.url}/v1/tus"}
                worker = "node" if client.endswith("Node.js") else "page"
                options |= _OF_TUS_JS.get(case, {})
                await self._run(worker, name.lower(), parcel, options, checksum)

    async def _run(self, worker: str, client: str, parcel: Parcel, options: dict[str, Any], checksum: str = "") -> None:
        self.jobs.tokens[parcel.number] = parcel.token
        await self.jobs.run(
            worker,
            client,
            parcel.content,
            name=parcel.name,
            key=parcel.number,
            endpoint=f"{parcel.line.url}/v1/tus",
            checksum=checksum,
            options=options,
        )

    async def _run_curl(self, case: str, parcel: Parcel) -> None:
        settings = {"TOKEN": parcel.token, "ENDPOINT": f"{parcel.line.url}/v1/tus", "CHUNK": str(CHUNK), "PAUSE": "0.1"}
        if case == CHECKSUM:
            settings["CHECKSUM"] = parcel.wrong_checksum
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / parcel.name
            path.write_bytes(parcel.content)
            process = await asyncio.create_subprocess_exec(
                "bash", "-euo", "pipefail", "-c", f'. {self._folder}/curl.sh; {_CURL[case]} "$1"', "bash", path,
                env={**os.environ, **settings}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            try:
                output, _ = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
        if process.returncode:
            raise JobFailed(output.decode())
