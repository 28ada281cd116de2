"""Requests to one server: sent again while it cannot answer, with a log-in that renews itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from aiohttp import hdrs
from multidict import CIMultiDictProxy
from yarl import URL

from godrive import __version__
from godrive.backoff import Backoff
from godrive.client.logins import LogInFile, SavedLogIn
from godrive.client.printing import printable
from godrive.errors import (
    BY_CODE,
    ConfigError,
    Conflict,
    DeliveryError,
    DriveError,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from godrive.unanswered import why

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
_BACKOFF = Backoff(0.1, 15.0)
_EARLY = 30.0
"""Seconds before its end at which an access token is renewed."""
_UNSAID = 0.0
"""Seconds to wait that no server has named: our own back-off decides."""
_REASONLESS = frozenset({408, 429})
"""Statuses below 500 of servers and proxies that have no time now."""

LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, aiohttp.ClientResponseError, TimeoutError)
"""What aiohttp raises if the connection cannot be made, is lost, or brings what is no answer."""

NOT_NOW = (StoreUnavailable, TooManyRequests, DeliveryError)
"""Errors of a server that is down, cannot be reached, or has no time: the same request may succeed later."""

Body = Callable[[], AsyncIterator[bytes]]
"""Returns the bytes of a request from the start, as often as it is sent."""


class NotGoDrive(DriveError):
    """What has answered is not GoDrive: the page of a network that wants a log-in, or another program."""

    title = "This is not the answer of a GoDrive server"


class BodyRefused(DriveError):
    """A proxy in front of the server refuses a request body of this size."""

    title = "A proxy refuses a request of this size"


MOST_JSON = 64 << 20
"""Bytes of an answer that is not a file: more than a page of 1000 entries with all their properties can have."""

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True):
    """The body and the headers of an answer."""

    content: bytes
    headers: CIMultiDictProxy[str]


class _Tokens(msgspec.Struct, kw_only=True):
    token: str
    expires_at: datetime
    refresh_token: str


class _Problem(msgspec.Struct, kw_only=True):
    code: str = "error"
    detail: str = ""
    field: str | None = None


class Patience:
    """Decides whether to try again: until there was no progress for *seconds*, counted from the first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.failures = 0
        self._began = 0.0

    def progressed(self) -> None:
        """Start again."""
        self.failures = 0

    async def wait(self, error: DriveError) -> None:
        """Wait before the next attempt, as long as *error* says, or longer after each failure.  Raises *error*."""
        now = time.monotonic()
        if not self.failures:
            self._began = now
        self.failures += 1
        pause = error.retry_after or _BACKOFF.jittered(self.failures)
        if now + pause > self._began + self._seconds:
            raise error
        await asyncio.sleep(pause)


class Connection:
    """A server with a log-in: ``async with Connection(url) as connection``.

    Requests that may not have arrived, and those that the server is too busy
    for, are sent again for *patience* seconds.  Raises the errors that the
    server answers, ``StoreUnavailable`` if it does not answer, ``ConfigError``
    without a log-in.
    """

    def __init__(self, url: str | None = None, *, file: LogInFile | None = None, patience: float = 15.0) -> None:
        self._file = file or LogInFile()
        self.url = checked_url(url or self._file.read().last)
        self._seconds = patience
        self._token = ""
        self._token_ends = 0.0
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        agent = f"godrive/{__version__}"
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT, headers={hdrs.USER_AGENT: agent}, auto_decompress=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    @property
    def email(self) -> str:
        """The account that is logged in; empty without a log-in."""
        log_in = self._file.read().servers.get(self.url)
        return "" if log_in is None else log_in.email

    def patience(self) -> Patience:
        """Return how long to repeat the requests of a transfer."""
        return Patience(self._seconds)

    async def log_in(self, email: str, password: str) -> None:
        """Log in and keep the refresh token."""
        answer = await self.send("POST", "/v1/login", json={"email": email, "password": password})
        tokens = decoded(answer, _Tokens)

        def keep() -> None:
            with self._file.locked() as kept:
                kept.servers[self.url] = SavedLogIn(email=email, refresh_token=tokens.refresh_token)
                kept.last = self.url

        await asyncio.to_thread(keep)

    async def log_out(self) -> None:
        """End the session and forget its token."""
        await self.call("POST", "/v1/logout")

        def forget() -> None:
            with self._file.locked() as kept:
                kept.servers.pop(self.url, None)
                kept.last = next(iter(kept.servers), "") if kept.last == self.url else kept.last

        await asyncio.to_thread(forget)

    async def call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, tries: int = 0, **options: Any
    ) -> Answer:
        """Send a request with the access token until it is answered, at most *tries* times unless that is 0."""
        headers = dict(headers or {})
        if method != "GET":
            headers["Idempotency-Key"] = str(uuid.uuid4())
        patience = self.patience()
        while True:
            # A proxy that refuses a large body may cut the line, and the answer is lost.  If it is asked first, it
            # answers.  Some never answer that, so only every other attempt asks.
            options["expect100"] = options.get("body") is not None and patience.failures % 2 == 1
            try:
                return await self.call_once(method, path, headers=headers, **options)
            except (*NOT_NOW, Conflict) as error:
                if isinstance(error, Conflict) and not (patience.failures and error.retry_after):
                    raise  # otherwise the server is still busy with an earlier attempt
                if patience.failures + 1 == tries:
                    raise
                await patience.wait(error)

    async def call_once(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request with the access token, which is renewed once if the server refuses it."""
        token = await self.access_token()
        try:
            return await self._exchange(method, path, token=token, **options)
        except Unauthenticated:
            return await self._exchange(method, path, token=await self.access_token(other_than=token), **options)

    async def send(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request without a token until it is answered."""
        patience = self.patience()
        while True:
            try:
                return await self._exchange(method, path, token=None, **options)
            except NOT_NOW as error:
                await patience.wait(error)

    def lost(self, error: Exception) -> StoreUnavailable:
        """Convert one of :data:`LOST` to the error for the caller."""
        return StoreUnavailable(f"{self.url} does not answer: {why(error)}.", retry_after=_UNSAID)

    async def _exchange(self, method: str, path: str, **options: Any) -> Answer:
        try:
            async with self.request(method, path, **options) as response:
                content = await read_json(response)
        except LOST as error:
            raise self.lost(error) from None
        if response.status >= 400:
            raise error_of(response, content)
        if response.status >= 300:
            target = printable(response.headers.get(hdrs.LOCATION, "another URL"))
            raise NotGoDrive(f"{self.url} redirects to {target}. If that is the server, log in there.")
        return Answer(content, response.headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: Body | None = None,
        expect100: bool = False,
        follow: bool = False,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return a request, whose answer the caller reads.  Raises what is in :data:`LOST`.

        A redirect is not followed unless *follow*: a password, a refresh token
        and a file go to no other server than that of the log-in.
        """
        sent = dict(headers or {})
        if token is not None:
            sent[hdrs.AUTHORIZATION] = f"Bearer {token}"
        url = URL(self.url + path, encoded=True)
        if query:
            url = url.update_query(query)
        if body is None:
            return self._http.request(method, url, headers=sent, json=json, allow_redirects=follow)
        # Without a type, the server determines it from the bytes.
        return self._http.request(
            method,
            url,
            headers=sent,
            data=body(),
            expect100=expect100,
            skip_auto_headers=[hdrs.CONTENT_TYPE],
            allow_redirects=False,
        )

    async def access_token(self, *, other_than: str | None = None) -> str:
        """Return the access token.  Renews it if it expires, or if the server has refused it."""
        if self._is_old(other_than):
            async with self._renewing:
                if self._is_old(other_than):
                    await self._renew()
        return self._token

    def _is_old(self, refused: str | None) -> bool:
        return self._token == refused or time.monotonic() >= self._token_ends

    async def _renew(self) -> None:
        """Exchange the refresh token while no other command does."""
        loop = asyncio.get_running_loop()

        def renew() -> _Tokens | None:
            with self._file.locked() as kept:
                log_in = kept.servers.get(self.url)
                if log_in is None:
                    return None
                body = {"refresh_token": log_in.refresh_token}
                sending = self.send("POST", "/v1/token/refresh", json=body)
                try:
                    answer = asyncio.run_coroutine_threadsafe(sending, loop).result()
                except Unauthenticated:
                    del kept.servers[self.url]
                    return None
                tokens = decoded(answer, _Tokens)
                log_in.refresh_token = tokens.refresh_token
                return tokens

        tokens = await asyncio.to_thread(renew)
        if tokens is None:
            raise ConfigError(f"You are not logged in to {self.url}.", hint=f"Run: godrive login --server {self.url}")
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


async def read_json(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer that is not a file.  Raises ``NotGoDrive``, and what is in :data:`LOST`."""
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > MOST_JSON:
            raise NotGoDrive(f"The answer has more than {MOST_JSON} bytes.")
    return bytes(content)


def decoded(answer: Answer, expected: type[T]) -> T:
    """Return the value that an answer contains.  Raises ``NotGoDrive``."""
    try:
        return msgspec.json.decode(answer.content, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotGoDrive from None


def error_of(response: aiohttp.ClientResponse, content: bytes) -> DriveError:
    """Convert an answer with a status of 400 or more to an error."""
    wait = response.headers.get(hdrs.RETRY_AFTER, "")
    retry_after = float(wait) if wait.isdecimal() else _UNSAID
    try:
        problem = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status = response.status
        if status == 413:
            return BodyRefused()
        kind = StoreUnavailable if status >= 500 or status in _REASONLESS else DriveError
        return kind(f"The server answered {status} without a reason.", retry_after=retry_after)
    detail = printable(problem.detail)
    return BY_CODE.get(problem.code, DriveError)(detail, field=problem.field, retry_after=retry_after)
