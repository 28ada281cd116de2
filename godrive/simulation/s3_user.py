"""A user whose bytes go to an S3 store, with signed URLs, and come from there."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec

from godrive.simulation.client import Answer, Client, Lost
from godrive.simulation.wide_user import WideUser

_REDIRECT = 307
_OK = 200
_FINAL = (400, 403)


class S3User(WideUser):
    """See the module."""

    knows_digests = False
    wrong_bytes = (*WideUser.wrong_bytes, "conflict")

    async def _send(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request, and follow it to the store."""
        answer = await super()._send(method, path, **options)
        if answer.status != _REDIRECT:
            return answer
        headers = {name: value for name, value in (options.get("headers") or {}).items() if name == "Range"}
        answer = await self._ask_store(method, answer.headers["location"], headers=headers)
        if answer.status >= 400:
            return Answer(503, "", b'{"code":"store_unavailable"}')  # also a URL that has expired: ask for another
        return answer

    async def _ask_store(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request with a signed URL once.  Raises ``Lost``."""
        parts = urlsplit(url)
        client = Client(self.world.loop.network, (parts.hostname or "", parts.port or 80))
        shown = f"{method} {parts.path}"
        self.world.trace("asks", self.name, what=shown)
        try:
            answer = await client.request(method, f"{parts.path}?{parts.query}", **options)
        except Lost as lost:
            self.world.trace("lost", self.name, what=shown, why=type(lost).__name__)
            raise
        finally:
            client.hang_up()
        self.world.trace("answered", self.name, what=shown, status=answer.status, size=len(answer.body))
        return answer

    async def _deliver(self, intent: Any, data: bytes) -> Answer:
        """Send the bytes to the store, then tell the server, or wait until it finds them."""
        in_parts = bool(intent.get("parts")) and self.chance.random() < 0.7
        tells = in_parts or self.chance.random() < 0.7
        for _ in range(10):
            if in_parts:
                status, told = await self._put_parts(intent, data)
            else:
                status, told = await self._put_whole(intent, data), None
            if status in _FINAL:
                break  # other bytes than announced, or too late
            if tells:
                answer = await self._insist("POST", f"/v1/uploads/{intent['upload_id']}/complete", json=told)
            else:
                answer = await self._wait_for(intent["upload_id"], patient=status == _OK)
            if answer.code not in ("conflict", "invalid"):  # no bytes have come, or not all parts
                return answer
            await asyncio.sleep(self.chance.uniform(0.1, 2.0))
        ended = await self._insist("DELETE", f"/v1/uploads/{intent['upload_id']}")
        if ended.status == _OK:
            return _problem(410, "gone")
        return await self._wait_for(intent["upload_id"], patient=True)

    async def _put_whole(self, intent: Any, data: bytes) -> int:
        """Send all bytes once.  Returns the status; 0 if nobody knows."""
        headers = {name: value for name, value in intent["headers"].items() if name != "Content-Length"}
        try:
            return (await self._ask_store("PUT", intent["upload_url"], headers=headers, body=data)).status
        except Lost:
            return 0

    async def _put_parts(self, intent: Any, data: bytes) -> tuple[int, Any]:
        """Send every part once.  Returns the worst status, and what to tell the server of them."""
        worst, sent = _OK, []
        for part in intent["parts"]:
            start = (part["number"] - 1) * intent["part_size"]
            headers = {name: value for name, value in part["headers"].items() if name != "Content-Length"}
            try:
                answer = await self._ask_store(
                    "PUT", part["url"], headers=headers, body=data[start : start + part["size_bytes"]]
                )
            except Lost:
                worst = max(worst, 500)
                continue
            worst = max(worst, answer.status)
            if answer.status == _OK:
                sent.append({"number": part["number"], "etag": answer.headers["etag"].strip('"')})
        return worst, {"parts": sent} if len(sent) == intent["part_count"] else None

    async def _wait_for(self, upload_id: str, *, patient: bool) -> Answer:
        """What has come of an upload, in the form in which its completion is answered."""
        for _ in range(20 if patient else 1):
            answer = await self._insist("GET", f"/v1/uploads/{upload_id}")
            self.expect(answer, 200)
            state = answer.json["state"]
            if state == "committed":
                return Answer(200, "", msgspec.json.encode({"file": answer.json["file"]}))
            if state != "pending":
                return _problem(410, "gone")
            await asyncio.sleep(1.0)
        return _problem(409, "conflict")


def _problem(status: int, code: str) -> Answer:
    return Answer(status, "", msgspec.json.encode({"code": code}))
