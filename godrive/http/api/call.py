"""One request on its way through an operation: authenticate, parse, ask, render."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from godrive.drive import GoDrive
from godrive.errors import DriveError, Forbidden, Invalid
from godrive.http.api.authentication import authenticate, signature_reader
from godrive.http.api.idempotency import IDEMPOTENCY_KEY, answer_once
from godrive.http.api.operations import Operation
from godrive.http.api.reading import (
    check_media_type,
    header_text,
    json_reader,
    query_reader,
    read_id,
    strong_tags,
)
from godrive.http.observe.request_log import USER
from godrive.http.wire.addresses import TrustedProxies
from godrive.http.wire.fair_queue import FairQueue, Lanes
from godrive.http.wire.request_body import read_body
from godrive.model import ETag, UserId
from godrive.principal import Caller, Scope, UserSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC_BODY = 32_768
"""Bytes of the largest body that anyone may send: passwords and tokens are short, and the body is kept in memory."""

LARGE_PAGE = 100
"""Rows of a page up to which a read is a small one."""

_VARY = "Authorization"
_encoder = msgspec.json.Encoder()


class Call:
    """What a handler knows of the request beside its arguments; ``headers`` go into the answer.

    ``original`` is true for a request to one of the root paths of the first GoDrive.
    """

    __slots__ = ("_by", "_proxies", "drive", "headers", "original", "request", "status")

    def __init__(self, request: web.Request, drive: GoDrive, proxies: TrustedProxies, *, original: bool) -> None:
        self.request = request
        self.drive = drive
        self.original = original
        self.headers: dict[str, str] = {}
        self.status: int | None = None
        self._by: Caller | None = None
        self._proxies = proxies

    @property
    def by(self) -> Caller:
        """Who acts, and has the scope that the operation needs.  Operations that need no scope must not ask."""
        assert self._by is not None  # noqa: S101
        return self._by

    @property
    def session(self) -> UserSession:
        """The session of the request, for operations that accept no other principal.  Raises ``Forbidden``."""
        if not isinstance(self.by, UserSession):
            raise Forbidden("Log in: a token cannot do this.")
        return self.by

    @property
    def owner(self) -> UserId:
        """Whose drive this is about."""
        return self.by.user_id

    @property
    def address(self) -> str:
        """The client's network address, as far as proxies can be trusted."""
        return self._proxies.address(self.request)

    @property
    def forwarded(self) -> bool:
        """Whether an untrusted proxy named another client in its headers."""
        return self._proxies.disregards(self.request)

    @property
    def user_agent(self) -> str:
        """The client's ``User-Agent``."""
        return header_text(self.request.headers.get(hdrs.USER_AGENT, ""), 200)

    @property
    def if_match(self) -> ETag | None:
        """The entity tag of ``If-Match``; ``None`` if any will do.  Raises ``Invalid``, ``PreconditionFailed``."""
        tags = strong_tags(self.request)
        if tags is None:
            return None
        if len(tags) > 1:
            raise Invalid("Send exactly one entity tag.", field=hdrs.IF_MATCH)
        return ETag(tags[0])

    def locate(self, path: str) -> None:
        """Set ``Location`` to the URL of what was created."""
        self.headers[hdrs.LOCATION] = f"{self.drive.config.server.base_url}{path}"

    async def authenticate(self, scope: Scope) -> None:
        """Find out who acts.  Raises ``Unauthenticated``, and ``Forbidden`` unless they have *scope*."""
        self._by = await authenticate(self.request, self.drive, scope)
        self.request[USER] = self._by.user_id


def bind(
    operation: Operation, drive: GoDrive, proxies: TrustedProxies, lanes: Lanes, *, original: bool = False
) -> Handler:
    """Return the aiohttp handler that serves *operation*."""
    choose_lane = lane_chooser(operation, lanes)
    server = drive.config.server
    read_query = query_reader(operation.query) if operation.query is not None and not operation.signed else None
    read_signed = signature_reader(operation, drive) if operation.signed else None
    read_json = json_reader(operation.body, required=operation.body_required) if operation.body is not None else None
    fixed = _fixed_headers(operation)
    scope, replays, status, handler = operation.scope, operation.replays, operation.status, operation.handler
    longest = min(server.max_body_bytes, PUBLIC_BODY) if scope is None else server.max_body_bytes
    parameters, fields, sends_responses = operation.parameters, operation.fields, operation.sends_responses

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(request, drive, proxies, original=original)
        if scope is not None:
            await call.authenticate(scope)
        arguments: dict[str, Any] = {name: read_id(request, name) for name in parameters}
        if read_signed is not None:
            arguments["query"] = read_signed(request, arguments)
        elif read_query is not None:
            arguments["query"] = read_query(request)
        body = b""
        if read_json is not None:
            if request.body_exists:
                check_media_type(request)
                body = await read_body(request, limit=longest, timeout=server.body_timeout)
            arguments["body"] = read_json(body)
        if choose_lane is None:
            return await answer(call, arguments)
        lane, key = choose_lane(arguments.get("query")), call.owner if scope is not None else call.address
        if not lane.enter(key):
            await lane.wait(key)
        try:
            if replays and IDEMPOTENCY_KEY in request.headers:
                return await answer_once(request, body, drive.metadata, call.by, lambda: answer(call, arguments))
            return await answer(call, arguments)
        finally:
            lane.leave(key)

    async def answer(call: Call, arguments: dict[str, Any]) -> web.StreamResponse:
        try:
            value = await handler(call, **arguments)
        except DriveError as error:
            error.field = fields.get(error.field or "", error.field)
            raise
        if sends_responses and (type(value) is web.Response or isinstance(value, web.StreamResponse)):
            if scope is not None:
                value.headers[hdrs.VARY] = _VARY
            return value
        headers = fixed | call.headers if call.headers else fixed
        content = None if status == 204 else _encoder.encode(value)
        return web.Response(body=content, status=call.status or status, headers=headers)

    return handle


def lane_chooser(operation: Operation, lanes: Lanes) -> Callable[[Any], FairQueue] | None:
    """Return the function that chooses the lane of a request by its query; ``None`` for operations without a queue.

    Operations that stream bytes are bounded by descriptors and memory.  Public
    reads (health, documentation) answer from memory; those that are costly
    nevertheless (metrics, readiness) have a lane.
    """
    reads = operation.method == hdrs.METH_GET
    if operation.costly:
        return lambda _query: lanes.reports
    if operation.signed or (operation.public and reads):
        return None
    if operation.public:
        return lambda _query: lanes.logins
    if not reads:
        return lambda _query: lanes.writes
    return lambda query: lanes.large_reads if _is_large(query) else lanes.reads


def _is_large(query: Any) -> bool:
    """Whether a read is of many rows, or looks through all the names of a drive."""
    return (getattr(query, "limit", None) or 0) > LARGE_PAGE or bool(getattr(query, "q", None))


def _fixed_headers(operation: Operation) -> dict[str, str]:
    """The headers of every JSON answer of *operation*; a private one depends on who asks (RFC 9110, section 12.5.5)."""
    secret = operation.secret or operation.scope is None
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store" if secret else "private, no-cache"}
    if operation.scope is not None:
        headers[hdrs.VARY] = _VARY
    if operation.status != 204:
        headers[hdrs.CONTENT_TYPE] = operation.media_type
    return headers
