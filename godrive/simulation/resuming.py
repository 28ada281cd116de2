"""A user who uploads in pieces, with tus or as the IETF defines it, across broken connections and ended servers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from godrive.simulation.account import UNSURE
from godrive.simulation.client import Answer, Client, Lost
from godrive.simulation.model import Refusal, Tree
from godrive.simulation.user import User

_TUS = {"Tus-Resumable": "1.0.0"}
_VIA = {"Via": "1.1 a-proxy"}
_CHUNK = {**_TUS, "Content-Type": "application/offset+octet-stream"}


class ResumingUser(User):
    """What such clients do."""

    async def _tus(self) -> None:
        """Create an upload and send its bytes in pieces.  Some are left, some are ended, some send wrong bytes."""
        chance, parent, name = self.chance, self._place(), self._some_name()
        data, content = self._content()
        if not data:  # its creation has all bytes, so the server publishes it some time, whatever it answers
            return
        conflict, fate = chance.choice(("replace", "fail", "rename")), chance.random()
        metadata = {"filename": name, "filetype": "text/plain", "on_conflict": conflict} | (
            {"parent_id": parent} if parent else {}
        )
        if fate < 0.5:
            metadata["sha256"] = content[0]
        headers = {**_TUS, "Upload-Length": str(len(data)), "Upload-Metadata": _encoded(metadata)}
        if chance.random() < 0.2:
            del headers["Upload-Length"]
            headers["Upload-Defer-Length"] = "1"
        created = await self._insist("POST", "/v1/tus", headers=headers)
        try:
            self.tree.copy().put(parent, name, content, conflict, "?", has_bytes=False)
        except Refusal as refusal:
            if created.code != refusal.code:
                self.fail(f"a tus upload was answered {created.status} {created.body!r}, not {refusal.code}")
            return
        self.expect(created, 201)
        if fate > 0.9:
            return  # it expires
        url = "/" + created.headers["location"].split("/", 3)[3]
        if fate > 0.8:
            await self._send_piece(url, data, 0, max(1, len(data) // 2), _WHOLE)
            self.expect(await self._insist("DELETE", url, headers=_TUS), 204, 409)  # half of one byte is the file

        def publish(tree: Tree, made: Any) -> None:
            tree.put(parent, name, content, conflict, made["id"], has_bytes=False)

        if file_id := await self._finish(url, data, _WHOLE):
            publish(self.tree, {"id": file_id})

    async def _parallel(self) -> None:
        """Upload the parts of a file with tus, then have them joined."""
        chance, parent, name = self.chance, self._place(), self._some_name()
        data, content = self._content()
        if not data or (parent is not None and not self.tree.is_live(parent)):
            return
        cut, urls = chance.randrange(len(data) + 1), []
        for part in filter(None, (data[:cut], data[cut:])):
            headers = {**_TUS, "Upload-Length": str(len(part)), "Upload-Concat": "partial"}
            created = await self._insist("POST", "/v1/tus", headers=headers)
            self.expect(created, 201)
            urls.append("/" + created.headers["location"].split("/", 3)[3])
            if not await self._finish(urls[-1], part, _PART) or chance.random() < 0.05:
                return  # the parts expire
        metadata = {"filename": name, "filetype": "text/plain", "on_conflict": "replace"}
        headers = {
            **_TUS,
            "Upload-Concat": f"final;{' '.join(urls)}",
            "Upload-Metadata": _encoded(metadata | ({"parent_id": parent} if parent else {})),
        }
        answer = await self._insist("POST", "/v1/tus", headers=headers)
        if answer.code in ("not_found", "gone") and (parent is None or self.tree.nodes[parent].is_folder):
            return  # a part has expired
        tree = self.tree.copy()
        try:
            id_ = tree.put(parent, name, content, "replace", answer.headers.get("upload-file-id", "?"), has_bytes=False)
        except Refusal as refusal:
            if answer.code != refusal.code:
                self.fail(f"parts were joined with {answer.status} {answer.body!r}, not {refusal.code}")
            return
        self.expect(answer, 201)
        if answer.headers["upload-file-id"] != id_:
            self.fail(f"parts became {answer.headers}, not a version of {id_}")
        self.tree = tree

    async def _ietf(self) -> None:
        """Upload in several requests, as the IETF defines them, also through a proxy: then no interim answer comes."""
        chance, parent, name = self.chance, self._place(), self._some_name()
        dialect = _IETF if self._index % 2 else _IETF_BEHIND_PROXY
        data, content = self._content()
        if not data:  # as above
            return
        conflict, begun = chance.choice(("replace", "fail", "rename")), chance.choice((0, 1, len(data) // 2))
        created = await self._insist(
            "POST",
            f"/v1/files?parent_id={parent or 'root'}&name={quote(name)}&on_conflict={conflict}",
            headers={
                **dialect.headers,
                "Content-Type": "text/plain",
                "Upload-Complete": "?0",
                "Upload-Length": str(len(data)),
            },
            body=data[:begun],
        )
        try:
            self.tree.copy().put(parent, name, content, conflict, "?", has_bytes=False)
        except Refusal as refusal:
            if created.code != refusal.code:
                self.fail(f"a resumable request was answered {created.status} {created.body!r}, not {refusal.code}")
            return
        self.expect(created, 201)
        url = "/" + created.headers["location"].split("/", 3)[3]
        if chance.random() < 0.1:
            self.expect(await self._insist("DELETE", url), 200, 204)
        elif await self._finish(url, data, dialect):
            file_id = (await self.read(url))["file"]["id"]
            self.tree.put(parent, name, content, conflict, file_id, has_bytes=False)

    async def _finish(self, url: str, data: bytes, dialect: _Dialect) -> str:
        """Send all that is missing.  Returns what the dialect says of the end; "" if there is no file."""
        while True:
            state = await self._insist("HEAD", url, headers=dialect.headers)
            if state.status == 410:
                return ""
            self.expect(state, 200, 204)
            if end := dialect.end(state, len(data)):
                return end
            offset = int(state.headers["upload-offset"])
            if offset > len(data):
                self.fail(f"{url} has {offset} bytes, but only {len(data)} were sent")
            sizes = (1, 7, 1000, 20_000, len(data))
            piece = self._send_piece(url, data, offset, self.chance.choice(sizes), dialect)
            if self.chance.random() < 0.15:  # a page that was opened twice goes on in both
                other = self._send_piece(url, data, offset, self.chance.choice(sizes), dialect, client=self._other)
                answer, _ = await asyncio.gather(piece, other)
            else:
                answer = await piece
            if answer is not None and answer.code in ("digest_mismatch", "gone"):
                if answer.code != "gone":
                    self.fail(f"{url} was refused as {answer.body!r}, but the bytes are right")
                return ""
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))

    async def _send_piece(
        self, url: str, data: bytes, offset: int, size: int, dialect: _Dialect, *, client: Client | None = None
    ) -> Answer | None:
        """Send bytes once; ``None`` if the answer was lost, or says nothing of the request itself."""
        chance = self.chance
        body = data[offset : offset + size]
        headers = dialect.of_piece(offset, len(body), len(data))
        cut = chance.choice((0.001, 0.01, 0.03)) if chance.random() < 0.15 else None
        try:
            answer = await self._send(
                "PATCH",
                url,
                body=body,
                headers=headers,
                client=client,
                cut_after=cut,
                pieces=3 if len(body) > 200 else 1,
            )
        except Lost:
            return None
        if answer.status == 401:
            await self.log_in(client)
            return None
        if answer.code in UNSURE or answer.code in ("offset_mismatch", "upload_taken_over"):
            return None
        if answer.code != "gone":
            self.expect(answer, 200, 201, 204)
        return answer


@dataclass(frozen=True)
class _Dialect:
    """How a protocol says what all of them say."""

    headers: dict[str, str]
    end: Callable[[Answer, int], str]
    """What ends an upload, by the answer to HEAD and the size of the file; "" if bytes are missing."""
    of_piece: Callable[[int, int, int], dict[str, str]]
    """The headers of a piece: where it begins, its size, and that of the file."""


def _tus_piece(offset: int, _size: int, length: int) -> dict[str, str]:
    return {**_CHUNK, "Upload-Offset": str(offset), "Upload-Length": str(length)}


def _ietf_piece(offset: int, size: int, length: int) -> dict[str, str]:
    return {
        "Content-Type": "application/partial-upload",
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if offset + size >= length else "?0",
    }


def _proxied_piece(offset: int, size: int, length: int) -> dict[str, str]:
    return {**_VIA, **_ietf_piece(offset, size, length)}


def _is_complete(state: Answer, _length: int) -> str:
    return "sent" * (state.headers["upload-complete"] == "?1")


_WHOLE = _Dialect(_TUS, lambda state, _: state.headers.get("upload-file-id", ""), _tus_piece)
_PART = _Dialect(_TUS, lambda state, length: "sent" * (int(state.headers["upload-offset"]) == length), _tus_piece)
_IETF = _Dialect({}, _is_complete, _ietf_piece)
_IETF_BEHIND_PROXY = _Dialect(_VIA, _is_complete, _proxied_piece)


def _encoded(metadata: dict[str, str]) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())
