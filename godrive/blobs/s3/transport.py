"""Sends the operations of :mod:`godrive.blobs.s3.operations` over one HTTP session, signed by us.

The SDK takes about a millisecond of CPU time for each call, which is more than
the rest of an upload.  It still finds the credentials, and executes whatever
is not among these operations.  It also takes over a request that a store
redirects, because it knows where the buckets of AWS are.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from yarl import URL

from godrive.blobs.bounded_read import read_bounded
from godrive.blobs.s3.operations import Operation, error_of
from godrive.blobs.s3.sdk import CONNECT_TIMEOUT, CONNECTIONS
from godrive.blobs.s3.signing import Credentials, sign

_IDLE = 12.0
"""Seconds after which an idle connection is closed, as the SDK does."""

_NO_BODY = hashlib.sha256().hexdigest()
_LARGE = 256 * 1024
"""Bytes of a body that is hashed in a thread and sent in pieces."""

_REDIRECTS = {301, 302, 307}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}


def wall_clock() -> datetime:
    """The time that requests state, whatever the clock of the drive says: the store compares it with its own."""
    return datetime.now(UTC)


class Redirected(Exception):
    """The store redirects the request, or requires a signature for another region."""


class Transport:
    """One session to the bucket at the URL *bucket*.  *verify* is a file of certificate authorities, or ``True``."""

    def __init__(
        self,
        bucket: str,
        *,
        region: str,
        credentials: Callable[[], Awaitable[Credentials]],
        verify: str | bool,
        read_timeout: float,
    ) -> None:
        self._bucket = bucket
        self._region = region
        self._credentials = credentials
        self._proxy = get_environ_proxies(bucket).get(urlsplit(bucket).scheme)
        trust: ssl.SSLContext | bool = True
        if bucket.startswith("https:"):
            trust = ssl.create_default_context(cafile=get_cert_path(verify))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=CONNECTIONS, keepalive_timeout=_IDLE),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=read_timeout),
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, operation: Operation, *, Key: str = "", Body: bytes = b"", **arguments: Any) -> dict[str, Any]:
        """Execute *operation* once.

        Raises ``ClientError``, :class:`Redirected`, ``aiohttp.ClientError``, ``OSError``.
        """
        headers, query = operation.request(arguments)
        url, signed = sign(
            operation.method,
            self._bucket + Key if Key else self._bucket.removesuffix("/"),
            credentials=await self._credentials(),
            region=self._region,
            now=wall_clock(),
            headers=headers,
            query=query,
            payload=await _digest(Body),
        )
        answer = await self._session.request(
            operation.method,
            URL(url, encoded=True),
            headers=signed,
            data=io.BytesIO(Body) if len(Body) > _LARGE else Body or None,  # which aiohttp sends in pieces
            allow_redirects=False,
            proxy=self._proxy,
        )
        if answer.status < 300 and operation.streams:
            try:
                _acknowledge(answer)
                return {**operation.read(answer.headers, b""), "Body": _Stream(answer)}
            except BaseException:
                answer.close()
                raise
        async with answer:
            if answer.status < 300:
                return operation.read(answer.headers, await answer.read())
            error = error_of(operation, answer.status, await read_bounded(answer.content))
        if _is_redirect(operation, error):
            raise Redirected from error
        raise error


def _acknowledge(answer: aiohttp.ClientResponse) -> None:
    """Acknowledge the head of the answer now.

    Otherwise the system waits for up to 40 ms, and so does a store that sends no small packet before all that it has
    sent is acknowledged (Nagle's algorithm), as Ceph does.
    """
    transport = None if answer.connection is None else answer.connection.transport
    if transport is not None and hasattr(socket, "TCP_QUICKACK"):  # there is no connection if the body has come too
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class _Stream:
    """The body of an answer, in the shape that the SDK gives it."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.read = answer.content.read
        self.close = answer.close


async def _digest(body: bytes) -> str:
    if not body:
        return _NO_BODY
    if len(body) < _LARGE:
        return hashlib.sha256(body).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())


def _is_redirect(operation: Operation, error: ClientError) -> bool:
    status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    # A HEAD has no body that could say why: S3 answers 400 to one that is signed for another region.
    return status in _REDIRECTS or code in _WRONG_REGION or (operation.method == "HEAD" and status == 400)
