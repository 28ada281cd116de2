"""Those who use a server, and what they get back."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from godrive.drive import GoDrive
from godrive.testing import ManualClock

Json = dict[str, Any]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    content: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.content)


class Person:
    """One who sends requests, with a token once logged in."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.token: str | None = None
        self.tokens: Json = {}

    async def __call__(self, method: str, path: str, json: Any = None, **options: Any) -> Answer:
        """Send a request; *path* may be a whole URL.  Of a stream of events, return the first block."""
        headers = dict(options.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        target = path if path.startswith("http") else self.url + path
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])
        async with self.http.request(method, target, json=json, headers=headers, **options) as response:
            endless = response.content_type == "text/event-stream" and method == "GET"
            content = await (response.content.readuntil(b"\n\n") if endless else response.read())
            return Answer(response.status, response.headers, content)

    async def enter(self, email: str = "ann@example.org", password: str = "correct horse") -> Person:
        """Sign up if need be, and log in."""
        await self("POST", "/v1/signup", {"email": email, "password": password})
        self.tokens = (await self("POST", "/v1/login", {"email": email, "password": password})).json
        self.token = self.tokens["token"]
        return self

    async def upload(self, name: str, content: bytes = b"hello", **more: Any) -> Json:
        """Announce and send; the file."""
        intent = await self(
            "POST",
            "/v1/files/upload-intent",
            {"filename": name, "mime": "text/plain", "size_bytes": len(content), **more},
        )
        assert intent.status == 200, intent.json
        sent = await self("PUT", intent.json["upload_url"], data=io.BytesIO(content), headers=intent.json["headers"])
        assert sent.status in {200, 201}, sent.content
        file: Json = sent.json["file"]
        return file


@dataclass
class Site:
    """A drive that is served."""

    drive: GoDrive
    url: str
    clock: ManualClock

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


def parse(received: bytes) -> Answer:
    """The first answer in what was received."""
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, rest[: int(headers.get("content-length", len(rest)))])
