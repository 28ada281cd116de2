"""One user: does everything that the API can, one thing after another, by the chance of the seed."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from godrive.simulation.account import Request
from godrive.simulation.client import Answer
from godrive.simulation.invariants import note_referred
from godrive.simulation.looking import Looker
from godrive.simulation.loop import within
from godrive.simulation.model import Bytes, Refusal, Tree, known

if TYPE_CHECKING:
    from godrive.simulation.world import World

_SIZES = (0, 1, 20, 300, 5_000, 70_000)
_TEXT = {"Content-Type": "text/plain"}
_JSON = {"Content-Type": "application/json"}


ACTIONS = {
    "mkdir": 14,
    "put": 28,
    "save": 2,
    "move": 14,
    "copy": 5,
    "versions": 6,
    "intent": 8,
    "trash": 9,
    "restore": 6,
    "purge": 4,
    "empties": 1,
    "fetch": 14,
    "spy": 5,
    "search": 3,
    "look_around": 2,
}
"""What a user does, and how often: the names of methods and their weights."""

FAVOURED = {"save_large": 0}
"""What a user does only in runs that favour it.  Behind all others, so that it changes no choice among them."""


class User(Looker):
    """A user and what they do."""

    actions = ACTIONS | FAVOURED
    knows_digests = True
    """Whether the server knows the digests of bytes that were announced without one."""
    wrong_bytes: tuple[str, ...] = ("digest_mismatch", "gone", "url_invalid")
    """What an upload of other bytes than announced is answered."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self._weights = world.swarm(self.actions, self.name)
        self._weighted = cache(self._weigh)

    def start(self, count: int) -> asyncio.Task[None]:
        return within(self.process, self.world.loop.create_task, self._run(count))

    async def _run(self, count: int) -> None:
        world = self.world
        self.chance = world.chance(f"{self.name}:begin")
        await self.sign_up()
        for number in range(count):
            self._number = str(number)
            self.chance = world.chance(f"{self.name}:{number}")
            await asyncio.sleep(self.chance.expovariate(1 / world.pause))
            if (self._index, number) not in world.plan.skipped:
                await self.act()
                self.done += 1

    def conclude(self) -> None:
        """What is done from now on belongs to no operation, and has keys of its own."""
        self._number = "at the end"

    async def act(self, but: str = "") -> None:
        """Do one thing, *but* not that."""
        kinds, weights = self._weighted(but)
        (kind,) = self.chance.choices(kinds, cum_weights=weights)
        await getattr(self, f"_{kind}")()

    def _weigh(self, but: str) -> tuple[list[str], list[float]]:
        """What to choose from, and the sums of the weights up to each."""
        weights = {kind: weight for kind, weight in self._weights.items() if kind != but}
        return list(weights), list(accumulate(weights.values()))

    def _some_name(self) -> str:
        return self.chance.choice(("a", "b", "c", "notes.txt", "é", "a b%"))

    def _content(self) -> tuple[bytes, Bytes]:
        if self.sent and self.chance.random() < 0.1:
            digest = self.chance.choice(list(self.sent))  # what was stored before
            return self.sent[digest], (digest, len(self.sent[digest]))
        return self._new_content(self.chance.choices(_SIZES, (1, 1, 6, 6, 4, 2))[0])

    def _new_content(self, size: int) -> tuple[bytes, Bytes]:
        mark = f"{self.name}/{self._number}/".encode()
        data = mark + self.chance.randbytes(size) if size else b""
        digest = hashlib.sha256(data).hexdigest()
        self.sent[digest] = data
        return data, (digest, len(data))

    def _key(self) -> str:
        return f"{self.name}-{self._number}".replace(" ", "-")

    def _perhaps_key(self) -> str:
        """A key in half of the cases: for a change that leaves the same drive when it is made a second time."""
        return self._key() if self.chance.random() < 0.5 else ""

    async def _predict(self, request: Request) -> None:
        """Find out on a copy of the model what the request must be answered, and send it."""
        try:
            request.apply(self.tree.copy(), {"id": "?"})
        except Refusal as refusal:
            request.expects = refusal.code
        await self.change(request)

    async def _mkdir(self) -> None:
        parent, name = self._place(), self._some_name()
        body = msgspec.json.encode({"name": name, "parent_id": parent})
        await self._predict(
            Request(
                "POST",
                "/v1/folders",
                lambda tree, made: tree.make_folder(parent, name, made["id"]),
                body=body,
                headers=dict(_JSON),
                key=self._perhaps_key(),
                makes=True,
            )
        )

    async def _put(self) -> None:
        parent, name = self._place(), self._some_name()
        data, content = self._content()
        conflict = self.chance.choice(("replace", "replace", "fail", "rename"))
        path = f"/v1/files?parent_id={parent or 'root'}&name={quote(name)}&on_conflict={conflict}"
        await self._predict(
            Request(
                "POST",
                path,
                lambda tree, made: _keep(tree.put(parent, name, content, conflict, made["id"])),
                body=data,
                headers={"Content-Type": "text/plain"},
                key=self._key() if conflict == "rename" or self.chance.random() < 0.3 else "",
                makes=True,
            )
        )

    async def _save(self) -> None:
        """Save a file several times in a row, as an editor does."""
        parent, name = self._place(), self._some_name()
        for _ in range(self.chance.randrange(2, 4)):
            await self._save_once(parent, name, self._content())

    async def _save_large(self) -> None:
        """Save a file that is too large for a pack several times in a row."""
        parent, name = self._place(), self._some_name()
        for _ in range(self.chance.randrange(2, 5)):
            await self._save_once(parent, name, self._new_content(_SIZES[-1]), ends=self.knows_digests)

    async def _save_once(
        self, parent: str | None, name: str, bytes_: tuple[bytes, Bytes], *, ends: bool = False
    ) -> None:
        data, content = bytes_
        await self._predict(
            Request(
                "POST",
                f"/v1/files?parent_id={parent or 'root'}&name={quote(name)}&on_conflict=replace",
                lambda tree, made: _keep(tree.put(parent, name, content, "replace", made["id"])),
                body=data,
                headers=dict(_TEXT),
                ends_with_process=ends,
            )
        )

    async def _move(self) -> None:
        id_ = self._some()
        if id_ is None:
            return
        conflict, chance = self.chance.choice(("fail", "rename")), self.chance
        node = self.tree.nodes[id_]
        parent, name, fields = node.parent, node.name, dict[str, Any](on_conflict=conflict)
        if chance.random() < 0.6:
            fields["name"] = name = self._some_name()
        if "name" not in fields or chance.random() < 0.4:
            parent = self._place()
            fields["parent_id"] = parent or "root"
        await self._predict(
            Request(
                "PATCH",
                f"/v1/files/{id_}",
                lambda tree, _made: tree.move(id_, parent, name, conflict),
                body=msgspec.json.encode(fields),
                headers=dict(_JSON),
                key=self._key() if conflict == "rename" else self._perhaps_key(),
            )
        )

    async def _copy(self) -> None:
        id_ = self._some()
        if id_ is None or len(self.tree.nodes) > 30:
            return
        parent, name, before = self._place(), self._some_name(), set(self.tree.nodes)
        fields = {"parent_id": parent or "root", "name": name, "on_conflict": "rename"}
        await self._predict(
            Request(
                "POST",
                f"/v1/files/{id_}/copy",
                lambda tree, made: tree.duplicate(id_, parent, name, "rename", made["id"]),
                body=msgspec.json.encode(fields),
                headers=dict(_JSON),
                key=self._key(),
                makes=True,
            )
        )
        if any("/" in node for node in self.tree.nodes):
            await self.check()  # finds the ids of what lies in the copy
        self.unsettled |= self.tree.nodes.keys() - before

    async def _trash(self) -> None:
        id_ = self._some()
        if id_ is not None:
            self._unsettle(id_)
            await self._predict(
                Request("DELETE", f"/v1/files/{id_}", lambda tree, _: tree.trash(id_), key=self._perhaps_key())
            )

    def _unsettle(self, id_: str) -> None:
        """What lies in a folder that is trashed or restored follows it a little later in searches."""
        self.unsettled |= {node.id for node in self.tree.below(id_, live=False)} - {id_}

    async def _restore(self) -> None:
        if trashed := self.tree.trashed():
            id_ = self.chance.choice(trashed).id
            self._unsettle(id_)
            await self._predict(
                Request(
                    "POST",
                    f"/v1/files/{id_}/restore",
                    lambda tree, _: tree.restore(id_, "rename"),
                    body=b'{"on_conflict":"rename"}',
                    headers=dict(_JSON),
                    key=self._perhaps_key(),
                )
            )

    async def _purge(self) -> None:
        if trashed := self.tree.trashed():
            id_ = self.chance.choice(trashed).id
            note_referred(self.world)
            await self._predict(
                Request("DELETE", f"/v1/trash/{id_}", lambda tree, _: tree.purge(id_), key=self._perhaps_key())
            )

    async def empty(self) -> None:
        """Empty the trash."""
        note_referred(self.world)
        await self._predict(Request("DELETE", "/v1/trash", lambda tree, _: tree.empty_trash(), key=self._perhaps_key()))

    async def _empties(self) -> None:
        await self.empty()

    async def _versions(self) -> None:
        """Restore or delete an earlier version."""
        files = [node for node in self.tree.live() if len(node.versions) > 1]
        if not files:
            return
        id_, chance = self.chance.choice(files).id, self.chance
        listed = (await self.read(f"/v1/files/{id_}/versions?limit=1000"))["versions"]
        if [version["sha256"] for version in listed] != [known(sha256) for sha256, _ in self.tree.nodes[id_].versions]:
            self.fail(f"the versions of {id_} are {listed}, not {self.tree.nodes[id_].versions}")
        index = chance.randrange(len(listed))
        path = f"/v1/files/{id_}/versions/{listed[index]['id']}"
        versions = self.tree.nodes[id_].versions
        # Only the server knows whether two versions with the same bytes share a blob: then nothing is restored.
        if chance.random() < 0.5 and (not index or versions[index] != versions[0]):
            request = Request("POST", f"{path}/restore", lambda tree, _: tree.restore_version(id_, index))
        else:
            request = Request("DELETE", path, lambda tree, _: tree.delete_version(id_, index))
        request.key = self._key()
        await self._predict(request)

    async def _intent(self) -> None:
        """Announce an upload, then send the bytes, or the wrong ones, or none."""
        parent, name = self._place(), self._some_name()
        data, content = self._content()
        conflict, fate = self.chance.choice(("replace", "fail", "rename")), self.chance.random()
        if self.chance.random() < 0.2 and (file := self._some_file()):
            node, conflict = file, "replace"  # with what it has already
            parent, name, content = node.parent, node.name, (node.versions[0][0].lstrip("?"), node.versions[0][1])
            data = self.sent[content[0]]
        fields = {
            "filename": name,
            "size_bytes": len(data),
            "parent_id": parent,
            "on_conflict": conflict,
            "mime": "text/plain",  # as of all files: with another type, the same bytes are another version
        }
        if self.chance.random() < 0.5:
            fields["sha256"] = content[0]
        answer = await self._insist("POST", "/v1/files/upload-intent", json=fields)
        try:
            self.tree.copy().put(parent, name, content, conflict, "?", has_bytes=False)
        except Refusal as refusal:
            if answer.code != refusal.code:
                self.fail(f"an upload intent was answered {answer.status} {answer.body!r}, not {refusal.code}")
            return
        self.expect(answer, 200)
        intent = answer.json
        if fate < 0.15:
            return  # it ends by itself
        if fate < 0.25 and "sha256" in fields and data:
            answer = await self._deliver(intent, bytes(len(data)))
            if answer.code not in self.wrong_bytes:
                self.fail(f"other bytes than announced were answered {answer.status} {answer.body[:200]!r}")
            return
        if fate < 0.35:
            answer = await self._insist("DELETE", f"/v1/uploads/{intent['upload_id']}")
            self.expect(answer, 200)
            return

        def publish(tree: Tree, made: Any) -> None:
            is_known = "sha256" in fields or made.get("sha256") is not None or self.knows_digests
            kept = content if is_known else (f"?{content[0]}", content[1])
            tree.put(parent, name, kept, conflict, made["id"], has_bytes=False)

        answer = await self._deliver(intent, data)
        if answer.code in ("gone", "url_invalid"):  # it has expired meanwhile, or the clock says so
            await self._settle(Request("PUT", intent["upload_id"], publish))  # bytes of an earlier attempt may be there
            return
        self.expect(answer, 200, 201)
        publish(self.tree, answer.json["file"])

    async def _deliver(self, intent: Any, data: bytes) -> Answer:
        """Send the bytes of an upload.  Returns the answer that says what came of it."""
        target = "/" + intent["upload_url"].split("/", 3)[3]
        return await self._insist("PUT", target, body=data, headers=_TEXT, token=False)


def _keep(_id: str) -> None:
    """Drop a result."""
