"""A client of tus 1.0 for tests."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from tests.http.client import Answer, Json, Person

CHUNK = "application/offset+octet-stream"
HELLO = b"Hello, drive.\n"
MIB = 1 << 20


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def checksum(algorithm: str, content: bytes) -> str:
    digest = (
        zlib.crc32(content).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, content).digest()
    )
    return f"{algorithm} {base64.b64encode(digest).decode()}"


async def send(person: Person, method: str, path: str, content: Any = b"", **headers: Any) -> Answer:
    """A request in tus.  A header that is ``None`` is not sent."""
    sent: dict[str, Any] = {"Tus-Resumable": "1.0.0"}
    if content:
        sent["Content-Type"] = CHUNK
    sent |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    answer = await person(method, path, data=content or None, headers={k: v for k, v in sent.items() if v != "None"})
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return answer


async def create(person: Person, length: int | None = None, path: str = "/v1/tus", **headers: Any) -> str:
    """Create an upload; its URL."""
    headers.setdefault("Upload_Metadata", metadata(filename="a.txt"))
    length_headers = {"Upload_Defer_Length": 1} if length is None else {"Upload_Length": length}
    answer = await send(person, "POST", path, **length_headers, **headers)
    assert answer.status == 201, answer.content
    location: str = answer.headers["Location"]
    return location


async def patch(person: Person, url: str, offset: int, content: Any, **headers: Any) -> Answer:
    return await send(person, "PATCH", url, content, Upload_Offset=offset, Content_Type=CHUNK, **headers)


async def head(person: Person, url: str) -> Answer:
    return await send(person, "HEAD", url)


async def offset_of(person: Person, url: str) -> int:
    answer = await head(person, url)
    assert answer.status == 200, answer.status
    return int(answer.headers["Upload-Offset"])


async def file_at(person: Person, answer: Answer) -> Json:
    """The file that an answer names."""
    found = await person("GET", answer.headers["Content-Location"])
    assert found.json["id"] == answer.headers["Upload-File-Id"]
    file: Json = found.json
    return file
