"""A user who keeps a copy of the drive by reading the log of changes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from godrive.simulation.account import Account
from godrive.simulation.client import Client
from godrive.simulation.model import Tree

Row = tuple[Any, ...]


class Copy:
    """What a client knows of the drive from its changes: the rows of lists, by id.

    It reads over a connection of its own, so that it can follow while its user does other things.
    """

    def __init__(self, user: Account) -> None:
        self._user = user
        self.client = Client(user.world.loop.network, user.address)
        self.cursor = ""
        self.rows: dict[str, Row] = {}

    async def catch_up(self) -> None:
        """Read all changes since the last time."""
        if not self.cursor:
            await self.begin()
        limit = self._user.chance.choice((1, 3, 1000))
        while True:
            answer = await self._ask(f"/v1/changes?cursor={quote(self.cursor)}&limit={limit}")
            if answer.code == "cursor_reset":
                await self.begin()
                continue
            self._user.expect(answer, 200)
            page = answer.json
            for change in page["changes"]:
                await self.take(change)
            self.cursor = page["cursor"]
            if not page["has_more"]:
                return

    async def begin(self) -> None:
        """Take a cursor, then read the drive."""
        answer = await self._ask("/v1/changes")
        self._user.expect(answer, 200)
        self.cursor = answer.json["cursor"]
        self.rows.clear()
        await self._read_below("root")

    async def take(self, change: dict[str, Any]) -> None:
        """Follow one change."""
        id_, kind = change["id"], change["change"]
        self._user.world.trace("change", self._user.name, what=kind, id=id_)
        if kind in ("trashed", "purged", "removed"):
            self._forget(id_)
            return
        entry = change.get("entry")
        if entry is None:
            self._forget(id_)
            return
        is_new = id_ not in self.rows  # it may have been dropped with a folder above it, which it has left since
        self.rows[id_] = _row(entry)
        if (is_new or kind in ("created", "restored")) and entry["kind"] == "folder":
            await self._read_below(id_)

    def difference(self, tree: Tree) -> str:
        """How the copy differs from a tree; "" if it does not."""
        tree.adopt(self.rows)
        shown = tree.shown()
        missing = {id_: row for id_, row in shown.items() if self.rows.get(id_) != row}
        found = {id_: row for id_, row in self.rows.items() if shown.get(id_) != row}
        return f"expected {missing}, found {found}" if missing or found else ""

    async def _ask(self, path: str) -> Any:
        return await self._user.ask("GET", path, client=self.client)

    def _forget(self, id_: str) -> None:
        """Drop an entry and all that lies in it."""
        leaving = [id_]
        for each in leaving:
            self.rows.pop(each, None)
            leaving += [child for child, row in self.rows.items() if row[0] == each]

    async def _read_below(self, id_: str) -> None:
        """Read what lies in a folder, at any depth.  If it is gone meanwhile, a later change says so."""
        page = ""
        while True:
            answer = await self._ask(f"/v1/files/{id_}/children?limit=1000" + (f"&page={quote(page)}" if page else ""))
            if answer.status == 404:
                return
            self._user.expect(answer, 200)
            for entry in answer.json["files"]:
                self.rows[entry["id"]] = _row(entry)
                if entry["kind"] == "folder":
                    await self._read_below(entry["id"])
            page = answer.json.get("next_page", "")
            if not page:
                return


def _row(entry: dict[str, Any]) -> Row:
    return (entry["parent_id"], entry["name"], entry["kind"] == "folder", entry["size_bytes"], entry["sha256"])
