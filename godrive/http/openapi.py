"""The OpenAPI 3.1 document, made from the declarations that serve the requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

import msgspec

from godrive import __version__
from godrive.errors import (
    AskTimeout,
    Conflict,
    DeliveryError,
    DriveError,
    IdempotencyMismatch,
    Invalid,
    MailboxFull,
    NotFound,
    StoreUnavailable,
    TooLarge,
    Unauthenticated,
)
from godrive.http.operations import Operation
from godrive.http.problems import (
    STATUS,
    HeadersTooLarge,
    Malformed,
    Problem,
    RequestTimeout,
    UnsupportedMediaType,
    UrlTooLong,
)

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PROBLEM = "application/problem+json"

_DESCRIPTION = """\
The storage backend behind a drive: sign up, announce an upload, send its bytes to the URL you are given,
list, download, trash and restore.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Ids are opaque and sort by time, instants are
RFC 3339 in UTC, sizes are bytes. Every answer carries `X-Request-Id`; one that you send is kept.
"""

_TAGS = {
    "accounts": "People, sessions and tokens.",
    "uploads": "From an intent to a file: announce, send the bytes, done.",
    "files": "List, look at, rename, trash, restore, download.",
    "trash": "What was deleted, until it is purged.",
    "content": "The bytes, by signed URL: what an intent and a download answer with.",
    "health": "For those who run the server.",
}

_HEADERS: Json = {
    "X-Request-Id": {"description": "Names the request in the server's log.", "schema": {"type": "string"}},
    "ETag": {"description": "The entity tag of the file, for `If-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where that which was made is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

_PARAMETERS: Json = {
    **{
        name: {
            "name": name,
            "in": "query",
            "required": True,
            "description": "Part of the signature, with all else in the query: use the URL exactly as it was given.",
            "schema": {"type": "string"},
        }
        for name in ("expires", "key", "signature")
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag that the file must still have.",
        "schema": {"type": "string"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag that is known already.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Your name for this request: sent again, it is answered again and not done again.",
        "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]+$"},
    },
}


def document(operations: Sequence[Operation], *, base_url: str) -> Json:
    """The document for *operations* on the server at *base_url*."""
    types = {type_ for o in operations for type_ in (o.query, o.body, o.reply)} - {None, NoneType}
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components([*ordered, Problem], ref_template=_REF)
    _dress(components)
    known = dict(zip(ordered, schemas, strict=False))
    paths: dict[str, Json] = defaultdict(dict)
    for operation in operations:
        described = _operation(operation, known, components)
        paths[operation.path][operation.method.lower()] = described
        if operation.original is not None:
            paths[operation.original][operation.method.lower()] = {
                **described,
                "operationId": f"{operation.name}_original",
                "description": f"The same as `{operation.method} {operation.path}`.",
            }
    for query in {operation.query.__name__ for operation in operations if operation.query is not None}:
        del components[query]  # they have become parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GoDrive",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "parameters": _PARAMETERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _dress(components: dict[str, Json]) -> None:
    """Say in the schemas what the types do not: that what ends in ``_at`` is an instant, and docstrings in Markdown."""
    for schema in components.values():
        if "description" in schema:
            schema["description"] = schema["description"].replace("``", "`")
        for name, inner in schema.get("properties", {}).items():
            if name.endswith("_at") or name == "time":
                for part in inner.get("anyOf", [inner]):
                    if part.get("type") == "string":
                        part["format"] = "date-time"


def errors_of(operation: Operation) -> set[type[DriveError]]:
    """Everything that the operation may answer instead: what it says it raises, and what its inputs bring with them."""
    errors: set[type[DriveError]] = {*operation.raises}
    if not operation.public:
        errors |= {Unauthenticated}
    if operation.parameters:
        errors |= {NotFound, UrlTooLong}
    if operation.query is not None:
        errors |= {Invalid, UrlTooLong}
    if operation.body is not None:
        errors |= {Malformed, Invalid, TooLarge, RequestTimeout, UnsupportedMediaType}
    if operation.replays:
        errors |= {Conflict, IdempotencyMismatch, Invalid}
    if operation.conditional or operation.replays:
        errors |= {Invalid, HeadersTooLarge, Malformed}
    if not operation.public or operation.body is not None:
        errors |= {StoreUnavailable, DeliveryError, MailboxFull, AskTimeout}
    return errors


def _operation(operation: Operation, known: dict[Any, Json], components: dict[str, Json]) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [*_parameters(operation, components)],
        "responses": {**_success(operation, known, components), **_refusals(errors_of(operation))},
        "security": [] if operation.public else [{"token": []}],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": known[operation.body]}},
        }
    elif operation.streams and operation.method == "PUT":
        described["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return described


def _parameters(operation: Operation, components: dict[str, Json]) -> Iterable[Json]:
    for name in operation.parameters:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    if operation.query is not None:
        for name, schema in components[operation.query.__name__]["properties"].items():
            yield _query_parameter(name, schema)
    if operation.streams:
        yield from ({"$ref": f"#/components/parameters/{name}"} for name in ("expires", "key", "signature"))
    if operation.conditional:
        yield {"$ref": f"#/components/parameters/{'IfNoneMatch' if operation.method == 'GET' else 'IfMatch'}"}
    if operation.replays:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}


def _query_parameter(name: str, schema: Json) -> Json:
    """A query has no null: what may be null may be left out."""
    members = [member for member in schema.get("anyOf", [schema]) if member.get("type") != "null"]
    (plain,) = members
    plain = {**plain}
    if schema.get("default") is not None:
        plain["default"] = schema["default"]
    parameter: Json = {"name": name, "in": "query", "schema": plain}
    if description := plain.pop("description", None):
        parameter["description"] = description
    return parameter


def _success(operation: Operation, known: dict[Any, Json], components: dict[str, Json]) -> Json:
    headers = ["X-Request-Id"]
    if operation.conditional and operation.status != 204:
        headers.append("ETag")
    if operation.status == 201:
        headers.append("Location")
    success: Json = {"description": "Done.", "headers": _header_refs(headers)}
    if operation.reply in known:
        success["description"] = components[operation.reply.__name__].get("description", "Done.")
        success["content"] = {operation.media_type: {"schema": known[operation.reply]}}
    elif operation.status != 204:
        success["content"] = {operation.media_type: {"schema": {"type": "string"}}}
    responses = {str(operation.status): success}
    if operation.conditional and operation.method == "GET":
        responses["304"] = {"description": "It is as you know it.", "headers": _header_refs(["X-Request-Id", "ETag"])}
    for status in operation.also:
        responses[str(status)] = success
    return responses


def _refusals(errors: Iterable[type[DriveError]]) -> Json:
    by_status: dict[int, list[type[DriveError]]] = defaultdict(list)
    for error in sorted(errors, key=lambda error: error.code):
        by_status[STATUS[error.code]].append(error)
    return {str(status): _refusal(status, by_status[status]) for status in sorted(by_status)}


def _refusal(status: int, errors: list[type[DriveError]]) -> Json:
    headers = ["X-Request-Id"]
    if status == 401:
        headers.append("WWW-Authenticate")
    if any(error.default_retry_after is not None for error in errors):
        headers.append("Retry-After")
    return {
        "description": " · ".join(f"`{error.code}`" for error in errors),
        "headers": _header_refs(headers),
        "content": {_PROBLEM: {"schema": {"$ref": _REF.format(name="Problem")}}},
    }


def _header_refs(names: list[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
