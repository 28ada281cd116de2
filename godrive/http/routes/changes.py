"""Changes of a drive: read them from a cursor, wait for them, follow them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from godrive.errors import CursorReset, DriveError, Invalid, TooManyRequests, Unauthenticated
from godrive.http.api.authentication import authenticate
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.api.reading import header_text
from godrive.http.app_keys import WAITS
from godrive.http.routes.files import Limit
from godrive.messages.changes import Change, ChangeKind, ChangePage, ListChanges
from godrive.model import File, FileId, FileKind
from godrive.principal import Scope
from godrive.watch import Watch, Woken

routes = Routes("changes")

LONGEST_WAIT = 55.0
"""Seconds that a request waits at most: less than the 60 after which proxies give up on a silent answer."""

KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream sends a comment, and its credential is checked as that of a new request."""

STALLED = 60.0
"""Seconds after which a reader that takes nothing is cut off.  It reads on from its last event."""

RETRY = 3000
"""Milliseconds after which a client should connect again."""

PAGE = 50
"""Changes that a stream reads at once, and so the most that it holds for a reader."""

_LAST_EVENT_ID = "Last-Event-ID"
_STREAM = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events back
}
_encode = msgspec.json.Encoder().encode

Cursor = Annotated[str, Meta(max_length=64, description="The `cursor` of the previous answer.")]


class ChangesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to begin, and how long to wait."""

    cursor: Cursor | None = None
    limit: Limit | None = None
    wait: Annotated[
        int,
        Meta(ge=0, description="Seconds to wait for a change if there is none yet; more than 55 counts as 55."),
    ] = 0


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to begin."""

    cursor: Cursor | None = None


class ChangeView(msgspec.Struct, gc=False):
    """One change.  `entry` is its current state, absent if you cannot see the entry any more."""

    change: ChangeKind
    id: FileId
    kind: FileKind
    entry: File | UnsetType = UNSET

    @classmethod
    def of(cls, change: Change) -> ChangeView:
        """Convert a change to an answer."""
        return cls(change.change, change.id, change.kind, UNSET if change.entry is None else change.entry)


class ChangeList(msgspec.Struct, kw_only=True):
    """Some changes, oldest first.  `cursor` is where the next request begins."""

    changes: list[ChangeView]
    cursor: str
    has_more: bool

    @classmethod
    def of(cls, page: ChangePage) -> ChangeList:
        """Convert a page to an answer."""
        return cls(
            changes=[ChangeView.of(change) for change in page.changes], cursor=page.cursor, has_more=page.has_more
        )


@routes.get("/v1/changes", needs=Scope.FILES_READ, waits=True, raises=[Invalid, CursorReset, TooManyRequests])
async def list_changes(call: Call, query: ChangesQuery) -> ChangeList:
    """List what has changed since a cursor.

    Without `cursor`, the answer has no changes and the cursor for now: read the drive, then ask for the changes since.
    With `wait`, the answer comes as soon as there is a change. `410 cursor_reset` means that the log of changes does
    not reach back to the cursor: ask for a new one and read the whole drive again.
    """
    limit = query.limit or 100
    if query.cursor is None or not query.wait:
        return ChangeList.of(await _read(call, query.cursor, limit))
    loop = asyncio.get_running_loop()
    until = loop.time() + min(query.wait, LONGEST_WAIT)
    with call.request.app[WAITS].enter(call.request, call.by) as watch:
        page = ChangePage(changes=[], cursor=query.cursor, has_more=False, number=0)
        while True:
            page = await _read(call, page.cursor, limit)
            if page.changes or page.has_more:
                return ChangeList.of(page)
            watch.seen = max(watch.seen, page.number)
            woken = await watch.wait(until - loop.time())
            if woken is Woken.ENDED:
                raise Unauthenticated("The session has ended.")
            if woken is not Woken.CHANGED:
                return ChangeList.of(page)


async def _read(call: Call, cursor: str | None, limit: int) -> ChangePage:
    async with call.turn():
        return await call.drive.metadata.ask(ListChanges(call.by, cursor, limit))


@routes.get(
    "/v1/events",
    needs=Scope.FILES_READ,
    waits=True,
    raises=[Invalid, TooManyRequests],
    media_type="text/event-stream",
)
async def follow_changes(call: Call, query: EventsQuery) -> web.StreamResponse:
    """Follow the changes as Server-Sent Events.

    An event `change` has a change as its data and the cursor after it as its id. `Last-Event-ID`, or else `cursor`,
    says where to begin; without either, the stream begins now. An event `cursor_reset` means that changes are missing:
    read the whole drive again; the stream goes on from now.
    The stream ends when the session ends, the access token expires or the server stops: connect again.
    """
    last = header_text(call.request.headers.get(_LAST_EVENT_ID, ""), 64)
    with call.request.app[WAITS].enter(call.request, call.by) as watch:
        stream = _Stream(call, watch)
        try:
            await stream.run(last or query.cursor)
        except Invalid as error:
            error.field = _LAST_EVENT_ID if last else error.field
            raise
        return stream.response


class _Stream:
    """One reader of events.

    It reads a few changes, and reads on only when the client has taken them.
    So a slow reader costs no more memory than a quick one.
    """

    def __init__(self, call: Call, watch: Watch) -> None:
        self._call = call
        self._watch = watch
        self._check_at = asyncio.get_running_loop().time() + KEEP_ALIVE
        self.response = web.StreamResponse(headers={**_STREAM, hdrs.VARY: hdrs.AUTHORIZATION})

    async def run(self, cursor: str | None) -> None:
        """Send events until the client leaves, its credential ends, or the server stops."""
        page = await self._page(cursor)
        await self.response.prepare(self._call.request)
        if self._call.request.method == hdrs.METH_HEAD:
            return
        await self._send(f"retry: {RETRY}\n\n".encode())
        with suppress(DriveError):  # the client connects again and goes on after the last event
            while True:
                await self._send(b"".join(_events(page)))
                await self._check_credential()
                if not page.has_more and not await self._wait(page):
                    return
                page = await self._page(page.cursor)

    async def _page(self, cursor: str | None) -> ChangePage:
        try:
            return await _read(self._call, cursor, PAGE)
        except CursorReset as reset:
            page = await _read(self._call, None, PAGE)
            return _Reset(changes=[], cursor=page.cursor, has_more=False, number=page.number, detail=reset.detail)

    async def _wait(self, page: ChangePage) -> bool:
        """Wait for a change.  Returns false if the stream must end.  Raises ``Unauthenticated``."""
        self._watch.seen = max(self._watch.seen, page.number)
        while (woken := await self._watch.wait(KEEP_ALIVE)) is Woken.TIME:
            await self._check_credential()
            await self._send(b": keep-alive\n\n")
        return woken is Woken.CHANGED

    async def _check_credential(self) -> None:
        """Check it as that of a new request, because an access token expires.  Raises ``Unauthenticated``."""
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            self._check_at = now + KEEP_ALIVE
            await authenticate(self._call.request, self._call.drive, frozenset({Scope.FILES_READ}))

    async def _send(self, data: bytes) -> None:
        """Send, and wait until the client has taken all but what the socket buffers.  Raises ``ConnectionError``."""
        if not data:
            return
        try:
            async with asyncio.timeout(STALLED):
                await self.response.write(data)
        except TimeoutError:
            transport = self._call.request.transport
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("The reader of events takes nothing.") from None


class _Reset(ChangePage):
    """No changes, because the cursor was too old."""

    detail: str


class _ResetView(msgspec.Struct, kw_only=True):
    code: str = CursorReset.code
    detail: str


def _events(page: ChangePage) -> Iterator[bytes]:
    for change in page.changes:
        yield _event("change", change.cursor, ChangeView.of(change))
    if isinstance(page, _Reset):
        yield _event("cursor_reset", page.cursor, _ResetView(detail=page.detail))


def _event(name: str, cursor: str, value: msgspec.Struct) -> bytes:
    """Encode an event.  JSON has no line breaks outside of its strings, and none unescaped inside."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name.encode(), cursor.encode(), _encode(value))
