"""A user who does what a whole family of clients does: tus, batches, paths, marks, the log of changes, log-outs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from godrive.simulation.account import Request
from godrive.simulation.batching import BatchingUser
from godrive.simulation.following import Copy
from godrive.simulation.hooks import HookUser
from godrive.simulation.model import Node
from godrive.simulation.resuming import ResumingUser
from godrive.simulation.streaming import EventStream
from godrive.simulation.user import ACTIONS, FAVOURED

if TYPE_CHECKING:
    from godrive.simulation.world import World

NOTICED = 1.5
"""Seconds within which every process has noticed a log-out, and some for the way."""


class WideUser(ResumingUser, BatchingUser, HookUser):
    """See the module."""

    actions = ACTIONS | {
        "tus": 12,
        "parallel": 3,
        "ietf": 6,
        "batch": 12,
        "put_by_path": 8,
        "mark": 6,
        "follow": 6,
        "stream": 3,
        "hook": 1,
        "archive": 3,
        "log_out": 2,
        **FAVOURED,
    }

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self._copy_of_drive = Copy(self)
        self._streamed = Copy(self)
        self._marks: dict[str, dict[str, Any]] = {}

    async def _put_by_path(self) -> None:
        """Store a file at a path, as curl does."""
        parent, name = self._place(), self._some_name()
        if parent is not None and not self.tree.is_live(parent):
            return
        data, content = self._content()
        path = "/".join(quote(each, safe="") for each in (*self._names(parent), name))
        await self._predict(
            Request(
                "PUT",
                f"/v1/files/by-path/{path}",
                lambda tree, made: _drop(tree.put(parent, name, content, "replace", made["id"])),
                body=data,
                headers={"Content-Type": "text/plain"},
            )
        )

    def _names(self, id_: str | None) -> list[str]:
        """The names of a path, from the root."""
        return [] if id_ is None else [node.name for node in reversed(list(self.tree.above(id_)))]

    async def _mark(self) -> None:
        """Set a property and the favorite.  The key keeps an attempt without an answer from being made later."""
        id_ = self._some()
        if id_ is None or not self.tree.is_live(id_):
            return
        value: Any = self.chance.choice(("blue", 3, True, None))
        marks = {"favorite": self.chance.random() < 0.5, "properties": {self.chance.choice("ab"): value}}
        if id_ not in self._marks:
            entry = await self.read(f"/v1/files/{id_}")  # a copy has the marks of its source
            self._marks[id_] = {"favorite": entry["favorite"], "properties": entry["properties"]}
        headers = {"Idempotency-Key": self._key()}
        while True:
            answer = await self._insist("PATCH", f"/v1/files/{id_}", json=marks, headers=headers)
            if answer.code != "conflict":
                break
            await asyncio.sleep(1.0)  # an attempt without an answer is still being served
        self.expect(answer, 200)
        kept = self._marks[id_]
        kept["favorite"] = marks["favorite"]
        kept["properties"] |= marks["properties"]
        kept["properties"] = {key: each for key, each in kept["properties"].items() if each is not None}
        self._compare_marks(id_, answer.json)

    def _compare_marks(self, id_: str, entry: Any) -> None:
        found = {"favorite": entry["favorite"], "properties": entry["properties"]}
        if found != self._marks[id_]:
            self.fail(f"{id_} has {found}, but {self._marks[id_]} was acknowledged")

    async def _follow(self) -> None:
        """Bring the copy up to date, and compare it."""
        await self._copy_of_drive.catch_up()
        if problem := self._copy_of_drive.difference(self.tree):
            self.fail(f"the changes do not lead to the drive: {problem}")

    async def _stream(self) -> None:
        """Do a few other things while events keep another copy up to date."""
        stream = EventStream(self, self._streamed)
        operation = self._number
        for number in range(self.chance.randrange(1, 4)):
            self._number = f"{operation}.{number}"
            await self.act(but="stream")
        await stream.wait()
        stream.close()

    async def _log_out(self) -> None:
        """End the session: its token must stop working in every process."""
        old = self.token
        answer = await self._insist("POST", "/v1/logout")
        self.expect(answer, 204)
        if self.token == old:
            await asyncio.sleep(NOTICED)
            answer = await self._insist("GET", "/v1/me", headers={"Authorization": f"Bearer {old}"}, token=False)
            self.expect(answer, 401)
            await self.log_in()

    async def check_more(self) -> None:
        """What must be true of this user in the end, beyond what is true of all."""
        await self._follow()
        for id_ in self._marks:
            node: Node | None = self.tree.nodes.get(id_)
            if node is not None and self.tree.is_live(id_):
                self._compare_marks(id_, await self.read(f"/v1/files/{id_}"))


def _drop(_id: str) -> None:
    """Drop a result."""
