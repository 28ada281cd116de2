"""One server, as a client sees it: entries by path, bytes as streams, and a log-in that renews itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import hdrs
from yarl import URL

from godrive import __version__
from godrive.backoff import Backoff
from godrive.client.logins import LogIn, LogInFile
from godrive.errors import BY_CODE, ConfigError, DriveError, Invalid, StoreUnavailable, Unauthenticated

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
_ATTEMPTS = 6
_BACKOFF = Backoff(0.5, 15.0)
_EARLY = 30.0
"""Seconds before its end at which an access token is renewed."""
_BUSY = frozenset({429, 502, 503, 504})

Body = Callable[[], AsyncIterator[bytes]]
"""Returns the bytes of a request from the start, as often as it is sent."""


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """A file or folder of the server."""

    id: str
    kind: str
    name: str
    parent_id: str | None = None
    size_bytes: int = 0
    sha256: str | None = None
    modified_at: datetime | None = None

    @property
    def is_folder(self) -> bool:
        return self.kind == "folder"


class _Page(msgspec.Struct, kw_only=True):
    files: list[Entry]
    next_page: str | None = None


class _Tokens(msgspec.Struct, kw_only=True):
    token: str
    expires_at: datetime
    refresh_token: str


class _Problem(msgspec.Struct, kw_only=True):
    code: str = "error"
    detail: str = ""
    field: str | None = None


class Remote:
    """A server with a log-in: ``async with Remote(url) as remote``.

    Requests that may not have arrived, and those that the server is too busy
    for, are sent again, at most 6 times in all.  Raises the errors that the
    server answers, ``StoreUnavailable`` if it does not answer, ``ConfigError``
    without a log-in.
    """

    def __init__(self, url: str | None = None, *, file: LogInFile | None = None) -> None:
        self._file = file or LogInFile()
        self.url = checked_url(url or self._file.read().last)
        self._token = ""
        self._token_ends = 0.0
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Remote:
        agent = f"godrive/{__version__}"
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT, headers={hdrs.USER_AGENT: agent}, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def log_in(self, email: str, password: str) -> None:
        """Log in and keep the refresh token."""
        reply = await self._send("POST", "/v1/login", json={"email": email, "password": password}, token=None)
        tokens = msgspec.json.decode(reply, type=_Tokens)

        def keep() -> None:
            with self._file.locked() as kept:
                kept.servers[self.url] = LogIn(email=email, refresh_token=tokens.refresh_token)
                kept.last = self.url

        await asyncio.to_thread(keep)

    async def log_out(self) -> None:
        """End the session and forget its token."""
        await self._call("POST", "/v1/logout")

        def forget() -> None:
            with self._file.locked() as kept:
                kept.servers.pop(self.url, None)
                kept.last = next(iter(kept.servers), "") if kept.last == self.url else kept.last

        await asyncio.to_thread(forget)

    async def get(self, path: str) -> Entry:
        """Return the entry at *path*."""
        return msgspec.json.decode(await self._call("GET", _by_path(path)), type=Entry)

    async def get_by_id(self, entry_id: str) -> Entry:
        """Return the entry with that id."""
        return msgspec.json.decode(await self._call("GET", f"/v1/files/{quote(entry_id, safe='')}"), type=Entry)

    async def children(self, folder_id: str) -> AsyncIterator[Entry]:
        """Yield the entries of a folder by name."""
        async for entry in self._pages("/v1/files", {"parent_id": folder_id, "sort": "name"}):
            yield entry

    async def search(self, words: str, folder_id: str | None = None) -> AsyncIterator[Entry]:
        """Yield the entries whose names contain *words*, the best first."""
        query = {"q": words} if folder_id is None else {"q": words, "in": folder_id}
        async for entry in self._pages("/v1/search", query):
            yield entry

    async def make_folder(self, path: str, *, parents: bool) -> Entry:
        """Create a folder.  With *parents*, create those above it too, and accept one that is there."""
        body = {"path": _clean(path), "parents": parents, "exist_ok": parents}
        return msgspec.json.decode(await self._call("POST", "/v1/folders", json=body), type=Entry)

    async def move(self, entry: Entry, parent_id: str, name: str) -> Entry:
        """Move and rename an entry."""
        body = {"parent_id": parent_id, "name": name}
        return msgspec.json.decode(await self._call("PATCH", f"/v1/files/{entry.id}", json=body), type=Entry)

    async def copy(self, entry: Entry, parent_id: str, name: str) -> Entry:
        """Copy an entry with its contents."""
        body = {"parent_id": parent_id, "name": name}
        return msgspec.json.decode(await self._call("POST", f"/v1/files/{entry.id}/copy", json=body), type=Entry)

    async def trash(self, path: str) -> None:
        """Move the entry at *path* to the trash."""
        await self._call("DELETE", _by_path(path))

    async def put(
        self, path: str, body: Body, size: int, *, modified_at: datetime | None = None, on_conflict: str = "replace"
    ) -> Entry:
        """Store *size* bytes as the file at *path*.  Folders that are missing are created."""
        headers: dict[str, str] = {hdrs.CONTENT_LENGTH: str(size)}
        if modified_at is not None:
            headers["X-Modified-At"] = modified_at.isoformat()
        query = {"parents": "true", "on_conflict": on_conflict}
        reply = await self._call("PUT", _by_path(path), query=query, headers=headers, body=body)
        return msgspec.json.decode(reply, type=Entry)

    @asynccontextmanager
    async def content(self, entry: Entry, start: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the bytes of a file from *start*.  Raises ``StoreUnavailable`` also if the connection is lost."""
        headers: dict[str, str] = {hdrs.RANGE: f"bytes={start}-"} if start else {}
        path, token = f"/v1/files/{entry.id}/content", await self._access_token()
        try:
            async with self._request("GET", path, token=token, headers=headers) as response:
                if response.status in _BUSY:
                    raise StoreUnavailable(f"The server is busy ({response.status}).")
                if response.status >= 400:
                    raise _error(response.status, await response.read())
                if start and response.status != 206:
                    raise Invalid("The server does not continue a download.")
                yield response.content.iter_any()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as lost:
            raise _lost(self.url, lost) from None

    async def _pages(self, path: str, query: dict[str, str]) -> AsyncIterator[Entry]:
        page: str | None = ""
        while page is not None:
            found = msgspec.json.decode(
                await self._call("GET", path, query={**query, "limit": "1000"} | ({"page": page} if page else {})),
                type=_Page,
            )
            for entry in found.files:
                yield entry
            page = found.next_page

    async def _call(self, method: str, path: str, **options: Any) -> bytes:
        """Send a request with the access token, which is renewed once if the server refuses it."""
        try:
            return await self._send(method, path, token=await self._access_token(), **options)
        except Unauthenticated:
            self._token_ends = 0.0
            return await self._send(method, path, token=await self._access_token(), **options)

    async def _send(
        self, method: str, path: str, *, token: str | None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> bytes:
        """Send a request until it is answered.  Returns the body of the answer."""
        headers = dict(headers or {})
        if method != "GET" and token is not None:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._request(method, path, token=token, headers=headers, **options) as response:
                    content = await response.read()
                if response.status < 400:
                    return content
                error, wait = _error(response.status, content), response.headers.get(hdrs.RETRY_AFTER, "")
                if response.status not in _BUSY:
                    raise error
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as lost:
                error, wait = _lost(self.url, lost), ""
            if attempt == _ATTEMPTS:
                raise error
            await asyncio.sleep(float(wait) if wait.isdecimal() else _BACKOFF.after(attempt))
        raise AssertionError

    def _request(
        self,
        method: str,
        path: str,
        *,
        token: str | None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: Body | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        sent = dict(headers or {})
        if token is not None:
            sent[hdrs.AUTHORIZATION] = f"Bearer {token}"
        url = URL(self.url + path, encoded=True)
        if query:
            url = url.update_query(query)
        if body is None:
            return self._http.request(method, url, headers=sent, json=json)
        # Without a type, the server determines it from the bytes.
        return self._http.request(method, url, headers=sent, data=body(), skip_auto_headers=[hdrs.CONTENT_TYPE])

    async def _access_token(self) -> str:
        if time.monotonic() >= self._token_ends:
            async with self._renewing:
                if time.monotonic() >= self._token_ends:
                    await self._renew()
        return self._token

    async def _renew(self) -> None:
        """Exchange the refresh token while no other command does."""
        loop = asyncio.get_running_loop()

        def renew() -> _Tokens | None:
            with self._file.locked() as kept:
                log_in = kept.servers.get(self.url)
                if log_in is None:
                    return None
                body = {"refresh_token": log_in.refresh_token}
                sending = self._send("POST", "/v1/token/refresh", json=body, token=None)
                try:
                    reply = asyncio.run_coroutine_threadsafe(sending, loop).result()
                except Unauthenticated:
                    del kept.servers[self.url]
                    return None
                tokens = msgspec.json.decode(reply, type=_Tokens)
                log_in.refresh_token = tokens.refresh_token
                return tokens

        tokens = await asyncio.to_thread(renew)
        if tokens is None:
            raise ConfigError(f"You are not logged in on {self.url}.", hint=f"Run: godrive login --server {self.url}")
        lifetime = tokens.expires_at.timestamp() - time.time() - _EARLY
        self._token, self._token_ends = tokens.token, time.monotonic() + max(lifetime, 1.0)


def checked_url(text: str) -> str:
    """Return the URL of a server without its last slash.  Raises ``ConfigError``."""
    if not text:
        raise ConfigError("No server is named, and there is no log-in.", hint="Run: godrive login --server URL")
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ConfigError(f"{text!r} is not the URL of a server.", hint="Send one like https://drive.example.org.")
    return str(url).rstrip("/")


def _lost(url: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"{url} does not answer: {str(error) or type(error).__name__}.")


def _by_path(path: str) -> str:
    return "/v1/files/by-path/" + quote(_clean(path), safe="/")


def _clean(path: str) -> str:
    """Return a path as the API has it: names with single slashes between them."""
    return "/".join(name for name in path.split("/") if name)


def _error(status: int, content: bytes) -> DriveError:
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return StoreUnavailable(f"The server answered {status} without a reason.")
    return BY_CODE.get(problem.code, DriveError)(problem.detail, field=problem.field)
