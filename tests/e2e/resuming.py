"""A client of tus that never gives up: it asks where its upload stands, and goes on from there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from tests.e2e.client import Client

PIECE = 64 * 1024
_AGAIN = {409, 423, 429, 500, 502, 503, 504}
"""Statuses after which a client asks again where the upload stands."""


class Lost(Exception):
    """The server gave a reason for which no upload may end."""


@dataclass
class Resumed:
    """One file on its way, *content* in requests of about *chunk* bytes."""

    client: Client
    name: str
    content: bytes
    chunk: int
    sent: int = 0
    """Bytes in all requests."""
    interruptions: int = 0
    statuses: set[int] = field(default_factory=set)
    _url: str = ""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    async def run(self) -> None:
        """Send all of it.  Raises :class:`Lost`."""
        while True:
            try:
                if not self._url:
                    self._url = await self._create()
                offset = await self._offset()
                while offset < len(self.content):
                    offset = await self._send(offset)
            except (aiohttp.ClientError, OSError, TimeoutError, _Again):
                self.interruptions += 1
                await asyncio.sleep(random.uniform(0.02, 0.2))
            else:
                return

    async def _create(self) -> str:
        metadata = f"filename {base64.b64encode(self.name.encode()).decode()}"
        headers = {"Upload-Length": str(len(self.content)), "Upload-Metadata": metadata}
        answer = await self._ask("POST", f"{self.client.url}/v1/tus?on_conflict=replace", headers)
        return answer["Location"]

    async def _offset(self) -> int:
        return int((await self._ask("HEAD", self._url, {}))["Upload-Offset"])

    async def _send(self, offset: int) -> int:
        end = min(offset + random.randint(1, 2 * self.chunk), len(self.content))
        headers = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        answer = await self._ask("PATCH", self._url, headers, (offset, end))
        assert int(answer["Upload-Offset"]) == end
        return end

    async def _ask(
        self, method: str, url: str, headers: dict[str, str], span: tuple[int, int] | None = None
    ) -> dict[str, str]:
        sent = {"Tus-Resumable": "1.0.0", "Authorization": f"Bearer {self.client.token}", **headers}
        body = None
        if span is not None:
            sent["Content-Length"] = str(span[1] - span[0])
            body = self._pieces(*span)
        async with self.client.http.request(method, url, headers=sent, data=body) as answer:
            await answer.read()
            self.statuses.add(answer.status)
            if answer.status in _AGAIN:
                assert answer.status != 503 or "Retry-After" in answer.headers
                raise _Again
            if answer.status >= 300:
                raise Lost(f"{self.name}: {method} {answer.status} {await answer.text()}")
            return dict(answer.headers)

    async def _pieces(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, PIECE):
            piece = self.content[at : min(at + PIECE, end)]
            self.sent += len(piece)
            yield piece


class _Again(Exception):
    pass
