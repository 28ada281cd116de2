"""Batches over a socket: results in order, turns between pieces, keys."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from godrive.errors import StoreUnavailable
from godrive.http.routes import batch
from godrive.http.wire import fair_queue
from godrive.messages.batches import RunBatch
from godrive.messages.system import UsageDrift
from godrive.principal import user_of
from godrive.rules import idempotency
from tests.http.client import Json, Person, Site

pytestmark = pytest.mark.anyio


async def run(ann: Person, *operations: Json, status: int = 200, **options: Any) -> Any:
    answer = await ann("POST", "/v1/batch", {"operations": list(operations), **options})
    assert answer.status == status, answer.content
    return answer.json if status != 200 else answer.json["results"]


async def test_the_field_of_a_problem_is_one_of_its_operation(ann: Person) -> None:
    file = await ann.upload("f")
    await ann("POST", "/v1/folders", {"name": "d"})
    cases: list[tuple[Json, str]] = [
        ({"op": "mkdir", "path": "d"}, "path"),
        ({"op": "mkdir", "path": "d/.."}, "path"),
        ({"op": "mkdir", "path": "f/x", "parents": True}, "path"),
        ({"op": "mkdir", "path": "none/x"}, "path"),
        ({"op": "mkdir", "name": "d"}, "name"),
        ({"op": "mkdir", "name": "x", "parent_path": "none"}, "parent_path"),
        ({"op": "mkdir", "name": "d", "parent_path": ""}, "name"),
        ({"op": "move", "id": file["id"], "parent_path": ".."}, "parent_path"),
        ({"op": "move", "path": "f", "parent_path": "none"}, "parent_path"),
        ({"op": "move", "path": "f", "parent_path": "f", "parents": True}, "parent_path"),
        ({"op": "move", "path": "..", "parent_path": "none"}, "path"),
        ({"op": "move", "path": "f", "parent_path": "/".join("a" * 1025)}, "parent_path"),
        ({"op": "copy", "path": "/".join("a" * 1025), "parent_path": ""}, "path"),
        ({"op": "copy", "path": "f", "parent_path": ""}, "name"),
        ({"op": "rename", "path": "..", "name": "x"}, "path"),
    ]
    for operation, field in cases:
        (result,) = await run(ann, operation)
        assert result["problem"]["field"] == field, operation
        status = result["status"]
        refused = await run(ann, {"op": "mkdir", "name": "new"}, operation, atomic=True, status=status)
        assert refused["field"] == f"operations[1].{field}", operation


async def test_each_operation_has_a_result_in_order(ann: Person, site: Site) -> None:
    a, b, c = [await ann.upload(f"{name}.txt", b"hello") for name in "abc"]
    await ann("DELETE", f"/v1/files/{c['id']}")
    results = await run(
        ann,
        {"op": "mkdir", "name": "new"},
        {"op": "move", "id": a["id"], "parent_path": "new"},
        {"op": "copy", "path": "new/a.txt", "parent_id": "root"},
        {"op": "rename", "id": b["id"], "name": "a.txt"},
        {"op": "rename", "id": b["id"], "name": "a.txt", "on_conflict": "rename", "if_match": b["etag"]},
        {"op": "restore", "id": c["id"]},
        {"op": "trash", "path": "c.txt"},
        {"op": "purge", "id": c["id"]},
        {"op": "purge", "id": c["id"]},
    )
    assert [result["status"] for result in results] == [201, 200, 201, 409, 200, 200, 200, 204, 404]
    names = [result["entry"]["name"] if "entry" in result else None for result in results]
    assert names == ["new", "a.txt", "a.txt", None, "a (1).txt", "c.txt", "c.txt", None, None]
    taken = results[3]["problem"]
    assert (taken["code"], taken["status"], taken["field"]) == ("name_taken", 409, "name")
    assert taken["request_id"]
    assert results[6]["entry"]["trashed_at"] is not None
    assert results[1]["entry"] == (await ann("GET", f"/v1/files/{a['id']}")).json
    assert not await site.drive.metadata.ask(UsageDrift())
    assert await run(ann) == []


async def test_an_atomic_batch_answers_with_the_problem_of_its_first_failure(ann: Person) -> None:
    file = await ann.upload("a.txt")
    steps: list[Json] = [{"op": "mkdir", "name": "new"}, {"op": "rename", "id": file["id"], "name": "new"}]
    refused = await run(ann, *steps, {"op": "trash", "id": file["id"]}, atomic=True, status=409)
    assert (refused["code"], refused["field"]) == ("name_taken", "operations[1].name")
    assert [f["name"] for f in (await ann("GET", "/v1/files?parent_id=root")).json["files"]] == ["a.txt"]
    steps[1]["name"] = "b.txt"
    assert [result["status"] for result in await run(ann, *steps, atomic=True)] == [201, 200]


async def test_what_cannot_be_an_operation_is_refused_before_any_is_carried_out(ann: Person) -> None:
    file = await ann.upload("a.txt")
    mkdir = {"op": "mkdir", "name": "new"}
    for operation, field in (
        ({"op": "delete", "id": file["id"]}, "operations[1].op"),
        ({"id": file["id"]}, "operations[1].op"),
        ({"op": "trash"}, "operations[1].id"),
        ({"op": "trash", "id": file["id"], "path": "a.txt"}, "operations[1].path"),
        ({"op": "trash", "id": "../x"}, "operations[1].id"),
        ({"op": "trash", "id": file["id"], "name": "b"}, "operations[1].name"),
        ({"op": "restore", "path": "a.txt"}, "operations[1].path"),
        ({"op": "rename", "id": file["id"]}, "operations[1].name"),
        ({"op": "move", "id": file["id"]}, "operations[1].parent_id"),
        ({"op": "move", "id": file["id"], "parent_id": "root", "parent_path": ""}, "operations[1].parent_path"),
        ({"op": "copy", "id": file["id"], "on_conflict": "merge"}, "operations[1].on_conflict"),
        ({"op": "mkdir", "name": 1}, "operations[1].name"),
        ({"op": "mkdir"}, "operations[1].name"),
        ({"op": "mkdir", "path": "a", "parent_id": "root"}, "operations[1].parent_id"),
    ):
        refused = await run(ann, mkdir, operation, status=422)
        assert (refused["code"], refused["field"]) == ("invalid", field), operation
    too_many = await run(ann, *[mkdir] * (batch.MOST_OPERATIONS + 1), status=422)
    assert too_many["field"] == "operations"
    assert [f["name"] for f in (await ann("GET", "/v1/files?parent_id=root")).json["files"]] == ["a.txt"]


async def test_a_path_in_a_batch_has_names_between_slashes(ann: Person) -> None:
    for path, without, with_parents in (
        ("ä%2F b/new", 404, 201),
        ("a//b", 422, 422),
        ("/a", 422, 422),
        ("a/", 404, 201),
        ("..", 422, 422),
        ("a/./b", 422, 422),
        ("", 201, 409),
    ):
        for parents, status in ((False, without), (True, with_parents)):
            (result,) = await run(ann, {"op": "mkdir", "name": "x", "parent_path": path, "parents": parents})
            assert result["status"] == status, (path, parents, result)
    renamed, root = await run(ann, {"op": "rename", "path": "ä%2F b/new/x", "name": "y"}, {"op": "trash", "path": ""})
    assert renamed["entry"]["name"] == "y"
    made, missing, root_ = await run(
        ann,
        {"op": "mkdir", "path": "p/q/r", "parents": True},
        {"op": "mkdir", "path": "s/t"},
        {"op": "mkdir", "path": ""},
    )
    assert (made["status"], made["entry"]["name"], missing["status"], root_["status"]) == (201, "r", 404, 422)
    (moved,) = await run(ann, {"op": "move", "path": "p/q/r", "parent_path": "a/b", "parents": True})
    assert (moved["status"], moved["entry"]["name"]) == (200, "r")
    assert root["status"] == 403


async def test_a_thousand_operations_give_a_thousand_results(ann: Person, site: Site) -> None:
    steps: list[Json] = []
    for number in range(500):
        steps += [
            {"op": "mkdir", "name": f"{number}"},
            {"op": "rename", "path": f"{number}", "name": f"renamed {number}"},
        ]
    results = await run(ann, *steps)
    assert [result["status"] for result in results] == [201, 200] * 500
    assert results[-1]["entry"]["name"] == "renamed 499"
    answer = await ann(
        "POST",
        "/v1/batch",
        {"operations": [{"op": "trash", "path": f"renamed {n}"} for n in range(500)], "atomic": True},
    )
    assert answer.status == 200, answer.content
    assert (await ann("GET", "/v1/files?parent_id=root")).json["files"] == []
    assert not await site.drive.metadata.ask(UsageDrift())


async def test_the_answer_to_a_long_batch_comes_again_by_its_key(ann: Person) -> None:
    steps = [{"op": "mkdir", "name": f"{number}" * 60} for number in range(100, 200)]
    first, again = [
        await ann("POST", "/v1/batch", {"operations": steps}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert len(first.content) > idempotency.LARGE
    assert (again.status, again.content) == (200, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_batch_waits_for_a_turn_before_each_piece_and_holds_none_between(
    ann: Person, bob: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "BATCHES", 2)
    metadata, reached, go = site.drive.metadata, anyio.Event(), anyio.Event()
    running = most = 0

    class Slow:
        """The metadata actor, which begins a piece of Ann's batches only once it is let go."""

        async def ask(self, message: Any, **options: Any) -> Any:
            nonlocal running, most
            if isinstance(message, RunBatch) and user_of(message.by) == ann_id:
                running += 1
                most = max(most, running)
                reached.set()
                await go.wait()
                running -= 1
            return await metadata.ask(message, **options)

    ann_id = (await ann("GET", "/v1/me")).json["id"]
    site.drive.metadata = Slow()
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(run, ann, {"op": "mkdir", "name": f"{number}"})
        await reached.wait()
        assert (await run(bob, {"op": "mkdir", "name": "bob's"}))[0]["status"] == 201
        assert (await ann("POST", "/v1/folders", {"name": "beside"})).status == 201
        assert most <= fair_queue.BATCHES
        go.set()
    site.drive.metadata = metadata
    assert len((await ann("GET", "/v1/files?parent_id=root")).json["files"]) == 7


async def test_when_the_database_goes_down_the_rest_of_a_batch_says_so(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata, pieces = site.drive.metadata, 0

    class Failing:
        """The metadata actor, whose database goes down after a piece."""

        async def ask(self, message: Any, **options: Any) -> Any:
            nonlocal pieces
            if isinstance(message, RunBatch):
                pieces += 1
                if pieces > 1:
                    raise StoreUnavailable("The database is down.")
            return await metadata.ask(message, **options)

    monkeypatch.setattr(batch, "_PIECE", 2)
    site.drive.metadata = Failing()
    steps = [{"op": "mkdir", "name": f"{number}"} for number in range(5)]
    results = await run(ann, *steps)
    assert [result["status"] for result in results] == [201, 201, 503, 503, 503]
    assert pieces == 2
    refused = await ann("POST", "/v1/batch", {"operations": steps})
    assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
    site.drive.metadata = metadata
