"""The one place that calls addresses chosen by users.

Such an address must not lead into the network of the operator.  So a host name
is resolved once, all addresses that are not public are dropped, and the
connection goes to one of the rest; a second look-up, which could answer
differently (DNS rebinding), does not happen.  Redirects are not followed, no
proxy of the environment is used, certificates are verified, and little of the
answer is read.  Plain HTTP and unusual ports are only for networks that the
operator has allowed.

A receiver may close a connection after its answer without having announced it.
A request that is just then on its way there gets no answer.  So a request
that gets none on a connection that was used before is sent again at once.
RFC 9110 (9.2.2) allows that for a POST that may be repeated: each delivery has
an id by which its receiver recognises a repetition.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from ipaddress import ip_address
from types import SimpleNamespace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from godrive.bridge.look_ups import LookUps
from godrive.callbacks import AddressRefused, Failed, callback_url, literal_refusal, refusal
from godrive.network import Network
from godrive.unanswered import why

_READ = 4096
"""Bytes of an answer that are read, so that a connection can be used again."""
_CONNECT_TIMEOUT = 5.0
_MOST_CONNECTIONS = 64


class Outbound:
    """Sends requests.  Addresses may be public or lie in the networks *allowed*; with ``None``, anywhere."""

    def __init__(self, allowed: Collection[Network] | None, *, timeout: float) -> None:
        self._allowed = allowed
        self._timeout = timeout
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._look_ups = LookUps()

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send *body* and return the status of the answer.  Raises ``AddressRefused``, ``Failed``."""
        try:
            parts = callback_url(url)
        except ValueError as error:
            raise AddressRefused(str(error)) from None
        if (problem := literal_refusal(parts, allowed=self._allowed)) is not None:  # aiohttp does not resolve it
            raise AddressRefused(problem)
        try:
            async with (
                asyncio.timeout(self._timeout),
                await _answer(self._session(parts.scheme), url, body, headers) as response,
            ):
                await response.content.read(_READ)
                return response.status
        except TimeoutError:
            raise Failed(f"There was no answer within {self._timeout:g} seconds.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = _refusal(error)
            raise refused or Failed(f"The connection failed: {why(error)}.") from None

    def _session(self, scheme: str) -> aiohttp.ClientSession:
        """Return the session for URLs of that scheme."""
        if scheme not in self._sessions:
            self._sessions[scheme] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(partial(self._resolve, scheme)), use_dns_cache=False, limit=_MOST_CONNECTIONS
                ),
                trace_configs=[_trace()],
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
                headers={"User-Agent": "GoDrive-Webhooks", "Content-Type": "application/json"},
            )
        return self._sessions[scheme]

    async def _resolve(self, scheme: str, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        """Return the addresses of a host name that may be called.  Raises ``AddressRefused``, ``OSError``."""
        found = await self._look_ups.addresses(host, port, family)
        results: list[ResolveResult] = []
        problem = "The host has no address."
        for found_family, _, protocol, _, where in found:
            address = str(where[0])
            found_problem = refusal(ip_address(address), scheme, port, allowed=self._allowed)
            if found_problem is not None:
                problem = found_problem
            else:
                flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
                results.append(
                    ResolveResult(
                        hostname=host, host=address, port=port, family=found_family, proto=protocol, flags=flags
                    )
                )
        if not results:
            raise AddressRefused(problem)
        return results


class _Attempt:
    """One attempt to send a request."""

    reused = False
    """Whether its connection was used before."""


async def _answer(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
) -> aiohttp.ClientResponse:
    """Send a request until it has an answer or has failed on a new connection."""
    while True:
        attempt = _Attempt()
        try:
            return await session.post(url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=attempt)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not attempt.reused:
                raise


def _trace() -> aiohttp.TraceConfig:
    """Return what tells an attempt that its connection was used before."""

    async def note(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionReuseconnParams
    ) -> None:
        context.trace_request_ctx.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note)
    return trace


Resolve = Callable[[str, int, socket.AddressFamily], Awaitable[list[ResolveResult]]]


class _Resolver(AbstractResolver):
    """Has aiohttp look hosts up by a function."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            return await self._resolve(host, port, family)
        except AddressRefused as refused:  # aiohttp expects no other error
            raise OSError(str(refused)) from refused

    async def close(self) -> None:
        """Nothing is kept."""


def _refusal(error: BaseException) -> AddressRefused | None:
    """Return the refusal that is the cause of the error, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AddressRefused):
        cause = cause.__cause__
    return cause
