"""Webhooks of users: a server that receives them, badly at times, and what it must have got in the end."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import quote

import msgspec

from godrive.bridge import outbound  # noqa: F401 - imported before the first fork, because a delivery imports it late
from godrive.simulation.account import Violation
from godrive.simulation.http_server import Reply, Request, ServerProtocol
from godrive.simulation.looking import Looker
from godrive.simulation.loop import Process, SimulatedLoop, within

NAME, ADDRESS = "hooks", ("10.0.0.8", 8000)
SECRET = "whsec_" + b64encode(b"k" * 32).decode()

Told = tuple[str, str]
"""A change, as a webhook tells it: what has happened, and to which entry."""


class HookServer(Process):
    """Receives the webhooks of all users.  It refuses, forgets to answer and hangs up, as long as it *is_rough*."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        super().__init__(NAME)
        self.is_rough = True
        self.accepted: dict[str, dict[str, Told]] = {}
        """By webhook, the changes in the order in which each was accepted first, by the ids of their messages."""
        self.resets: set[str] = set()
        """Webhooks that were told of missing changes: the log forgets what a clock that was behind has stamped."""
        self._chance = chance
        within(self, loop.network.listen, lambda: ServerProtocol(self.serve), *ADDRESS)

    async def serve(self, request: Request) -> Reply | None:
        """Take a message, or fail to."""
        id_ = _verified(request)
        fate = self._chance.random() if self.is_rough else 1.0
        if fate < 0.1:
            return Reply(503)
        if fate < 0.13:
            await asyncio.sleep(self._chance.uniform(1.0, 20.0))
        message = msgspec.json.decode(request.body)
        if message["type"] == "cursor_reset":
            self.resets.add(id_.partition(".")[0])
            return Reply(204)
        data = message["data"]
        self.accepted.setdefault(id_.partition(".")[0], {}).setdefault(id_, (data["change"], data["id"]))
        return None if fate < 0.2 else Reply(204)


def _verified(request: Request) -> str:
    """The id of a message, whose signature is right."""
    id_, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    signed = f"{id_}.{at}.".encode() + request.body
    mac = hmac.digest(b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256)
    if request.headers["webhook-signature"] != f"v1,{b64encode(mac).decode()}":
        raise Violation(f"the webhook {id_} has the signature of something else")
    return id_


class HookUser(Looker):
    """A user who has the changes of their drive delivered."""

    hooked_at = ""
    """The cursor after which all changes must be delivered."""
    hook_id = ""

    async def _hook(self) -> None:
        """Have a webhook.  If an answer is lost, there may be several: another one may get the last changes only."""
        if self.hooked_at:
            return
        body = {"url": f"http://{ADDRESS[0]}:{ADDRESS[1]}/{self.name}", "secret": SECRET}
        answer = await self._insist("POST", "/v1/webhooks", json=body)
        if answer.code == "quota_exceeded":
            return
        self.expect(answer, 201)
        self.hook_id = answer.json["id"]
        self.hooked_at = (await self.read("/v1/changes"))["cursor"]

    async def undelivered(self, server: HookServer) -> str:
        """What is wrong with what was delivered so far; "" if nothing is."""
        if not self.hooked_at:
            return ""
        if not (made := await self._made_since(self.hooked_at)):
            return ""
        for hook in (await self.read("/v1/webhooks"))["webhooks"]:
            if hook["id"] in server.resets:
                continue
            if hook["disabled"]:
                path = f"/v1/webhooks/{hook['id']}/replay"
                self.expect(await self._insist("POST", path, json={"cursor": self.hooked_at}), 200)
            told = list(server.accepted.get(hook["id"], {}).values())
            if told[-len(made) :] != made and (hook["id"] == self.hook_id or told != made[-len(told) :]):
                return f"{self.name}: the webhook {hook} was told {told}, but these are the changes: {made}"
        return ""

    async def _made_since(self, cursor: str) -> list[Told]:
        found: list[Told] = []
        while True:
            answer = await self._insist("GET", f"/v1/changes?cursor={quote(cursor)}&limit=1000")
            if answer.code == "cursor_reset":
                return []
            self.expect(answer, 200)
            page: Any = answer.json
            found += [(change["change"], change["id"]) for change in page["changes"]]
            cursor = page["cursor"]
            if not page["has_more"]:
                return found
