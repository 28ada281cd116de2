"""The OpenAPI 3.1 document, made from the declarations that serve the requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from types import NoneType
from typing import Any

import msgspec

from godrive import __version__
from godrive.errors import (
    STATUS,
    ActorCrashed,
    AskTimeout,
    Conflict,
    DeliveryError,
    DriveError,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    MailboxFull,
    NotFound,
    QuotaExceeded,
    StoreUnavailable,
    TooLarge,
    Unauthenticated,
    UrlInvalid,
)
from godrive.http.api.openapi_parts import DESCRIPTION, FILE, HEADERS, PARAMETERS, SECURITY, TAGS
from godrive.http.api.operations import SIGNED, Operation
from godrive.http.api.paths import PARAMETER
from godrive.http.api.problems import (
    ExpectationFailed,
    HeadersTooLarge,
    Internal,
    Malformed,
    Problem,
    RequestTimeout,
    UnsupportedMediaType,
    UrlTooLong,
)

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PROBLEM = "application/problem+json"
_BYTES = "application/octet-stream"
_BINARY: Json = {"type": "string", "format": "binary"}
_FORM: Json = {"type": "object", "properties": {"file": {"type": "array", "items": _BINARY}}}
_SUCCESS = {
    200: "The content.",
    201: "Created.",
    204: "Done. There is no content.",
    206: "The part of the content that `Range` asks for.",
    307: "The content is at the URL in `Location`.",
}
_ANY_REQUEST = (Malformed, UrlTooLong, ExpectationFailed, HeadersTooLarge, Internal)


def document(operations: Sequence[Operation], *, base_url: str) -> Json:
    """The document for *operations* on the server at *base_url*."""
    types = {type_ for o in operations for type_ in (o.query, o.body, *o.replies)} - {None, NoneType}
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
                "description": f"The same as `{operation.method} {operation.path}`, which new clients should use.",
                "deprecated": True,
            }
    for query in {operation.query.__name__ for operation in operations if operation.query is not None}:
        del components[query]  # they have become parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GoDrive",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "headers": HEADERS,
            "parameters": PARAMETERS,
            "securitySchemes": SECURITY,
        },
    }


def _dress(components: dict[str, Json]) -> None:
    """Say in the schemas what the types do not: that what ends in ``_at`` is an instant, and docstrings in Markdown."""
    components["File"]["description"] = FILE
    for title, schema in components.items():
        if title.endswith(("Body", "Step")):  # a step is a part of the body of a batch
            _explain_defaults(schema)
        elif title != "Problem" and not title.endswith("Query"):
            _fill(schema)
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"]).replace("``", "`")
        for name, inner in schema.get("properties", {}).items():
            if name.endswith("_at") or name == "time":
                for part in inner.get("anyOf", [inner]):
                    if part.get("type") == "string":
                        part["format"] = "date-time"


def _explain_defaults(schema: Json) -> None:
    """Move the defaults of a body into its descriptions: generators take ``default`` to mean required."""
    for inner in schema.get("properties", {}).values():
        default = inner.pop("default", None)
        if default not in (None, ""):
            inner["description"] = " ".join([*filter(None, [inner.get("description")]), f"Default: `{default}`."])


def _fill(schema: Json) -> None:
    """An answer has all its fields, including those with a default; only an ``UNSET`` field may be absent."""
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if properties:
        schema["required"] = [name for name in properties if name in required or "default" in properties[name]]
    for inner in properties.values():
        inner.pop("default", None)


def errors_of(operation: Operation) -> set[type[DriveError]]:
    """Every error that the operation may answer with: those that it declares, and those that its inputs imply."""
    errors: set[type[DriveError]] = {*operation.raises, *_ANY_REQUEST}
    if operation.scopes:
        errors |= {Unauthenticated, Forbidden}
    if operation.signed:
        errors |= {UrlInvalid}
    if operation.parameters:
        errors |= {NotFound}
    if (operation.query is not None and operation.needs is not SIGNED) or operation.conditional:
        errors |= {Invalid}
    if operation.body is not None:
        errors |= {Invalid, TooLarge, RequestTimeout, UnsupportedMediaType}
    if operation.replays:
        errors |= {Conflict, IdempotencyMismatch, Invalid, QuotaExceeded}
    if not operation.public or operation.body is not None:
        errors |= {StoreUnavailable, DeliveryError, MailboxFull, AskTimeout, ActorCrashed}
    return errors


def _operation(operation: Operation, known: dict[Any, Json], components: dict[str, Json]) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [*_parameters(operation, components)],
        "responses": {**_success(operation, known, components), **_refusals(errors_of(operation))},
        "security": _security(operation),
    }
    if description := _description(operation):
        described["description"] = description
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": known[operation.body]}},
        }
    elif operation.content:
        content = {name: {"schema": _FORM if name.startswith("multipart/") else _BINARY} for name in operation.content}
        described["requestBody"] = {"required": not operation.may_be_empty, "content": content}
    return described


def _security(operation: Operation) -> list[Json]:
    also = sorted(operation.needs_also)
    token: list[Json] = [{"token": [scope.value, *also]} for scope in sorted(operation.scopes)]
    return [*token, {"signature": []}] if operation.signed else token


def _description(operation: Operation) -> str:
    parts = [operation.description] if operation.description else []
    if operation.scopes:
        needed = " or ".join(f"`{scope.value}`" for scope in sorted(operation.scopes))
        also = "".join(f" and `{scope.value}`" for scope in sorted(operation.needs_also))
        url = ", or a signed URL" if operation.signed else ""
        parts.append(f"Needs the scope{'s' if also else ''} {needed}{also}{url}.")
    return "\n\n".join(parts)


def _parameters(operation: Operation, components: dict[str, Json]) -> Iterable[Json]:
    for name in operation.parameters:
        parameter: Json = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        if name == PARAMETER:
            parameter["description"] = "Names from the root, each percent-encoded, with a slash between them."
        yield parameter
    if operation.query is not None:
        described = components[operation.query.__name__]
        for name, schema in described["properties"].items():
            yield _query_parameter(name, schema, required=name in described.get("required", ()))
    names = ["expires", "key", "signature"] if operation.needs is SIGNED else []
    if operation.moves_bytes and operation.method == "GET":
        names += ["Range", "IfRange"]
    elif operation.content and operation.conditional:
        names += ["ContentDigest", "ReprDigest", "ModifiedAt", "IfAbsent"]
    names += operation.takes
    yield from ({"$ref": f"#/components/parameters/{name}"} for name in names)
    if operation.conditional:
        yield {"$ref": f"#/components/parameters/{'IfNoneMatch' if operation.method == 'GET' else 'IfMatch'}"}
    if operation.replays:
        yield {"$ref": "#/components/parameters/IdempotencyKey"}


def _query_parameter(name: str, schema: Json, *, required: bool) -> Json:
    """Describe one parameter.  A query has no null: what may be null may be left out."""
    members = [member for member in schema.get("anyOf", [schema]) if member.get("type") != "null"]
    (plain,) = members
    plain = {**plain}
    if schema.get("default") is not None:
        plain["default"] = schema["default"]
    parameter: Json = {"name": name, "in": "query", "schema": plain}
    if required:
        parameter["required"] = True
    if description := plain.pop("description", None):
        parameter["description"] = description
    return parameter


def _success(operation: Operation, known: dict[Any, Json], components: dict[str, Json]) -> Json:
    headers = ["X-Request-Id"]
    if operation.conditional and operation.status != 204:
        headers.append("ETag")
    if operation.status == 201:
        headers.append("Location")
    headers += [*operation.always, *operation.sends]
    success: Json = {"description": _SUCCESS[operation.status], "headers": _header_refs(headers)}
    replies = [reply for reply in operation.replies if reply in known]
    if replies:
        success["description"] = components[replies[0].__name__].get("description", success["description"])
        schema = known[replies[0]] if len(replies) == 1 else {"anyOf": [known[reply] for reply in replies]}
        success["content"] = {operation.media_type: {"schema": schema}}
    elif operation.status != 204 and operation.media_type:
        binary = operation.media_type == _BYTES
        success["content"] = {operation.media_type: {"schema": _BINARY if binary else {"type": "string"}}}
        if binary:  # the type of a file is what its owner says; generators want one that they know
            success["content"]["*/*"] = {"schema": _BINARY}
    responses = {str(operation.status): success}
    if operation.conditional and operation.method == "GET":
        responses["304"] = {"description": "Not modified.", "headers": _header_refs(["X-Request-Id", "ETag"])}
    for status in operation.also:
        empty = {"description": _SUCCESS[204], "headers": success["headers"]}
        described = success if replies else {**success, "description": _SUCCESS[status]}
        responses[str(status)] = empty if status == 204 else described
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
