"""What the OpenAPI document says of the routes that move bytes: they have no JSON to be described by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from godrive.errors import (
    DigestMismatch,
    DriveError,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    StorageFull,
    StoreUnavailable,
    UploadFinished,
    UrlInvalid,
)
from godrive.http.problems import Malformed, RequestTimeout, UnsupportedMediaType

Json = dict[str, Any]
Refusals = Callable[[Iterable[type[DriveError]]], Json]

_BYTES: Json = {"application/octet-stream": {}}
_SIGNED = "Made by the server; use the URL exactly as you were given it."

_PUT_RAISES: list[type[DriveError]] = [
    UrlInvalid,
    NotFound,
    Gone,
    UploadFinished,
    NameTaken,
    LengthMismatch,
    DigestMismatch,
    Invalid,
    Malformed,
    RequestTimeout,
    UnsupportedMediaType,
    StorageFull,
    StoreUnavailable,
]


def content_paths(refusals: Refusals) -> dict[str, Json]:
    """The paths that signed URLs lead to; *refusals* describes errors."""
    put: Json = {
        "operationId": "put_content",
        "tags": ["content"],
        "summary": "Send the bytes of an upload",
        "description": "The `upload_url` of an intent, with its `headers`. The answer carries the file. "
        "An interrupted PUT can be sent again until the upload expires; a wrong length or digest ends it.",
        "parameters": [_path("upload_id"), *_query("size", "expires", "key", "signature"), *_query("mime", need=False)],
        "requestBody": {"required": True, "content": _BYTES},
        "responses": {
            "201": {
                "description": "The file.",
                "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("ETag", "Location")},
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Completed"}}},
            },
            **refusals(_PUT_RAISES),
        },
        "security": [],
    }
    get: Json = {
        "operationId": "get_content",
        "tags": ["content"],
        "summary": "Read the bytes of a file",
        "description": "The `url` of a download. One `Range` is answered with `206`; `If-Range`, `If-None-Match` and "
        "`If-Modified-Since` are honoured; the `ETag` is strong.",
        "parameters": [
            _path("file_id"),
            *_query("v", "expires", "key", "signature"),
            *_query("inline", need=False),
            {"name": "Range", "in": "header", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {"description": "All of it.", "content": {"*/*": {}}},
            "206": {"description": "The range.", "content": {"*/*": {}}},
            "304": {"description": "It is as you know it."},
            **refusals([UrlInvalid, NotFound, PreconditionFailed, Invalid, RangeNotSatisfiable, StoreUnavailable]),
        },
        "security": [],
    }
    return {"/v1/uploads/{upload_id}/content": {"put": put}, "/v1/files/{file_id}/content": {"get": get}}


def _path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query(*names: str, need: bool = True) -> list[Json]:
    return [
        {"name": name, "in": "query", "required": need, "description": _SIGNED, "schema": {"type": "string"}}
        for name in names
    ]
