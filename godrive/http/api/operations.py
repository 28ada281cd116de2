"""Operations: a route, and all that is to be said of it, in one declaration.

The signature of a handler *is* the declaration::

    @routes.patch("/v1/files/{file_id}", raises=[NotFound, NameTaken], replays=True)
    async def rename_file(call: Call, file_id: FileId, body: RenameBody) -> File:
        "Rename a file."

``body`` is parsed as JSON and ``query`` from the query, both by their types;
every other parameter comes from the path.  A ``body`` that may be ``None``
may be left out.  What is returned is encoded as JSON, but for a
``web.Response``, which is sent as it is.  The same declaration becomes the OpenAPI
document, so the two cannot differ.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from aiohttp import web

from godrive.errors import DriveError

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

_PLACEHOLDER = re.compile(r"{(\w+)}")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path.

    *original* is the path of the same operation in the first GoDrive, at the
    root.  *public* needs no token.  *replays* answers a repeated
    ``Idempotency-Key`` with the first answer.  *secret* answers are not to be
    cached anywhere.  *conditional* looks at ``If-Match`` or ``If-None-Match``.
    *also* are other statuses that come with the same answer.  *fields* are
    those that the actors know by another name than the request.  What
    *streams* moves bytes, to or from a URL that is signed.
    """

    method: str
    path: str
    tag: str
    handler: Callable[..., Awaitable[Any]]
    status: int = 200
    original: str | None = None
    public: bool = False
    replays: bool = False
    secret: bool = False
    conditional: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    raises: Sequence[type[DriveError]] = ()
    media_type: str = "application/json"
    also: Sequence[int] = ()
    streams: bool = False
    query: type[Any] | None = field(init=False, default=None)
    body: type[Any] | None = field(init=False, default=None)
    body_required: bool = field(init=False, default=False)
    reply: Any = field(init=False, default=None)
    parameters: tuple[str, ...] = field(init=False, default=())
    sends_responses: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(self.handler, include_extras=True)
        found = {
            "query": hints.get("query"),
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
    def summary(self) -> str:
        """The first sentence of the handler's docstring."""
        return inspect.getdoc(self.handler).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]

    @property
    def description(self) -> str:
        """The rest of it."""
        return inspect.getdoc(self.handler).partition("\n")[2].strip()  # type: ignore[union-attr]


class Routes:
    """The operations of one resource."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.operations: list[Operation] = []

    def route(self, method: str, path: str, **said: Any) -> Callable[[F], F]:
        """Declare the decorated function as the handler; *said* are the fields of :class:`Operation`."""

        def declare(handler: F) -> F:
            self.operations.append(Operation(method=method, path=path, tag=self.tag, handler=handler, **said))
            return handler

        return declare

    def get(self, path: str, **said: Any) -> Callable[[F], F]:
        """``GET``, and ``HEAD`` with it."""
        return self.route("GET", path, **said)

    def post(self, path: str, **said: Any) -> Callable[[F], F]:
        """``POST``."""
        return self.route("POST", path, **said)

    def patch(self, path: str, **said: Any) -> Callable[[F], F]:
        """``PATCH``."""
        return self.route("PATCH", path, **said)

    def delete(self, path: str, **said: Any) -> Callable[[F], F]:
        """``DELETE``."""
        return self.route("DELETE", path, **said)


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _without(unwanted: type, hint: Any) -> Any:
    """The union without that class, ``None`` when nothing is left."""
    members = [member for member in _members(hint) if not _is_a(unwanted, member)]
    return reduce(or_, members) if members else None


def _is_a(class_: type, hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, class_)
