"""A user who sends batches: all operations or none, or one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from godrive.simulation.account import SETTLED, UNDONE, UNSURE, Request
from godrive.simulation.client import Lost, Unsent
from godrive.simulation.model import Refusal, Tree
from godrive.simulation.user import User

Step = tuple[dict[str, Any], Callable[[Tree, str], None]]
"""An operation as it is sent, and what it does to the model; its last argument is the id of a new entry."""

_STATUS = {"not_found": 404, "name_taken": 409, "cycle": 409, "conflict": 409}


class BatchingUser(User):
    """What a client does that changes many entries at once."""

    async def _batch(self) -> None:
        steps = [step for _ in range(self.chance.randrange(1, 6)) if (step := self._step())]
        if not steps:
            return
        if self.chance.random() < 0.5:
            await self._all_or_nothing(steps)
        else:
            await self._one_by_one(steps)

    def _step(self) -> Step | None:
        chance, some = self.chance, self._some()
        kind = chance.choice(("mkdir", "mkdir", "rename", "move", "trash", "restore", "purge"))
        name, place = self._some_name(), self._place()
        if kind == "mkdir":
            operation = {"op": "mkdir", "name": name} | ({"parent_id": place} if place else {})
            return operation, lambda tree, made: tree.make_folder(place, name, made)
        if kind in ("restore", "purge"):
            trashed = self.tree.trashed()
            if not trashed:
                return None
            id_ = chance.choice(trashed).id
            self._unsettle(id_)
            if kind == "purge":
                return {"op": "purge", "id": id_}, lambda tree, _: tree.purge(id_)
            return {"op": "restore", "id": id_, "on_conflict": "rename"}, lambda tree, _: tree.restore(id_, "rename")
        if some is None:
            return None
        if kind == "trash":
            if some in self.tree.nodes:
                self._unsettle(some)
            return {"op": "trash", "id": some}, lambda tree, _: tree.trash(some)
        if kind == "rename":
            operation = {"op": "rename", "id": some, "name": name, "on_conflict": "rename"}
            return operation, lambda tree, _: tree.move(some, tree.need(some).parent, name, "rename")
        operation = {"op": "move", "id": some, "parent_id": place or "root", "on_conflict": "fail"}
        return operation, lambda tree, _: tree.move(some, place, tree.need(some).name, "fail")

    async def _all_or_nothing(self, steps: list[Step]) -> None:
        def apply(tree: Tree, made: Any) -> None:
            for number, (_, change) in enumerate(steps):
                results = made.get("results")
                change(tree, results[number]["entry"]["id"] if _names(results, number) else f"?{self._number}.{number}")

        body = {"operations": [operation for operation, _ in steps], "atomic": True}
        await self._predict(
            Request(
                "POST",
                "/v1/batch",
                apply,
                body=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
                key=self._key(),
            )
        )

    async def _one_by_one(self, steps: list[Step]) -> None:
        """Send it once, so that no operation is carried out twice."""
        json = {"operations": [operation for operation, _ in steps]}
        while True:
            try:
                answer = await self._send("POST", "/v1/batch", json=json)
            except Unsent:
                await asyncio.sleep(self.chance.uniform(0.2, 1.0))
                continue
            except Lost:
                await self._find_how_many(steps)
                return
            if answer.status == 401:
                await self.log_in()
                continue
            break
        if answer.code in UNSURE:
            await self._find_how_many(steps)
            return
        self.expect(answer, 200)
        for number, ((operation, change), result) in enumerate(zip(steps, answer.json["results"], strict=True)):
            after, code = self.tree.copy(), ""
            try:
                change(after, result["entry"]["id"] if "entry" in result else f"?{self._number}.{number}")
            except Refusal as refusal:
                code = refusal.code
            problem = result.get("problem", {}).get("code", "")
            if problem in UNDONE:
                continue  # for example, a full disk refuses what needs room, and the next operation needs none
            if problem in UNSURE:
                await self._find_how_many(steps[number:])
                return
            if problem != code or result["status"] != _STATUS.get(code, result["status"]):
                self.fail(f"{operation} in a batch was answered {result}, expected {code or 'success'!r}")
            if not code:
                self.tree = after

    async def _find_how_many(self, steps: list[Step]) -> None:
        """Find out which operations of a batch without an answer have been carried out.

        These are those from the first on, except that a full disk refuses what needs room.
        """
        await asyncio.sleep(SETTLED)
        reached = {"before": self.tree}
        candidates = dict(reached)
        for number, (operation, change) in enumerate(steps):
            before, reached = reached, {}
            for done, tree in before.items():
                after = tree.copy()
                try:
                    change(after, f"?{self._number}.{number}")
                except Refusal:
                    after = tree
                reached[f"{done}, {number}"] = after
                if operation["op"] == "mkdir":
                    reached[f"{done}, not {number}"] = tree
            candidates |= reached
        await self.choose("a batch", candidates)


def _names(results: Any, number: int) -> bool:
    return results is not None and "entry" in results[number]
