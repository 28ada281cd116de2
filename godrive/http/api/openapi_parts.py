"""The texts of the OpenAPI document that are not part of the declarations of routes."""

from __future__ import annotations

from typing import Any

from godrive.http.api.tus_headers import VERSION

DESCRIPTION = """\
The backend of a drive. Sign up, upload files, list them, download them, move them to the trash and restore them.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Ids are opaque and sort by time, instants are
RFC 3339 in UTC, sizes are bytes. Every answer has an `X-Request-Id`: the one that you sent, or a new one. `HEAD` works
wherever `GET` does.
"""

FILE = """\
A file or a folder. `etag`, for `If-Match`, is opaque and changes with every change. `version_id` names the bytes.
`trashed_at` and `purge_at` are set while the file is in the trash: since when, and until when it can be restored.
"""

TAGS = {
    "accounts": "Users and their sessions.",
    "uploads": "From an intent to a file: announce the upload, send the bytes, complete it.",
    "files": "Store, list, rename, move, copy, trash and restore files and folders.",
    "search": "Find files and folders by name.",
    "marks": "Files and folders that are favorites or have a property.",
    "versions": "Earlier states of the bytes of a file: list, read, restore, name and delete them.",
    "tus": "Resumable uploads by tus 1.0 (https://tus.io), for which there are clients in many languages.",
    "trash": "Deleted files, until they are purged.",
    "content": "The bytes of files: with a token, or with a signed URL, which an intent or a download returns.",
    "archives": "Folders as ZIP archives.",
    "changes": "The log of changes: read it from a cursor, wait for the next change, or follow it as events.",
    "webhooks": "URLs to which the server delivers the changes of a drive.",
    "health": "State of the server, for its operator.",
}

SECURITY: dict[str, Any] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The `token` of a log-in. A session has every scope. Only a session has `account`.",
    },
    "signature": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "Part of a URL that this server signed. Use the URL exactly as you got it.",
    },
}

_TEXT = {"type": "string"}
_FLAG = {"type": "string", "enum": ["?0", "?1"]}
_METHOD = {"type": "string", "enum": ["PATCH", "DELETE", "HEAD"]}
_BYTES = {"type": "string", "pattern": "^[0-9]{1,64}$"}

TUS_HEADERS: dict[str, Any] = {
    "Tus-Resumable": {"description": "The version of the protocol.", "schema": {"const": VERSION}},
    "Tus-Version": {"description": "The versions that the server speaks.", "schema": {"const": VERSION}},
    "Tus-Extension": {"description": "The extensions of the protocol that this server has.", "schema": _TEXT},
    "Tus-Max-Size": {"description": "The largest upload in bytes.", "schema": _BYTES},
    "Tus-Checksum-Algorithm": {"description": "The algorithms of `Upload-Checksum`.", "schema": _TEXT},
    "Upload-Offset": {"description": "The number of bytes that are stored: continue there.", "schema": _BYTES},
    "Upload-Length": {"description": "The length of the file, if it is known.", "schema": _BYTES},
    "Upload-Expires": {"description": "When the upload ends, unless more bytes arrive.", "schema": _TEXT},
    "Upload-Metadata": {"description": "As it was sent.", "schema": _TEXT},
    "Upload-Concat": {"description": "As it was sent.", "schema": _TEXT},
    "Upload-Complete": {"description": "`?1`: the upload is finished.", "schema": _TEXT},
    "Accept-Patch": {"description": "The media type of a `PATCH` that appends bytes.", "schema": _TEXT},
    "Upload-Limit": {"description": "Limits of the upload: `max-size`, `max-age`.", "schema": _TEXT},
    "Upload-File-Id": {"description": "The id of the file, once the upload is finished.", "schema": _TEXT},
    "Content-Location": {"description": "The URL of the file, once the upload is finished.", "schema": _TEXT},
}

TUS_PARAMETERS: dict[str, Any] = {
    name: {"name": name, "in": "header", "description": description, "schema": schema, "required": required}
    for name, description, schema, required in (
        ("Tus-Resumable", "The version of the protocol that you speak.", {"enum": [VERSION], "type": "string"}, True),
        ("Upload-Length", "The length of the file in bytes.", _BYTES, False),
        (
            "Upload-Defer-Length",
            "`1`: a later request declares the length.",
            {"enum": ["1"], "type": "string"},
            False,
        ),
        ("Upload-Metadata", "Keys, each with a value in Base64: `filename d29ybGQucGRm,filetype ...`.", _TEXT, False),
        ("Upload-Concat", "`partial`, or `final;` and the URLs of the parts.", _TEXT, False),
        ("Upload-Offset", "Where the bytes of the body begin.", _BYTES, True),
        ("Upload-Complete", "`?1`: these bytes are all that are left; `?0`: more will follow.", _FLAG, False),
        ("Upload-Draft-Interop-Version", "The version of the draft that you speak, 6 to 10.", _BYTES, False),
        ("Upload-Checksum", "The algorithm, a space, and the digest of the body in Base64.", _TEXT, False),
        (
            "X-HTTP-Method-Override",
            "The method to carry out.",
            _METHOD,
            True,
        ),
    )
}

HEADERS: dict[str, Any] = {
    "X-Request-Id": {"description": "Identifies the request in the server's log.", "schema": {"type": "string"}},
    "ETag": {"description": "Entity tag of the returned representation.", "schema": {"type": "string"}},
    "Location": {"description": "URL of the created resource.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before the next attempt.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
    **TUS_HEADERS,
}

PARAMETERS: dict[str, Any] = {
    "expires": {
        "name": "expires",
        "in": "query",
        "required": True,
        "description": "When the URL expires, in seconds since 1970. Part of what is signed.",
        "schema": {"type": "integer"},
    },
    "key": {
        "name": "key",
        "in": "query",
        "required": True,
        "description": "The id of the key that signed the URL.",
        "schema": {"type": "string"},
    },
    "signature": {
        "name": "signature",
        "in": "query",
        "required": True,
        "description": "The signature of method, path and query. Use the URL exactly as you got it.",
        "schema": {"type": "string"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "Carry out the request only if the file still has this ETag.",
        "schema": {"type": "string"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "Answer `304` if this ETag is still current.",
        "schema": {"type": "string"},
    },
    "IfAbsent": {
        "name": "If-None-Match",
        "in": "header",
        "description": "`*`: carry out the request only if nothing has that name.",
        "schema": {"type": "string"},
    },
    "ContentDigest": {
        "name": "Content-Digest",
        "in": "header",
        "description": "Digests that the bytes must have (RFC 9530): `sha-256=:<base64>:`, `sha-512=:<base64>:`.",
        "schema": {"type": "string"},
    },
    "ReprDigest": {
        "name": "Repr-Digest",
        "in": "header",
        "description": "The same as `Content-Digest`.",
        "schema": {"type": "string"},
    },
    "ModifiedAt": {
        "name": "X-Modified-At",
        "in": "header",
        "description": "When the content was last modified (RFC 3339). The default is the time of the upload.",
        "schema": {"type": "string"},
    },
    "Range": {
        "name": "Range",
        "in": "header",
        "description": "The part to send: `bytes=0-499`, `bytes=500-` or `bytes=-500`.",
        "schema": {"type": "string"},
    },
    "IfRange": {
        "name": "If-Range",
        "in": "header",
        "description": "Send the part only if the content still has this ETag or date; otherwise send all of it.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A key of your choice. A request with a key that was used before gets the first answer again.",
        "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    **TUS_PARAMETERS,
}
