"""A user who uploads with tus: in pieces, over connections that break off, and across the ends of servers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from godrive.simulation.account import UNSURE
from godrive.simulation.client import Answer, Lost
from godrive.simulation.model import Refusal, Tree
from godrive.simulation.user import User

_TUS = {"Tus-Resumable": "1.0.0"}
_CHUNK = {**_TUS, "Content-Type": "application/offset+octet-stream"}


class ResumingUser(User):
    """What a tus client does."""

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
            await self._send_piece(url, data, 0, max(1, len(data) // 2))
            self.expect(await self._insist("DELETE", url, headers=_TUS), 204, 409)  # half of one byte is the file

        def publish(tree: Tree, made: Any) -> None:
            tree.put(parent, name, content, conflict, made["id"], has_bytes=False)

        if file_id := await self._finish_tus(url, data):
            publish(self.tree, {"id": file_id})

    async def _finish_tus(self, url: str, data: bytes) -> str:
        """Send all that is missing, and return the id of the file; "" if the upload has ended without one."""
        while True:
            state = await self._insist("HEAD", url, headers=_TUS)
            if state.status == 410:
                return ""
            self.expect(state, 200)
            if file_id := state.headers.get("upload-file-id"):
                return file_id
            offset = int(state.headers["upload-offset"])
            if offset > len(data):
                self.fail(f"{url} has {offset} bytes, but only {len(data)} were sent")
            size = self.chance.choice((1, 7, 1000, 20_000, len(data)))
            answer = await self._send_piece(url, data, offset, size)
            if answer is not None and answer.code in ("digest_mismatch", "gone"):
                if answer.code != "gone":
                    self.fail(f"{url} was refused as {answer.body!r}, but the bytes are right")
                return ""
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))

    async def _send_piece(self, url: str, data: bytes, offset: int, size: int) -> Answer | None:
        """Send bytes once; ``None`` if the answer was lost, or says nothing of the request itself."""
        chance = self.chance
        body = data[offset : offset + size]
        headers = {**_CHUNK, "Upload-Offset": str(offset), "Upload-Length": str(len(data))}
        cut = chance.choice((0.001, 0.01, 0.03)) if chance.random() < 0.15 else None
        try:
            answer = await self._send(
                "PATCH", url, body=body, headers=headers, cut_after=cut, pieces=3 if len(body) > 200 else 1
            )
        except Lost:
            return None
        if answer.status == 401:
            await self.log_in()
            return None
        if answer.code in UNSURE or answer.code in ("offset_mismatch", "upload_taken_over"):
            return None
        if answer.code != "gone":
            self.expect(answer, 204)
        return answer


def _encoded(metadata: dict[str, str]) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())
