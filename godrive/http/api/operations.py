"""Operations: a route and everything there is to say about it, in one declaration.

The signature of a handler *is* the declaration::

    @routes.patch("/v1/files/{file_id}", needs=Scope.FILES_WRITE, raises=[NotFound, NameTaken], replays=True)
    async def update_file(call: Call, file_id: FileId, body: UpdateBody) -> File:
        "Rename a file."

``body`` is parsed as JSON and ``query`` from the query string, both by their
types; every other parameter comes from the path.  A ``body`` that may be
``None`` may be left out.  The return value is encoded as JSON, except for a
``web.Response``, which is sent as it is.

``needs`` is required and has no default: a :class:`Scope`, ``PUBLIC`` or
``SIGNED``.  The same declaration becomes the OpenAPI document, so the document
and the server cannot differ.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, get_args, get_type_hints

from aiohttp import web
from typing_extensions import Unpack

from godrive.errors import DriveError
from godrive.principal import Scope

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

_PLACEHOLDER = re.compile(r"{(\w+)}")


class Open(Enum):
    """What an operation needs if it needs no scope."""

    PUBLIC = auto()
    """Nothing: anyone may call it."""
    SIGNED = auto()
    """A URL that this server signed for this very request; the query is what was signed."""


PUBLIC: Literal[Open.PUBLIC] = Open.PUBLIC
SIGNED: Literal[Open.SIGNED] = Open.SIGNED

Needs: TypeAlias = Scope | Open | frozenset[Scope]


class Options(TypedDict, total=False):
    """What a route may say about itself; the fields of :class:`Operation` of the same names."""

    needs_also: frozenset[Scope]
    status: int
    original: str
    replays: bool
    secret: bool
    conditional: bool
    costly: bool
    waits: bool
    paced: bool
    fields: Mapping[str, str]
    raises: Sequence[type[DriveError]]
    media_type: str
    also: Sequence[int]
    content: Sequence[str]
    may_be_empty: bool
    by_url: type[Any]
    takes: Sequence[str]
    sends: Sequence[str]


BYTES = "application/octet-stream"
"""The media type of an operation that answers with the bytes of a file."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path.

    *needs* is what the request must show: a scope, one of several scopes, a
    signed URL, or nothing; with *needs_also*, all of these scopes too.  *original* is the path of the same
    operation in the first GoDrive, at the root.  *replays* answers a repeated
    ``Idempotency-Key`` with the first answer.  *secret* answers must not be
    cached anywhere.  *conditional* honours ``If-Match`` or ``If-None-Match``.
    *costly* reads wait in the lane of reports if they are public, else in that of large reads.  An operation
    that *waits* for changes takes its turns itself (``Call.turn``).
    *paced* operations work in small pieces, and take a turn in one of ``Call.lanes`` for each.
    *also* are other statuses that come with the same answer.  An empty
    *media_type* is an answer without content.  *fields* maps
    the names that actors use to those of the request.  *content* are the media
    types of a body that the handler reads in pieces, and that *may_be_empty*; it
    takes its turns in a lane itself.  *by_url* is the query of a URL that this server signed for the
    operation: a request with a signature needs no token.  *takes* and *sends* are
    the headers of requests and answers, by their names in the OpenAPI document;
    *always* are headers of every answer (see :class:`Routes`).
    """

    method: str
    path: str
    tag: str
    handler: Callable[..., Awaitable[Any]]
    needs: Needs
    needs_also: frozenset[Scope] = frozenset()
    status: int = 200
    original: str | None = None
    replays: bool = False
    secret: bool = False
    conditional: bool = False
    costly: bool = False
    waits: bool = False
    paced: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    raises: Sequence[type[DriveError]] = ()
    media_type: str = "application/json"
    also: Sequence[int] = ()
    content: Sequence[str] = ()
    may_be_empty: bool = False
    by_url: type[Any] | None = None
    takes: Sequence[str] = ()
    sends: Sequence[str] = ()
    always: Mapping[str, str] = field(default_factory=dict)
    query: type[Any] | None = field(init=False, default=None)
    body: type[Any] | None = field(init=False, default=None)
    body_required: bool = field(init=False, default=False)
    reply: Any = field(init=False, default=None)
    parameters: tuple[str, ...] = field(init=False, default=())
    sends_responses: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if not isinstance(self.needs, Scope | Open | frozenset):
            raise TypeError(f"{self.method} {self.path}: needs a Scope, PUBLIC or SIGNED, not {self.needs!r}")
        hints = get_type_hints(self.handler, include_extras=True)
        found = {
            "query": hints.get("query") if self.by_url is None else _without(self.by_url, hints["query"]),
            "body": _without(NoneType, hints.get("body")),
            "body_required": hints.get("body") is not None and NoneType not in _members(hints["body"]),
            "reply": _without(web.StreamResponse, hints["return"]),
            "sends_responses": any(_is_a(web.StreamResponse, member) for member in _members(hints["return"])),
            "parameters": tuple(_PLACEHOLDER.findall(self.path)),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)
        wanted = set(inspect.signature(self.handler).parameters) - {"call", "query", "body"}
        if wanted != set(self.parameters):
            raise TypeError(f"{self.method} {self.path}: the handler takes {sorted(wanted)}")

    @property
    def name(self) -> str:
        """Its name among all operations."""
        return self.handler.__name__

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that lead to it."""
        return (self.path,) if self.original is None else (self.path, self.original)

    @cached_property
    def public(self) -> bool:
        """Whether anyone may call it."""
        return self.needs is PUBLIC

    @cached_property
    def signed(self) -> bool:
        """Whether a URL that this server signed leads to it.  Such operations move bytes."""
        return self.needs is SIGNED or self.by_url is not None

    @property
    def signed_query(self) -> type[Any] | None:
        """The type of what is signed in a URL of the operation."""
        return self.query if self.needs is SIGNED else self.by_url

    @cached_property
    def moves_bytes(self) -> bool:
        """Whether the handler reads or writes bytes of files, and takes its turns in a lane itself."""
        return self.signed or bool(self.content) or self.media_type == BYTES

    @cached_property
    def scopes(self) -> frozenset[Scope]:
        """The scopes of which the caller's credential must have one.  Empty if it needs no token."""
        if isinstance(self.needs, Open):
            return frozenset()
        return self.needs if isinstance(self.needs, frozenset) else frozenset({self.needs})

    @property
    def replies(self) -> tuple[Any, ...]:
        """The types of its answers."""
        return () if self.reply is None else _members(self.reply)

    @property
    def summary(self) -> str:
        """The first sentence of the handler's docstring."""
        return _docstring(self.handler).partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """The rest of the handler's docstring."""
        return _docstring(self.handler).partition("\n")[2].strip()


class Routes:
    """The operations of one resource.

    *always* are headers of every answer to ``/v1/<tag>`` and what is below, also
    where there is no operation.
    """

    def __init__(self, tag: str, *, always: Mapping[str, str] | None = None) -> None:
        self.tag = tag
        self.always = always or {}
        self.operations: list[Operation] = []

    def _route(self, method: str, path: str, needs: Needs, options: Options) -> Callable[[F], F]:
        def declare(handler: F) -> F:
            operation = Operation(
                method=method,
                path=path,
                tag=self.tag,
                handler=handler,
                needs=needs,
                always=self.always,
                **options,
            )
            self.operations.append(operation)
            return handler

        return declare

    def get(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``GET``, and of ``HEAD`` with it."""
        return self._route("GET", path, needs, options)

    def post(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``POST``."""
        return self._route("POST", path, needs, options)

    def put(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``PUT``."""
        return self._route("PUT", path, needs, options)

    def patch(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``PATCH``."""
        return self._route("PATCH", path, needs, options)

    def delete(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``DELETE``."""
        return self._route("DELETE", path, needs, options)

    def options(self, path: str, *, needs: Needs, **options: Unpack[Options]) -> Callable[[F], F]:
        """Declare the handler of ``OPTIONS``.  Other routes answer it with their methods (``edge``)."""
        return self._route("OPTIONS", path, needs, options)


def _docstring(handler: Callable[..., Any]) -> str:
    text = inspect.getdoc(handler)
    if not text:
        raise TypeError(f"{handler.__name__} has no docstring, which would be its description")
    return text


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _without(unwanted: type, hint: Any) -> Any:
    """The union without that class, ``None`` when nothing is left."""
    members = [member for member in _members(hint) if not _is_a(unwanted, member)]
    return reduce(or_, members) if members else None


def _is_a(class_: type, hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, class_)
