"""Plain HTTP requests to the store, as the holder of a signed URL sends them: nothing is added, nothing is retried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from godrive.blobs.bounded_read import read_bounded
from godrive.errors import StoreUnavailable
from godrive.unanswered import why


@dataclass(frozen=True)
class Answer:
    """The answer to one request.  Of a long body it has the beginning."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the request was accepted."""
        return 200 <= self.status < 300


async def exchange(
    session: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Send one request to *url*, which is used as it is, because every byte of it may be signed.

    Raises ``StoreUnavailable`` if no answer comes.
    """
    try:
        async with session.request(
            method, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            return Answer(answer.status, answer.headers, await read_bounded(answer.content))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise StoreUnavailable("The store does not answer.", hint=why(error)) from error
