"""A client of the REST API, as a programmer would write one from its description."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

Json = dict[str, Any]


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(f"{status} {problem}")
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        return str(self.problem.get("code"))


class Client:
    """One person's view of a drive."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.token = ""

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, connections: int = 100, timeout: float = 60.0) -> AsyncIterator[Client]:
        """A client without a user yet."""
        connector = aiohttp.TCPConnector(limit=connections)
        limit = aiohttp.ClientTimeout(total=timeout)
        async with aiohttp.ClientSession(connector=connector, timeout=limit, trust_env=False) as http:
            yield cls(http, url)

    async def request(self, method: str, path: str, body: Json | None = None, **options: Any) -> Json:
        """The JSON that comes back.  Raises :class:`Refused`."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        target = path if path.startswith("http") else self.url + path
        async with self.http.request(method, target, json=body, headers=headers, **options) as answer:
            return await self._read(answer)

    @staticmethod
    async def _read(answer: aiohttp.ClientResponse) -> Json:
        content = await answer.read()
        parsed: Json = await answer.json(content_type=None) if content else {}
        if answer.status >= 300:
            raise Refused(answer.status, parsed)
        return parsed

    async def enter(self, email: str = "ada@example.com", password: str = "correct horse") -> Client:
        """Sign up if need be, and log in."""
        try:
            await self.request("POST", "/v1/signup", {"email": email, "password": password})
        except Refused as refused:
            if refused.code != "email_taken":
                raise
        self.token = (await self.request("POST", "/v1/login", {"email": email, "password": password}))["token"]
        return self

    async def intent(self, name: str, content: bytes | int, **more: Any) -> Json:
        """Announce an upload of *content*, or of so many bytes."""
        size = content if isinstance(content, int) else len(content)
        body = {"filename": name, "mime": "application/octet-stream", "size_bytes": size, **more}
        return await self.request("POST", "/v1/files/upload-intent", body)

    async def put(self, intent: Json, content: bytes | AsyncIterator[bytes]) -> Json:
        """Send the bytes; the file that they became."""
        return await self.put_to(intent["upload_url"], intent["headers"], content)

    async def put_to(self, url: str, headers: Mapping[str, str], content: bytes | AsyncIterator[bytes]) -> Json:
        body = io.BytesIO(content) if isinstance(content, bytes) else content
        async with self.http.put(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
            return (await self._read(answer))["file"]  # type: ignore[no-any-return]

    async def upload(self, name: str, content: bytes) -> Json:
        """Announce and send."""
        return await self.put(await self.intent(name, content), content)

    async def files(self, path: str = "/v1/files", key: str = "files") -> list[Json]:
        """Everything in a list, over all its pages."""
        found: list[Json] = []
        page: str | None = None
        while True:
            answer = await self.request("GET", path, params={"limit": 1000} | ({"page": page} if page else {}))
            found += answer[key]
            page = answer.get("next_page")
            if page is None:
                return found

    async def download(self, file_id: str) -> bytes:
        """The bytes of a file, by its signed URL."""
        signed = await self.request("GET", f"/v1/files/{file_id}/download")
        async with self.http.get(signed["url"]) as answer:
            if answer.status != 200:
                raise Refused(answer.status, await answer.json(content_type=None))
            return await answer.read()

    async def digest(self, file_id: str) -> str:
        """The SHA-256 of what is downloaded."""
        return hashlib.sha256(await self.download(file_id)).hexdigest()
