"""One request on its way through an operation: authenticate, parse, ask, render."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from godrive.credentials import UrlSigner
from godrive.drive import GoDrive
from godrive.errors import DriveError, Forbidden, Invalid
from godrive.http.api.authentication import authenticate, signature_reader
from godrive.http.api.conditions import check_no_date
from godrive.http.api.idempotency import IDEMPOTENCY_KEY, answer_once, describe_body
from godrive.http.api.operations import SIGNED, Operation
from godrive.http.api.paths import PARAMETER, read_path
from godrive.http.api.reading import (
    check_media_type,
    header_text,
    json_reader,
    query_reader,
    read_id,
    strong_tags,
)
from godrive.http.api.turns import InTurn
from godrive.http.app_keys import BASES
from godrive.http.observe.request_log import findings
from godrive.http.wire.addresses import TrustedProxies
from godrive.http.wire.bytes_response import BytesResponse
from godrive.http.wire.fair_queue import FairQueue, Lanes
from godrive.http.wire.request_body import read_body
from godrive.model import ETag, UserId
from godrive.principal import Caller, UserSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC_BODY = 32_768
"""Bytes of the largest body that anyone may send: passwords and tokens are short, and the body is kept in memory."""

LARGE_PAGE = 100
"""Rows of a page up to which a read is a small one."""

_VARY = "Authorization"
_encoder = msgspec.json.Encoder()


class Turn:
    """A turn of *key* in *lane*, as an async context manager.

    Entering raises ``MailboxFull`` if the turn does not come in time.
    """

    __slots__ = ("_key", "_lane")

    def __init__(self, lane: FairQueue, key: Hashable) -> None:
        self._lane = lane
        self._key = key

    async def __aenter__(self) -> None:
        if not self._lane.enter(self._key):
            await self._lane.wait(self._key)

    async def __aexit__(self, *_: object) -> None:
        self._lane.leave(self._key)


class Call:
    """What a handler knows about the request in addition to its arguments; ``headers`` go into the answer.

    ``by`` is who acts, and has the scope that the operation needs; it is not set for operations that need no scope.
    ``original`` is true for a request to one of the root paths of the first GoDrive.
    """

    __slots__ = ("_base", "_lane", "_proxies", "by", "drive", "headers", "lanes", "original", "request", "status")

    by: Caller
    lanes: Lanes
    """The queues for the pieces of a paced operation; not set for others."""

    def __init__(self, request: web.Request, drive: GoDrive, proxies: TrustedProxies, *, original: bool) -> None:
        self.request = request
        self.drive = drive
        self.original = original
        self.headers: dict[str, str] = {}
        self.status: int | None = None
        self._base: str | None = None
        self._lane: tuple[FairQueue, Hashable] | None = None
        self._proxies = proxies

    @property
    def session(self) -> UserSession:
        """The session of the request, for operations that accept no other principal.  Raises ``Forbidden``."""
        if not isinstance(self.by, UserSession):
            raise Forbidden("Only a session can do this: log in.")
        return self.by

    @property
    def owner(self) -> UserId:
        """The owner of the drive that the request is about."""
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

    def turn(self) -> Turn:
        """Return a turn in the lane of the request: hold it while actors are asked, and not while bytes move."""
        assert self._lane is not None  # noqa: S101
        return Turn(*self._lane)

    def in_turn(self) -> InTurn:
        """Return the metadata actor, each ask of which waits for a turn in the lane of the request."""
        assert self._lane is not None  # noqa: S101
        return InTurn(self.drive.metadata, *self._lane)

    def queue(self, lane: FairQueue, key: Hashable) -> None:
        """Set the lane of the request, and who takes the turns."""
        self._lane = lane, key

    @property
    def base(self) -> str:
        """The start of the URLs by which this client reaches the server (see ``Bases``)."""
        if self._base is None:
            self._base = self.request.app[BASES].of(self.request)
        return self._base

    def locate(self, path: str) -> None:
        """Set ``Location`` to the URL of what was created."""
        self.headers[hdrs.LOCATION] = f"{self.base}{path}"

    def on_error(self, name: str, value: str) -> None:
        """Have an error that follows carry the header."""
        found = findings.get()
        found.headers = {**(found.headers or {}), name: value}

    def reachable(self, url: str) -> str:
        """Return a URL that the storage actor has signed as this client reaches it (see ``Bases``)."""
        return self.request.app[BASES].move(url, self.base)


def bind(
    operation: Operation, drive: GoDrive, proxies: TrustedProxies, lanes: Lanes, *, original: bool = False
) -> Handler:
    """Return the aiohttp handler that serves *operation*."""
    usual, large = lanes_of(operation, lanes)
    server = drive.config.server
    takes_query = operation.query is not None and operation.needs is not SIGNED
    read_query = query_reader(operation.query) if operation.query is not None and takes_query else None
    read_signed = signature_reader(operation, drive) if operation.signed else None
    read_json = json_reader(operation.body, required=operation.body_required) if operation.body is not None else None
    fixed = _fixed_headers(operation)
    scopes, replays, status, handler = operation.scopes, operation.replays, operation.status, operation.handler
    also = operation.needs_also
    longest = min(server.max_body_bytes, PUBLIC_BODY) if not scopes else server.max_body_bytes
    parameters, fields, sends_responses = operation.parameters, operation.fields, operation.sends_responses
    waits, paced = operation.waits, operation.paced
    changes_entry = operation.conditional and operation.method != hdrs.METH_GET

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(request, drive, proxies, original=original)
        if scopes:
            call.by = await authenticate(request, drive, scopes, also)
            findings.get().user = call.by.user_id
        if changes_entry:
            check_no_date(request)
        arguments: dict[str, Any] = {}
        for name in parameters:
            arguments[name] = read_path(request) if name == PARAMETER else read_id(request, name)
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
        if paced:
            call.lanes = lanes
        lane, key = usual, ""
        if lane is not None:
            if large is not None and is_large(arguments["query"]):
                lane = large
            key = call.by.user_id if scopes else call.address
            if waits:
                call.queue(lane, key)
                lane = None
            elif not lane.enter(key):
                await lane.wait(key)
        try:
            if replays and IDEMPOTENCY_KEY in request.headers:
                metadata = InTurn(drive.metadata, lanes.writes, call.by.user_id) if paced else drive.metadata
                return await answer_once(request, body, metadata, call.by, lambda: answer(call, arguments))
            return render(call, await handler(call, **arguments))
        except DriveError as error:
            error.field = fields.get(error.field or "", error.field)
            raise
        finally:
            if lane is not None:
                lane.leave(key)

    async def handle_bytes(request: web.Request) -> web.StreamResponse:
        """As above, for an operation that takes its turns itself.  A signature in the query decides alone."""
        call = Call(request, drive, proxies, original=original)
        arguments: dict[str, Any] = {
            name: read_path(request) if name == PARAMETER else read_id(request, name) for name in parameters
        }
        assert usual is not None  # noqa: S101 - only public reads have no lane
        if read_signed is not None and (not scopes or UrlSigner.SIGNATURE in request.query):
            arguments["query"] = signed = read_signed(request, arguments)
            findings.get().user = signed.user
            call.queue(usual, signed.user)
        else:
            assert scopes  # noqa: S101 - an operation without a scope is signed
            call.by = await authenticate(request, drive, scopes, also)
            findings.get().user = call.by.user_id
            if read_query is not None:
                arguments["query"] = read_query(request)
            call.queue(usual, call.by.user_id)
        if changes_entry:
            check_no_date(request)
        try:
            if replays and IDEMPOTENCY_KEY in request.headers:
                said = describe_body(request)
                metadata = InTurn(drive.metadata, usual, call.by.user_id)
                response = await answer_once(request, said, metadata, call.by, lambda: answer(call, arguments))
            else:
                response = render(call, await handler(call, **arguments))
        except DriveError as error:
            error.field = fields.get(error.field or "", error.field)
            raise
        if not request.content.is_eof():
            response.force_close()  # the start of the next request is unknown
        return response

    async def answer(call: Call, arguments: dict[str, Any]) -> web.StreamResponse:
        return render(call, await handler(call, **arguments))

    def render(call: Call, value: Any) -> web.StreamResponse:
        if sends_responses and (type(value) is BytesResponse or isinstance(value, web.StreamResponse)):
            if scopes:
                value.headers[hdrs.VARY] = _VARY
            return value
        headers = fixed | call.headers if call.headers else fixed
        content = None if status == 204 else _encoder.encode(value)
        return BytesResponse(body=content, status=call.status or status, headers=headers)

    return handle_bytes if operation.moves_bytes else handle


def lanes_of(operation: Operation, lanes: Lanes) -> tuple[FairQueue | None, FairQueue | None]:
    """Return the lane of an operation, and that of its large requests if it can have any.

    Public reads (health, documentation) have none: they answer from memory,
    except those that are costly nevertheless (metrics, readiness).  Other costly
    reads (search) are large whatever they ask for.  Operations that move bytes hold
    a turn only while they ask actors; their bytes are bounded by descriptors and
    memory.  Paced operations have none either: they take their turns themselves.
    """
    reads = operation.method in (hdrs.METH_GET, hdrs.METH_OPTIONS)
    if operation.costly:
        return lanes.reports if operation.public else lanes.large_reads, None
    if operation.paced or (operation.public and reads):
        return None, None
    if operation.public:
        return lanes.logins, None
    if not reads:
        return lanes.writes, None
    pages = operation.query is not None and not {"limit", "q"}.isdisjoint(operation.query.__struct_fields__)
    return lanes.reads, lanes.large_reads if pages else None


def is_large(query: Any) -> bool:
    """Whether a read returns many rows, or searches all names of a drive."""
    return (getattr(query, "limit", None) or 0) > LARGE_PAGE or bool(getattr(query, "q", None))


def _fixed_headers(operation: Operation) -> dict[str, str]:
    """The headers of every JSON answer of *operation*; a private one depends on who asks (RFC 9110, section 12.5.5)."""
    secret = operation.secret or not operation.scopes
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store" if secret else "private, no-cache"}
    if operation.scopes:
        headers[hdrs.VARY] = _VARY
    if operation.status != 204:
        headers[hdrs.CONTENT_TYPE] = operation.media_type
    return headers
