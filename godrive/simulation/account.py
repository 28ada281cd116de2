"""One account: its requests, each answer of which is checked against the model.

An account does one thing at a time, so the model can say what each answer must be.
A request whose answer is lost is sent again, or left: then it waits until
the server has certainly ended with it, reads the drive, and finds either the
state before the request or the state after it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from godrive.simulation.client import Answer, Client, Lost, Unsent
from godrive.simulation.loop import Process
from godrive.simulation.model import Refusal, Tree, known

if TYPE_CHECKING:
    from godrive.simulation.world import World

SETTLED = 45.0
"""Seconds after which a server has ended with a request, or has given it up."""

PATIENCE = 900.0
"""Seconds after which a request that is repeated must have been served: no fault lasts that long."""

CLAIMED = 50.0
"""Seconds for which an ``Idempotency-Key`` is certainly claimed."""

UNSURE = {"store_unavailable", "unavailable", "overloaded", "timeout", "crashed", "too_many_requests", "storage_full"}
"""Refusals that say nothing of the request itself: it is sent again."""

UNDONE = {"overloaded", "too_many_requests", "storage_full"}
"""Those after which nothing has been done."""

_BUSY = (429, 500, 503, 504, 507)
"""How these are answered to HEAD, which has no code."""

_PASSWORD = "correct horse"  # noqa: S105


class Violation(Exception):
    """The drive is not what it must be."""


Apply = Callable[[Tree, Any], None]


@dataclass
class Request:
    """One change of the drive, and what it does to the model."""

    method: str
    path: str
    apply: Apply
    """Changes a tree as the request must.  Its second argument is the answer."""
    expects: str = ""
    """The code with which it must be refused."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    key: str = ""
    """Its ``Idempotency-Key``."""
    makes: bool = False
    """Whether it makes an entry, so another one when it is carried out a second time."""
    ends_with_process: bool = False
    """Whether nothing comes of an attempt once its process was killed, so the answer to a later attempt counts."""


class Account:
    """An account: its requests, and the model of its tree."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"user-{number}"
        self.process = Process(self.name)
        self.tree = Tree()
        self.sent: dict[str, bytes] = {}
        """All contents that were ever sent, by digest."""
        self.chance = random.Random()
        self.token = ""
        self.id = ""
        self.uploads: dict[str, str] = {}
        """Uploads that will get no bytes, and the state in which each must end."""
        self.unsettled: set[str] = set()
        """Entries with which searches may be behind the tree."""
        self.done = 0
        self.address = world.address(number)
        self._client = Client(world.loop.network, self.address)
        self._other = Client(world.loop.network, world.address(number + 1))
        self._number = ""
        """The operation in progress."""
        self._index = number

    # The account

    async def sign_up(self) -> None:
        body = {"email": f"{self.name}@example.org", "password": _PASSWORD}
        while True:
            answer = await self._insist("POST", "/v1/signup", json=body, token=False)
            if answer.status == 201 or answer.code == "email_taken":
                break
            self.expect(answer, 201)
        await self.log_in()
        self.id = (await self.read("/v1/me"))["id"]

    async def log_in(self, client: Client | None = None) -> None:
        body = {"email": f"{self.name}@example.org", "password": _PASSWORD}
        answer = await self._insist("POST", "/v1/login", json=body, token=False, client=client)
        self.expect(answer, 200)
        self.token = answer.json["token"]

    # Requests

    def expect(self, answer: Answer, *statuses: int) -> None:
        """Fail unless the answer has one of the statuses."""
        if answer.status not in statuses:
            self.fail(f"answered {answer.status} {answer.body[:300]!r}, not {' or '.join(map(str, statuses))}")

    def fail(self, text: str) -> None:
        raise Violation(f"{self.name}, operation {self._number}: {text}")

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        json: Any = None,
        token: bool = True,
        client: Client | None = None,
        **options: Any,
    ) -> Answer:
        headers = dict(headers or {})
        if json is not None:
            body = msgspec.json.encode(json)
            headers["Content-Type"] = "application/json"
        if token:
            headers["Authorization"] = f"Bearer {self.token}"
        trace = self.world.trace
        shown = f"{method} {path}"
        trace("asks", self.name, what=shown, size=len(body))
        try:
            answer = await (client or self._client).request(method, path, headers=headers, body=body, **options)
        except Lost as lost:
            trace("lost", self.name, what=shown, why=type(lost).__name__)
            raise
        trace("answered", self.name, what=shown, status=answer.status, code=answer.code, size=len(answer.body))
        crashed = answer.code == "crashed" or (method == "HEAD" and self.world.crashes_allowed)
        if answer.status == 500 and not crashed:
            self.fail(f"{method} {path} answered {answer.body!r}")
        if answer.code == "crashed" and not self.world.crashes_allowed:
            self.fail(f"{method} {path} crashed an actor")
        return answer

    async def _insist(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request that is safe to repeat until there is an answer about the request itself."""
        until = asyncio.get_running_loop().time() + PATIENCE
        while True:
            if asyncio.get_running_loop().time() > until:
                self.fail(f"{method} {path} has had no answer about the request itself for {PATIENCE:.0f} seconds")
            try:
                answer = await self._send(method, path, **options)
            except Lost:
                await asyncio.sleep(self.chance.uniform(0.2, 1.0))
                continue
            if answer.status == 401 and options.get("token", True):
                await self.log_in(options.get("client"))
            elif answer.code in UNSURE or (method == "HEAD" and answer.status in _BUSY):
                await asyncio.sleep(self.chance.uniform(0.5, 2.0))
            else:
                return answer

    async def ask(self, method: str, path: str, *, client: Client) -> Answer:
        """Send a request that is safe to repeat until there is an answer about the request itself."""
        return await self._insist(method, path, client=client)

    async def get(self, path: str) -> Answer:
        """An answer that must be 200."""
        answer = await self._insist("GET", path)
        self.expect(answer, 200)
        return answer

    async def read(self, path: str) -> Any:
        """The JSON of an answer that must be 200."""
        return (await self.get(path)).json

    # Changes

    async def change(self, request: Request) -> None:
        """Have a change made, and make it in the model."""
        if request.key:
            request.headers["Idempotency-Key"] = request.key
        chance, unknown, last_unknown = self.chance, False, 0
        first, offset = asyncio.get_running_loop().time(), self.world.machine.offset
        for attempt in range(30):
            if unknown and request.key and not self._is_claimed(first, offset):
                break
            cut = chance.choice((0.0, 0.001, 0.003, 0.01, 0.1)) if chance.random() < self.world.hang_ups else None
            pieces = 3 if len(request.body) > 200 and chance.random() < 0.2 else 1
            twice = bool(request.key) and chance.random() < 0.05
            lives = self.world.machine.lives
            try:
                if twice:
                    answer = await self._send_twice(request)
                else:
                    answer = await self._send(
                        request.method,
                        request.path,
                        body=request.body,
                        headers=request.headers,
                        cut_after=cut,
                        pieces=pieces,
                    )
            except Unsent:
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                continue
            except Lost:
                unknown, last_unknown = True, self.world.machine.lives
                if chance.random() < 0.4:
                    break
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                continue
            code = answer.code
            if answer.status == 401:
                await self.log_in()
            elif code in UNSURE:
                if code in self.world.undone and not (unknown or twice):
                    await self.check()
                if code not in UNDONE:
                    unknown, last_unknown = True, self.world.machine.lives
                if attempt > 10 and chance.random() < 0.2:
                    break
                await asyncio.sleep(chance.uniform(0.5, 3.0))
            elif code == "conflict" and request.key and (attempt or twice) and request.expects != "conflict":
                unknown = True
                await asyncio.sleep(chance.uniform(0.5, 2.0))  # an attempt is still served, or could not free its key
            elif unknown and request.ends_with_process and lives > last_unknown and answer.status < 400:
                self._accept(request, answer)
                return
            elif unknown and not (request.key and self._is_claimed(first, offset)):
                break
            else:
                self._accept(request, answer)
                return
        else:
            unknown = True
        if unknown:
            await self._settle(request)

    def _is_claimed(self, first: float, offset: float) -> bool:
        """Whether the ``Idempotency-Key`` of a request that was first sent then is still claimed.

        The claim of a server that was killed lasts a minute of its clock.
        """
        passed = asyncio.get_running_loop().time() - first + self.world.machine.offset - offset
        return passed < CLAIMED

    async def _send_twice(self, request: Request) -> Answer:
        """Send a request twice at the same time.  Both answers are the same, or one says that the other is served."""

        async def send(client: Client) -> Answer | Lost:
            try:
                return await self._send(
                    request.method, request.path, body=request.body, headers=request.headers, client=client
                )
            except Lost as lost:
                return lost

        one, two = await asyncio.gather(send(self._client), send(self._other))
        answers = [each for each in (one, two) if isinstance(each, Answer)]
        good = [each for each in answers if each.status < 400]
        if len(good) == 2 and good[0].body != good[1].body:
            self.fail(f"{request.method} {request.path} sent twice: {good[0].body!r} and {good[1].body!r}")
        if good:
            return good[0]
        if answers:
            return answers[0]
        raise Lost("both answers")

    def _accept(self, request: Request, answer: Answer) -> None:
        what = f"{request.method} {request.path}"
        if answer.status >= 400:
            if answer.code != request.expects:
                self.fail(f"{what} answered {answer.status} {answer.body!r}, expected {request.expects or 'success'!r}")
        elif request.expects:
            self.fail(f"{what} answered {answer.status} {answer.body[:300]!r}, expected {request.expects!r}")
        else:
            request.apply(self.tree, answer.json if answer.body else None)

    async def _settle(self, request: Request) -> None:
        """Find out whether a change has been made, or even twice, if its key has expired between two attempts."""
        await asyncio.sleep(SETTLED)
        candidates = {"before": self.tree}
        for which in ("after", "twice") if request.makes and request.key else ("after",):
            tree = list(candidates.values())[-1].copy()
            try:
                request.apply(tree, {"id": f"?{self._number}{which}"})
            except Refusal:
                break
            candidates[which] = tree
        await self.choose(f"{request.method} {request.path}", candidates)

    async def choose(self, what: str, candidates: dict[str, Tree]) -> None:
        """Read the drive, and take the first of these trees that is like it.  Fails if none is."""
        shown, trashed = await self.look()
        adopted = {which: tree.copy() for which, tree in candidates.items()}
        for tree in adopted.values():
            tree.adopt(shown)
        found = {which: tree for which, tree in adopted.items() if _same(tree, shown, trashed)}
        for id_ in {id_ for tree in found.values() for id_ in self.tree.apart(tree)}:
            versions = await self.versions(id_)
            found = {which: tree for which, tree in found.items() if _listed(tree, id_) == versions}
        for which, tree in found.items():
            self.world.trace("settled", self.name, what=what, found=which)
            self.tree = tree
            return
        self.fail(
            f"{what} got no answer, and the drive is like none of what it may be:\n"
            + "\n".join(f"  {which}: {_difference(tree, shown, trashed)}" for which, tree in adopted.items())
        )

    # Looking

    async def look(self) -> tuple[dict[str, tuple[Any, ...]], set[str]]:
        """All that lists of folders show, by id, and the ids of what is in the trash."""
        shown: dict[str, tuple[Any, ...]] = {}
        folders: list[str | None] = [None]
        while folders:
            parent = folders.pop()
            page = await self.pages(
                f"/v1/files/{parent or 'root'}/children?limit={self.chance.choice((3, 1000, 1000))}"
            )
            for row in page:
                if row["owner_id"] != self.id:
                    self.fail(f"a list of {parent} shows what belongs to {row['owner_id']}")
                if row["id"] in shown:
                    self.fail(f"{row['id']} is listed twice")
                is_folder = row["kind"] == "folder"
                shown[row["id"]] = (row["parent_id"], row["name"], is_folder, row["size_bytes"], row["sha256"])
                if is_folder:
                    folders.append(row["id"])
        return shown, {row["id"] for row in await self.pages("/v1/trash?limit=1000")}

    async def versions(self, id_: str) -> list[tuple[str | None, int]]:
        """The versions of a file, as it lists them."""
        listed = (await self.read(f"/v1/files/{id_}/versions?limit=1000"))["versions"]
        return [(version["sha256"], version["size_bytes"]) for version in listed]

    async def pages(self, path: str) -> list[Any]:
        """All rows of a list."""
        found: list[Any] = []
        page = ""
        while True:
            answer = await self.read(f"{path}&page={quote(page)}" if page else path)
            found += answer["files"]
            page = answer.get("next_page", "")
            if not page:
                return found

    async def check_more(self) -> None:
        """Check what else must be true in the end of what this account has done."""

    async def check(self) -> None:
        """Compare the drive with the model."""
        shown, trashed = await self.look()
        self.tree.adopt(shown)
        if not _same(self.tree, shown, trashed):
            self.fail(f"the drive is not as acknowledged: {_difference(self.tree, shown, trashed)}")


def _listed(tree: Tree, id_: str) -> list[tuple[str | None, int]]:
    return [(known(digest), size) for digest, size in tree.nodes[id_].versions]


def _same(tree: Tree, shown: dict[str, tuple[Any, ...]], trashed: set[str]) -> bool:
    return tree.shown() == shown and {node.id for node in tree.trashed()} == trashed


def _difference(tree: Tree, shown: dict[str, tuple[Any, ...]], trashed: set[str]) -> str:
    expected = tree.shown()
    missing = {id_: row for id_, row in expected.items() if shown.get(id_) != row}
    found = {id_: row for id_, row in shown.items() if expected.get(id_) != row}
    bin_ = {node.id for node in tree.trashed()}
    return f"expected {missing}, found {found}; in the trash missing {bin_ - trashed}, more {trashed - bin_}"
