"""A user who looks: reads files, searches, and tries to see what belongs to others."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from io import BytesIO
from urllib.parse import quote
from zipfile import ZipFile

from godrive.errors import DriveError
from godrive.messages.system import IndexNames
from godrive.rules.names import search_key
from godrive.simulation.account import Account
from godrive.simulation.loop import within
from godrive.simulation.machine import Life
from godrive.simulation.model import Node


class Looker(Account):
    """What a user does who changes nothing."""

    def _some(self, *, folders: bool | None = None) -> str | None:
        """The id of an entry that can be seen; rarely one in the trash or one that is gone."""
        chance, nodes = self.chance, list(self.tree.nodes.values())
        if chance.random() < 0.05:
            return chance.choice(nodes).id if nodes else None
        found = [node for node in self.tree.live() if folders is None or node.is_folder is folders]
        return chance.choice(found).id if found else None

    def _place(self) -> str | None:
        """A folder that can be seen; ``None`` is the root."""
        return None if self.chance.random() < 0.4 else self._some(folders=True)

    def _some_file(self) -> Node | None:
        """A file that can be seen."""
        id_ = self._some(folders=False)
        node = None if id_ is None or not self.tree.is_live(id_) else self.tree.nodes[id_]
        return None if node is None or node.is_folder else node

    async def _fetch(self) -> None:
        """Read a file, whole and in part."""
        if (file := self._some_file()) is None:
            return
        id_, (digest, size) = file.id, file.versions[0]
        answer = await self._insist("GET", f"/v1/files/{id_}/content")
        self.expect(answer, 200)
        if hashlib.sha256(answer.body).hexdigest() != digest.lstrip("?"):
            self.fail(f"{id_} has {len(answer.body)} other bytes than the {size} that were acknowledged")
        if size > 10 and self.chance.random() < 0.5:
            answer = await self._insist("GET", f"/v1/files/{id_}/content", headers={"Range": "bytes=2-5"})
            self.expect(answer, 206)
            if answer.body != self.sent[digest.lstrip("?")][2:6]:
                self.fail(f"a range of {id_} has other bytes")

    async def _archive(self) -> None:
        """Read a folder as a ZIP archive: it holds what the folder shows, and nothing else."""
        id_ = self._place()
        if id_ is not None and (
            id_ not in self.tree.nodes or not self.tree.is_live(id_) or not self.tree.nodes[id_].is_folder
        ):
            return
        answer = await self._insist("GET", f"/v1/files/{id_ or 'root'}/zip")
        self.expect(answer, 200)
        expected, top = dict[str, str](), len(f"{self.tree.path(id_)}/") if id_ else 0
        for node in self.tree.live():
            if id_ is None or (node.id != id_ and any(above.id == id_ for above in self.tree.above(node.id))):
                path = self.tree.path(node.id)[top:]
                expected[f"{path}/" if node.is_folder else path] = (
                    "" if node.is_folder else node.versions[0][0].lstrip("?")
                )
        with ZipFile(BytesIO(answer.body)) as archive:
            found = {
                name: "" if name.endswith("/") else hashlib.sha256(archive.read(name)).hexdigest()
                for name in archive.namelist()
            }
        if found != expected:
            self.fail(f"the archive of {id_} has {found}, not {expected}")

    async def _search(self) -> None:
        """Search all that can be seen, also while the indexer is behind."""
        text = self.chance.choice(("a", "b", "notes", "é"))
        for _ in range(self.chance.choice((0, 0, 1, 3))):
            within(self.process, asyncio.get_running_loop().call_later, self.chance.uniform(0.0, 0.03), self._index_now)
        await self.search(text, but=self.unsettled)

    def _index_now(self) -> None:
        """Have some names indexed now, while a search runs."""
        life = self.world.machine.life
        if life is not None and life.serving.is_set():
            within(life, life.machine.loop.create_task, _index_some(life))

    async def search(self, text: str, *, but: set[str]) -> None:
        """Compare what a search finds with the tree, without those that may be behind it."""
        expected = {node.id for node in self.tree.live() if any(w.startswith(text) for w in _words(node.name))} - but
        found = {row["id"] for row in await self.pages(f"/v1/search?q={quote(text)}&limit=1000")} - but
        if found != expected:
            missed = {id_: self.tree.nodes[id_].name for id_ in expected - found}
            self.fail(f"a search for {text} finds {found - expected} too much, and not {missed}")

    async def _spy(self) -> None:
        """Try to reach what belongs to somebody else."""
        others = [user for user in self.world.users if user is not self and user.tree.nodes]
        if not others:
            return
        id_ = self.chance.choice(list(self.chance.choice(others).tree.nodes))
        if id_.startswith("?") or "/" in id_:
            return
        method, path, body = self.chance.choice(
            (
                ("GET", f"/v1/files/{id_}", None),
                ("GET", f"/v1/files/{id_}/content", None),
                ("GET", f"/v1/files/{id_}/children", None),
                ("GET", f"/v1/files/{id_}/versions", None),
                ("GET", f"/v1/files/{id_}/download", None),
                ("PATCH", f"/v1/files/{id_}", {"name": "mine"}),
                ("POST", f"/v1/files/{id_}/copy", {"name": "mine"}),
                ("POST", f"/v1/files/{id_}/restore", {}),
                ("DELETE", f"/v1/files/{id_}", None),
                ("DELETE", f"/v1/trash/{id_}", None),
                ("POST", "/v1/folders", {"name": "mine", "parent_id": id_}),
            )
        )
        answer = await self._insist(method, path, json=body)
        if answer.code != "not_found":
            self.fail(f"{method} {path} of another user answered {answer.status} {answer.body[:300]!r}")

    async def _look_around(self) -> None:
        await self.check()


async def _index_some(life: Life) -> None:
    with suppress(DriveError):  # the ticker tries again
        await life.drive.metadata.ask(IndexNames(1))


def _words(name: str) -> list[str]:
    """What a name can be found by."""
    return search_key(name).replace(".", " ").replace("(", " ").replace("%", " ").split()
