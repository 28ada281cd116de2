"""The drive on a server, as a client sees it: entries by path, bytes as streams."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from urllib.parse import quote

import msgspec
from aiohttp import hdrs

from godrive.client.connection import LOST, Answer, Body, Connection, NotGoDrive, decoded, error_of, read_json
from godrive.errors import Invalid

_TUS = {"Tus-Resumable": "1.0.0"}


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """A file or folder of the server."""

    id: str
    kind: str
    name: str
    parent_id: str | None = None
    size_bytes: int = 0
    sha256: str | None = None
    version_id: str | None = None
    modified_at: datetime | None = None

    @property
    def is_folder(self) -> bool:
        return self.kind == "folder"


class PartialUpload(msgspec.Struct, kw_only=True, frozen=True):
    """An upload that is sent in several requests: the bytes that the server has, and the file once it has all."""

    id: str
    received_bytes: int
    file_id: str | None = None


class _Page(msgspec.Struct, kw_only=True):
    files: list[Entry]
    next_page: str | None = None


class Remote(Connection):
    """The drive of the account that is logged in to a server."""

    async def get(self, path: str) -> Entry:
        """Return the entry at *path*."""
        return decoded(await self.call("GET", _by_path(path)), Entry)

    async def get_by_id(self, entry_id: str) -> Entry:
        """Return the entry with that id."""
        return decoded(await self.call("GET", f"/v1/files/{quote(entry_id, safe='')}"), Entry)

    async def children(self, folder_id: str) -> AsyncIterator[Entry]:
        """Yield the entries of a folder by name."""
        async for entry in self._pages("/v1/files", {"parent_id": folder_id, "sort": "name"}):
            yield entry

    async def search(self, words: str, folder_id: str | None = None) -> AsyncIterator[Entry]:
        """Yield the entries whose names contain *words*, best matches first."""
        words = _utf8(words, "q")
        query = {"q": words} if folder_id is None else {"q": words, "in": folder_id}
        async for entry in self._pages("/v1/search", query):
            yield entry

    async def make_folder(self, path: str, *, parents: bool) -> Entry:
        """Create a folder.  With *parents*, create those above it too, and accept one that is there."""
        body = {"path": _clean(path), "parents": parents, "exist_ok": parents}
        return decoded(await self.call("POST", "/v1/folders", json=body), Entry)

    async def move(self, entry: Entry, parent_id: str, name: str) -> Entry:
        """Move and rename an entry."""
        return await self._change(entry, {"parent_id": parent_id, "name": name})

    async def date(self, entry: Entry, modified_at: datetime) -> Entry:
        """Set when the content of a file was last modified."""
        return await self._change(entry, {"modified_at": modified_at.isoformat()})

    async def copy(self, entry: Entry, parent_id: str, name: str) -> Entry:
        """Copy an entry with its contents."""
        body = {"parent_id": parent_id, "name": name}
        return decoded(await self.call("POST", f"/v1/files/{entry.id}/copy", json=body), Entry)

    async def trash(self, path: str) -> None:
        """Move the entry at *path* to the trash."""
        await self.call("DELETE", _by_path(path))

    async def put(
        self, path: str, body: Body, size: int, *, modified_at: datetime, on_conflict: str, tries: int
    ) -> Entry:
        """Store *size* bytes as the file at *path* in one request.  Folders that are missing are created.

        Raises ``BodyRefused``, and after so many *tries* what the last one raised; 0 is no limit.
        """
        headers = {hdrs.CONTENT_LENGTH: str(size), "X-Modified-At": modified_at.isoformat()}
        query = {"parents": "true", "on_conflict": on_conflict}
        answer = await self.call("PUT", _by_path(path), query=query, headers=headers, body=body, tries=tries)
        return decoded(answer, Entry)

    async def begin_upload(
        self, path: str, size: int, *, sha256: str, modified_at: datetime, on_conflict: str
    ) -> PartialUpload:
        """Begin to store *size* bytes with that digest as the file at *path*, in a folder that exists."""
        folder, _, name = _clean(path).rpartition("/")
        # Unlike "filename", the path may be any name: "null" too.
        metadata = {"relativePath": f"/{name}", "modified_at": modified_at.isoformat(), "sha256": sha256}
        headers = {
            **_TUS,
            "Upload-Length": str(size),
            "Upload-Metadata": ",".join(f"{key} {b64encode(text.encode()).decode()}" for key, text in metadata.items()),
        }
        target = "/v1/tus/by-path/" + quote(folder, safe="/")
        answer = await self.call("POST", target, query={"on_conflict": on_conflict}, headers=headers)
        # Only the id: a token goes to no other server than that of the log-in.
        return PartialUpload(id=_header(answer, hdrs.LOCATION).rpartition("/")[2], received_bytes=0)

    async def upload_state(self, upload_id: str) -> PartialUpload:
        """Return how far an upload is.  Ends a request that is still sending to it.  Raises ``NotFound``, ``Gone``."""
        answer = await self.call("GET", _upload(upload_id), headers=_TUS)
        return decoded(answer, PartialUpload)

    async def append(self, upload_id: str, offset: int, body: Body, size: int) -> PartialUpload:
        """Send *size* bytes from *offset* on, once.  Returns how far the upload is then.

        If the answer is lost, or the server has no time, some of the bytes may
        have arrived.  Raises ``OffsetMismatch``, ``BodyRefused``.
        """
        headers = {
            **_TUS,
            "Upload-Offset": str(offset),
            hdrs.CONTENT_TYPE: "application/offset+octet-stream",
            hdrs.CONTENT_LENGTH: str(size),
        }
        answer = await self.call_once("PATCH", _upload(upload_id), headers=headers, body=body)
        received = _header(answer, "Upload-Offset")
        if not received.isdecimal() or not offset <= int(received) <= offset + size:
            raise NotGoDrive
        return PartialUpload(
            id=upload_id,
            received_bytes=int(received),
            file_id=answer.headers.get("Upload-File-Id"),
        )

    @asynccontextmanager
    async def content(self, entry: Entry, start: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the bytes of a file as it was when *entry* was read, from *start* on.

        The bytes of a version never change, so parts that are read one after
        another fit together.  Raises ``NotFound`` if the version is gone,
        ``StoreUnavailable`` also if the connection is lost.
        """
        headers: dict[str, str] = {hdrs.RANGE: f"bytes={start}-"} if start else {}
        path = f"/v1/files/{entry.id}/versions/{entry.version_id}/content"
        token, refused = await self.access_token(), None
        try:
            while True:
                async with self.request("GET", path, token=token, headers=headers, follow=True) as response:
                    if response.status == 401 and refused is None:
                        token, refused = await self.access_token(other_than=token), token
                        continue
                    if response.status >= 400:
                        raise error_of(response, await read_json(response))
                    if start and response.status != 206:
                        raise Invalid("The server does not continue a download.")
                    yield response.content.iter_any()
                    return
        except LOST as lost:
            raise self.lost(lost) from None

    async def _change(self, entry: Entry, fields: dict[str, str]) -> Entry:
        return decoded(await self.call("PATCH", f"/v1/files/{entry.id}", json=fields), Entry)

    async def _pages(self, path: str, query: dict[str, str]) -> AsyncIterator[Entry]:
        page: str | None = ""
        while page is not None:
            answer = await self.call("GET", path, query={**query, "limit": "1000"} | ({"page": page} if page else {}))
            found = decoded(answer, _Page)
            for entry in found.files:
                yield entry
            page = found.next_page


def _header(answer: Answer, name: str) -> str:
    """Return a header that every answer to such a request has.  Raises ``NotGoDrive``."""
    value = answer.headers.get(name)
    if value is None:
        raise NotGoDrive
    return value


def _upload(upload_id: str) -> str:
    return f"/v1/tus/{quote(upload_id, safe='')}"


def _by_path(path: str) -> str:
    return "/v1/files/by-path/" + quote(_clean(path), safe="/")


def _clean(path: str) -> str:
    """Return a path as the API has it: names with single slashes between them.  Raises ``Invalid``."""
    return "/".join(name for name in _utf8(path, "path").split("/") if name)


def _utf8(text: str, field: str) -> str:
    """Return text of the command line.  Raises ``Invalid`` if it had other bytes than UTF-8."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid(f"{text!a} is not UTF-8.", field=field)
    return text
