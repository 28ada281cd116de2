"""One request on its way through an operation: parse, ask, render."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from godrive.drive import GoDrive
from godrive.errors import DriveError, Invalid, Unauthenticated
from godrive.http.api.idempotency import IDEMPOTENCY_KEY, answer_once
from godrive.http.api.operations import Operation
from godrive.http.api.reading import (
    check_media_type,
    header_text,
    json_reader,
    query_reader,
    read_body,
    read_id,
    strong_tags,
)
from godrive.http.wire.addresses import TrustedProxies
from godrive.messages.auth import Authenticate
from godrive.model import ETag, UserId
from godrive.principal import UserSession

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PUBLIC_BODY = 32_768
"""Bytes of the largest body that is taken from anybody: passwords and tokens are not long, and it is kept in memory."""

_encoder = msgspec.json.Encoder()


class Call:
    """What a handler knows of the request beside its arguments; ``headers`` go into the answer.

    ``original`` tells that it came to one of the root paths of the first GoDrive.
    """

    __slots__ = ("_principal", "_proxies", "drive", "headers", "original", "request", "status")

    def __init__(self, request: web.Request, drive: GoDrive, proxies: TrustedProxies, *, original: bool) -> None:
        self.request = request
        self.drive = drive
        self.original = original
        self.headers: dict[str, str] = {}
        self.status: int | None = None
        self._principal: UserSession | None = None
        self._proxies = proxies

    @property
    def principal(self) -> UserSession:
        """Who acts.  An operation that is public has none, and must not ask."""
        assert self._principal is not None  # noqa: S101
        return self._principal

    @property
    def owner(self) -> UserId:
        """Whose files these are."""
        return self.principal.user_id

    @property
    def address(self) -> str:
        """The client's address, as far as it can be believed."""
        return self._proxies.address(self.request)

    @property
    def user_agent(self) -> str:
        """What the client calls itself."""
        return header_text(self.request.headers.get(hdrs.USER_AGENT, ""), 200)

    @property
    def if_match(self) -> ETag | None:
        """The entity tag of ``If-Match``; ``None`` where any will do.  Raises ``Invalid``, ``PreconditionFailed``."""
        tags = strong_tags(self.request)
        if tags is None:
            return None
        if len(tags) > 1:
            raise Invalid("Give one entity tag.", field=hdrs.IF_MATCH)
        return ETag(tags[0])

    def locate(self, path: str) -> None:
        """Say where the thing that was made is."""
        self.headers[hdrs.LOCATION] = f"{self.drive.config.server.base_url}{path}"

    async def authenticate(self) -> None:
        """Find out who acts.  Raises ``Unauthenticated``."""
        scheme, _, token = self.request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        token = token.strip()
        if not token or scheme.lower() != "bearer" or not token.isascii():
            raise Unauthenticated("Send an access token: Authorization: Bearer <token>.")
        self._principal = await self.drive.auth.ask(Authenticate(token))


def bind(operation: Operation, drive: GoDrive, proxies: TrustedProxies, *, original: bool = False) -> Handler:
    """The aiohttp handler that serves *operation*."""
    server = drive.config.server
    read_query = query_reader(operation.query) if operation.query is not None else None
    read_json = json_reader(operation.body, required=operation.body_required) if operation.body is not None else None
    fixed: dict[str, str] = {
        hdrs.CACHE_CONTROL: "no-store" if operation.secret or operation.public else "private, no-cache"
    }
    if operation.status != 204:
        fixed[hdrs.CONTENT_TYPE] = operation.media_type
    public, replays, status, handler = operation.public, operation.replays, operation.status, operation.handler
    longest = min(server.max_body_bytes, PUBLIC_BODY) if public else server.max_body_bytes
    parameters, fields, sends_responses = operation.parameters, operation.fields, operation.sends_responses

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(request, drive, proxies, original=original)
        if not public:
            await call.authenticate()
        arguments: dict[str, Any] = {name: read_id(request, name) for name in parameters}
        if read_query is not None:
            arguments["query"] = read_query(request)
        body = b""
        if read_json is not None:
            if request.body_exists:
                check_media_type(request)
                body = await read_body(request, limit=longest, timeout=server.body_timeout)
            arguments["body"] = read_json(body)
        if replays and IDEMPOTENCY_KEY in request.headers:
            return await answer_once(request, body, drive.metadata, call.owner, lambda: answer(call, arguments))
        return await answer(call, arguments)

    async def answer(call: Call, arguments: dict[str, Any]) -> web.StreamResponse:
        try:
            value = await handler(call, **arguments)
        except DriveError as error:
            error.field = fields.get(error.field or "", error.field)
            raise
        if sends_responses and (type(value) is web.Response or isinstance(value, web.StreamResponse)):
            return value
        headers = fixed | call.headers if call.headers else fixed
        content = None if status == 204 else _encoder.encode(value)
        return web.Response(body=content, status=call.status or status, headers=headers)

    return handle
