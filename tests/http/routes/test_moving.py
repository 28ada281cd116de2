"""Moving entries between folders, over a socket."""

from __future__ import annotations

import pytest

from godrive.messages.system import SettleTrash, UsageDrift
from tests.http.client import Person, Site
from tests.http.routes.test_folders import UNKNOWN, folder, listed, settle

pytestmark = pytest.mark.anyio


async def test_an_entry_moves_with_all_that_is_in_it_and_keeps_its_id(ann: Person) -> None:
    source, target = await folder(ann, "source"), await folder(ann, "target")
    inner = await folder(ann, "inner", source["id"])
    deep = await ann.upload("deep.txt", parent_id=inner["id"])
    moved = await ann("PATCH", f"/v1/files/{inner['id']}", {"parent_id": target["id"]})
    assert moved.status == 200
    assert (moved.json["id"], moved.json["parent_id"], moved.json["name"]) == (inner["id"], target["id"], "inner")
    assert moved.headers["ETag"] != inner["id"]
    assert await listed(ann, parent_id=source["id"]) == set()
    assert await listed(ann, parent_id=target["id"]) == {"inner"}
    assert await listed(ann, parent_id=inner["id"]) == {"deep.txt"}
    assert (await ann("GET", f"/v1/files/{deep['id']}")).json == deep


@pytest.mark.parametrize("root", [None, "root"])
async def test_an_entry_moves_to_the_root_and_is_renamed_in_one_go(ann: Person, root: str | None) -> None:
    source = await folder(ann, "source")
    file = await ann.upload("a.txt", parent_id=source["id"])
    moved = await ann("PATCH", f"/v1/files/{file['id']}", {"parent_id": root, "name": "b.txt"})
    assert (moved.status, moved.json["parent_id"], moved.json["name"]) == (200, None, "b.txt")
    again = await ann("PATCH", f"/v1/files/{file['id']}", {"parent_id": root, "name": "b.txt"})
    assert again.json == moved.json


async def test_a_folder_never_lies_in_itself(ann: Person) -> None:
    outer = await folder(ann, "outer")
    inner = await folder(ann, "inner", outer["id"])
    for target in (outer, inner):
        answer = await ann("PATCH", f"/v1/files/{outer['id']}", {"parent_id": target["id"]})
        assert (answer.status, answer.json["code"], answer.json["field"]) == (409, "cycle", "parent_id")
    assert await listed(ann, parent_id="root") == {"outer"}


async def test_a_taken_name_is_refused_or_numbered(ann: Person) -> None:
    target = await folder(ann, "target")
    await ann.upload("a.txt", parent_id=target["id"])
    file = await ann.upload("a.txt")
    body = {"parent_id": target["id"]}
    assert (await ann("PATCH", f"/v1/files/{file['id']}", body)).json["code"] == "name_taken"
    moved = await ann("PATCH", f"/v1/files/{file['id']}", {**body, "on_conflict": "rename"})
    assert (moved.status, moved.json["name"]) == (200, "a (1).txt")
    renamed = await ann("PATCH", f"/v1/files/{file['id']}", {"name": "a.txt", "on_conflict": "rename"})
    assert (renamed.status, renamed.json["name"]) == (200, "a (1).txt")


async def test_what_is_no_place_or_no_change_is_refused(ann: Person, stranger: Person) -> None:
    file, other = await ann.upload("a.txt"), await ann.upload("b.txt")
    bob = await stranger.enter("bob@example.org")
    his = await folder(bob, "his")
    trashed = await folder(ann, "trashed")
    await ann("DELETE", f"/v1/files/{trashed['id']}")
    for parent_id in (UNKNOWN, other["id"], his["id"], trashed["id"]):
        answer = await ann("PATCH", f"/v1/files/{file['id']}", {"parent_id": parent_id})
        assert (answer.status, answer.json["field"]) == (404, "parent_id")
    assert (await bob("PATCH", f"/v1/files/{file['id']}", {"parent_id": his["id"]})).status == 404
    assert (await ann("PATCH", f"/v1/files/{file['id']}", {})).status == 422
    stale = await ann("PATCH", f"/v1/files/{file['id']}", {"parent_id": None, "name": "c"}, headers={"If-Match": '"x"'})
    assert stale.status == 412


async def test_what_moves_out_of_a_folder_that_is_not_settled_is_listed_and_counted(ann: Person, site: Site) -> None:
    outer = await folder(ann, "outer")
    inner = await folder(ann, "inner", outer["id"])
    file = await ann.upload("a.txt", b"hello", parent_id=outer["id"])
    await ann.upload("deep.txt", b"hello", parent_id=inner["id"])
    await ann("DELETE", f"/v1/files/{outer['id']}")
    await settle(site)
    await ann("POST", f"/v1/files/{outer['id']}/restore")
    for entry in (file, inner):
        assert (await ann("PATCH", f"/v1/files/{entry['id']}", {"parent_id": None})).status == 200
    assert "a.txt" in await listed(ann)
    while await site.drive.metadata.ask(SettleTrash(1)):
        assert not await site.drive.metadata.ask(UsageDrift())
    assert await listed(ann) == {"a.txt", "deep.txt"}
    usage = (await ann("GET", "/v1/me")).json["usage"]
    assert (usage["live_bytes"], usage["trash_bytes"]) == (10, 0)
