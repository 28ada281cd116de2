"""``Idempotency-Key``: a repeated request gets the first answer and is not carried out again.

Only successful answers are kept.  After an error the key is free, because
nothing has changed and the next attempt may succeed.  If the outcome is unknown
(no answer in time, or a bug), it stays claimed until the claim expires, as
after a kill.  Of a request that stores several files, each has a key of its
own, because those before one that is refused stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from godrive.errors import ActorCrashed, AskTimeout, Conflict, DriveError, Invalid, TooLarge
from godrive.http.api.digests import CONTENT_DIGEST, REPR_DIGEST
from godrive.http.api.reading import combined
from godrive.http.api.tus_headers import CONCAT, LENGTH, METADATA
from godrive.messages.idempotency import (
    ClaimKey,
    RenewKey,
    SettleKey,
    StoredReply,
)
from godrive.messages.metadata import Metadata
from godrive.model import File
from godrive.principal import Principal
from godrive.runtime import Ref

T = TypeVar("T")

IDEMPOTENCY_KEY = istr("Idempotency-Key")
RENEW_EVERY = 20.0
"""Seconds between renewals of the key of a request that is being served: a third of what a claim lasts."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_OF_TUS = (LENGTH, METADATA, CONCAT)
_NOT_KEPT = StoredReply(status=HTTPStatus.CONFLICT.value, headers={}, body=b"")
"""Is kept in place of an answer that is too large for a message to another process."""


async def answer_once(
    request: web.Request,
    body: bytes,
    metadata: Ref[Metadata],
    by: Principal,
    run: Callable[[], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Return the answer of *run*, or the kept answer to the first request with this key.

    Raises ``IdempotencyMismatch`` if the first request was another one,
    ``Conflict`` while it is still being served and if its answer could not be
    kept, ``Invalid`` for a malformed key.
    """
    key = combined(request, IDEMPOTENCY_KEY) or ""
    if _KEY.fullmatch(key) is None:
        raise Invalid("Must be 1 to 255 visible ASCII characters.", field=IDEMPOTENCY_KEY)
    answer = await _once(metadata, ClaimKey(by, key, _fingerprint(request, body)), run, _stored_reply)
    if isinstance(answer, StoredReply):
        if answer.status == _NOT_KEPT.status:  # an error is never kept otherwise
            raise Conflict("The first request was carried out. Its answer was too large to be stored.")
        headers = {**answer.headers, "Idempotency-Replayed": "true"}
        return web.Response(body=answer.body or None, status=answer.status, headers=headers)
    return answer


async def store_once(
    request: web.Request, said: str, metadata: Ref[Metadata], by: Principal, run: Callable[[], Awaitable[File]]
) -> File:
    """Return the file that *run* stores, or the one that an earlier request with this key and body has stored.

    *said* tells the file from the others of the body.
    """
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return await run()
    fingerprint = _fingerprint(request, describe_body(request) + b"\n" + said.encode("utf-8", "surrogateescape"))
    own = f"file {hashlib.sha256(f'{key} {fingerprint}'.encode()).hexdigest()}"  # no client can send one with a space
    answer = await _once(metadata, ClaimKey(by, own, fingerprint), run, _stored_file)
    return msgspec.json.decode(answer.body, type=File) if isinstance(answer, StoredReply) else answer


async def _once(
    metadata: Ref[Metadata], claim: ClaimKey, run: Callable[[], Awaitable[T]], kept: Callable[[T], StoredReply]
) -> T | StoredReply:
    """Return the value of *run*, or what was *kept* of it for the first claim of this key."""
    by, key = claim.by, claim.key
    claimed = await metadata.ask(claim)
    if claimed is not None:
        return claimed
    renewal = _Renewal(metadata, RenewKey(by, key))
    try:
        value = await run()
    except (AskTimeout, ActorCrashed):
        raise  # the command may still be carried out, or was
    except (DriveError, web.HTTPException, ConnectionError):
        # A task of its own, because this one may be cancelled.  Its error does not matter: the client has to
        # know what went wrong first.  Not shield(), which from Python 3.14 reports such an error as unhandled.
        freed = asyncio.ensure_future(metadata.ask(SettleKey(by, key)))
        freed.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([freed])
        raise
    finally:
        renewal.end()
    # The command was carried out, so this is the answer even if it cannot be kept.
    with contextlib.suppress(DriveError):
        try:
            await metadata.ask(SettleKey(by, key, kept(value)))
        except TooLarge:  # without any answer, the key would soon be free, and the command carried out again
            await metadata.ask(SettleKey(by, key, _NOT_KEPT))
    return value


class _Renewal:
    """Renews a claimed key until :meth:`end`.  Costs a timer, since most requests end sooner."""

    def __init__(self, metadata: Ref[Metadata], message: RenewKey) -> None:
        self._metadata = metadata
        self._message = message
        self._asked: asyncio.Task[None] | None = None
        self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RENEW_EVERY, self._renew)

    def _renew(self) -> None:
        self._asked = asyncio.ensure_future(self._metadata.ask(self._message))
        self._asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next one may succeed
        self._arm()

    def end(self) -> None:
        """Stop renewing."""
        self._timer.cancel()


def describe_body(request: web.Request) -> bytes:
    """Return what identifies a body that is not read before the key is claimed: its length and digests.

    A request of tus has the name and the length of the file in headers; others have the name in the URL.
    """
    headers = request.headers
    said = [headers.get(name, "") for name in (hdrs.CONTENT_LENGTH, CONTENT_DIGEST, REPR_DIGEST)]
    said += [f"{name}: {value}" for name in _OF_TUS for value in headers.getall(name, ())]
    return "\n".join(said).encode("utf-8", "surrogateescape")


def _fingerprint(request: web.Request, body: bytes) -> str:
    parts = [request.method, request.raw_path, request.headers.get(hdrs.IF_MATCH, "")]
    digest = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape"))
    digest.update(b"\n" + body)
    return digest.hexdigest()


def _stored_reply(response: web.StreamResponse) -> StoredReply:
    body = response.body if isinstance(response, web.Response) else None
    content = bytes(body) if isinstance(body, bytes | bytearray) else b""
    return StoredReply(status=response.status, headers=dict(response.headers), body=content)


def _stored_file(file: File) -> StoredReply:
    return StoredReply(status=201, headers={}, body=msgspec.json.encode(file))
