"""What the OpenAPI document says beside what the declarations say."""

from __future__ import annotations

from typing import Any

DESCRIPTION = """\
The storage backend behind a drive: sign up, announce an upload, send its bytes to the URL you are given,
list, download, trash and restore.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Ids are opaque and sort by time, instants are
RFC 3339 in UTC, sizes are bytes. Every answer carries `X-Request-Id`; one that you send is kept. `HEAD` works wherever
`GET` does.
"""

FILE = """\
A file. `revision` rises with every change, and the ETag is always `"<id>.<revision>"`. `version_id` names
the bytes. `trashed_at` and `purge_at` say since when it is in the trash, and until when.
"""

TAGS = {
    "accounts": "People, sessions and tokens.",
    "uploads": "From an intent to a file: announce, send the bytes, done.",
    "files": "List, look at, rename, trash, restore, download.",
    "trash": "What was deleted, until it is purged.",
    "content": "The bytes, by signed URL: what an intent and a download answer with.",
    "health": "For those who run the server.",
}

HEADERS: dict[str, Any] = {
    "X-Request-Id": {"description": "Names the request in the server's log.", "schema": {"type": "string"}},
    "ETag": {"description": "Names this state of it.", "schema": {"type": "string"}},
    "Location": {"description": "Where that which was made is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

PARAMETERS: dict[str, Any] = {
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
    "Range": {
        "name": "Range",
        "in": "header",
        "description": "The part that is wanted: `bytes=0-499`, `bytes=500-` or `bytes=-500`.",
        "schema": {"type": "string"},
    },
    "IfRange": {
        "name": "If-Range",
        "in": "header",
        "description": "The ETag or date that a part must belong to; else all is sent.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Your name for this request: sent again, it is answered again and not done again.",
        "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]+$"},
    },
}
