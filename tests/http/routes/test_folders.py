"""Folders over a socket: places that are listed, and trees that go into the trash and come back as one."""

from __future__ import annotations

import pytest

from godrive.messages.system import SettleTrash
from tests.http.client import Json, Person, Site

pytestmark = pytest.mark.anyio

UNKNOWN = "00000000-0000-7000-8000-000000000000"


async def folder(ann: Person, name: str, parent_id: str | None = None) -> Json:
    answer = await ann("POST", "/v1/folders", {"name": name, "parent_id": parent_id})
    assert answer.status == 201, answer.content
    made: Json = answer.json
    assert answer.headers["Location"].endswith(f"/v1/files/{made['id']}")
    return made


async def listed(ann: Person, **query: str) -> set[str]:
    answer = await ann("GET", "/v1/files", params=query)
    assert answer.status == 200, answer.content
    return {file["name"] for file in answer.json["files"]}


async def settle(site: Site) -> None:
    while await site.drive.metadata.ask(SettleTrash(2)):
        """More to do."""


async def test_a_folder_is_listed_in_its_place_and_not_among_all_files(ann: Person) -> None:
    outer = await folder(ann, "outer")
    inner = await folder(ann, "inner", outer["id"])
    await ann.upload("top.txt")
    await ann.upload("deep.txt", parent_id=inner["id"])
    assert (outer["kind"], outer["parent_id"], inner["parent_id"]) == ("folder", None, outer["id"])
    assert await listed(ann, parent_id="root") == {"outer", "top.txt"}
    assert await listed(ann, parent_id=outer["id"]) == {"inner"}
    assert await listed(ann, parent_id=inner["id"]) == {"deep.txt"}
    assert await listed(ann) == {"top.txt", "deep.txt"}


async def test_a_name_is_taken_once_in_a_folder_by_file_or_folder(ann: Person) -> None:
    outer = await folder(ann, "outer")
    await ann.upload("name", parent_id=outer["id"])
    for body, status in (
        ({"name": "name", "parent_id": outer["id"]}, 409),
        ({"name": "outer"}, 409),
        ({"name": "outer", "parent_id": "root"}, 409),
        ({"name": "a/b"}, 422),
        ({"name": "new", "parent_id": UNKNOWN}, 404),
        ({"name": "name"}, 201),
    ):
        assert (await ann("POST", "/v1/folders", body)).status == status, body


async def test_a_file_is_no_folder(ann: Person) -> None:
    file = await ann.upload("a.txt")
    assert (await ann("POST", "/v1/folders", {"name": "x", "parent_id": file["id"]})).status == 404
    assert (await ann("GET", "/v1/files", params={"parent_id": file["id"]})).status == 404


async def test_a_trashed_tree_is_nowhere_at_once_and_comes_back_as_it_was(ann: Person, site: Site) -> None:
    outer = await folder(ann, "outer")
    inner = await folder(ann, "inner", outer["id"])
    deep = await ann.upload("deep.txt", b"hello", parent_id=inner["id"])
    await ann.upload("top.txt")
    url = (await ann("GET", f"/v1/files/{deep['id']}/download")).json["url"]
    assert (await ann("GET", url)).content == b"hello"
    tag = (await ann("GET", "/v1/files")).headers["ETag"]

    assert (await ann("DELETE", f"/v1/files/{outer['id']}")).status == 200
    for settled in (False, True):
        if settled:
            await settle(site)
        assert await listed(ann) == {"top.txt"}
        assert await listed(ann, q="deep") == set()
        assert await listed(ann, parent_id="root") == {"top.txt"}
        for gone in (outer, inner):
            assert (await ann("GET", "/v1/files", params={"parent_id": gone["id"]})).status == 404
        for entry in (outer, inner, deep):
            assert (await ann("GET", f"/v1/files/{entry['id']}")).status == 404
            assert (await ann("PATCH", f"/v1/files/{entry['id']}", {"name": "new"})).status == 404
        assert (await ann("GET", f"/v1/files/{deep['id']}/download")).status == 404
        assert (await ann("GET", url)).status == 404
        assert (await ann("POST", f"/v1/files/{deep['id']}/restore")).status == 404
        assert (await ann("POST", "/v1/folders", {"name": "x", "parent_id": inner["id"]})).status == 404
        assert [entry["name"] for entry in (await ann("GET", "/v1/trash")).json["files"]] == ["outer"]
        assert (await ann("GET", "/v1/files", headers={"If-None-Match": tag})).status == 200
        usage = (await ann("GET", "/v1/me")).json["usage"]
        assert usage["used_bytes"] == 10
        if settled:
            assert (usage["live_bytes"], usage["trash_bytes"]) == (5, 5)

    assert (await ann("POST", f"/v1/files/{outer['id']}/restore")).status == 200
    assert (await ann("GET", f"/v1/files/{deep['id']}")).status == 200
    assert (await ann("GET", url)).content == b"hello"
    assert await listed(ann, parent_id=inner["id"]) == {"deep.txt"}
    await settle(site)
    assert await listed(ann) == {"top.txt", "deep.txt"}
    usage = (await ann("GET", "/v1/me")).json["usage"]
    assert (usage["live_bytes"], usage["trash_bytes"]) == (10, 0)


async def test_an_upload_into_a_folder_that_was_trashed_meanwhile_is_gone(ann: Person) -> None:
    place = await folder(ann, "place")
    body = {"filename": "a.txt", "mime": "text/plain", "size_bytes": 5, "parent_id": place["id"]}
    intent = (await ann("POST", "/v1/files/upload-intent", body)).json
    await ann("DELETE", f"/v1/files/{place['id']}")
    sent = await ann("PUT", intent["upload_url"], data=b"hello", headers=intent["headers"])
    assert (sent.status, sent.json["code"]) == (410, "gone")
    assert (await ann("POST", "/v1/files/upload-intent", body)).status == 404


async def test_a_folder_of_another_user_is_not_found_and_takes_nothing(ann: Person, stranger: Person) -> None:
    hers = await folder(ann, "hers")
    bob = await stranger.enter("bob@example.org")
    body = {"filename": "a.txt", "mime": "text/plain", "size_bytes": 5, "parent_id": hers["id"]}
    assert (await bob("GET", "/v1/files", params={"parent_id": hers["id"]})).status == 404
    assert (await bob("POST", "/v1/folders", {"name": "x", "parent_id": hers["id"]})).status == 404
    assert (await bob("POST", "/v1/files/upload-intent", body)).status == 404


async def test_a_validator_of_one_user_never_fits_another(ann: Person, stranger: Person) -> None:
    """A browser that two people share revalidates Bob's list with Ann's tag."""
    await ann.upload("hers.txt")
    bob = await stranger.enter("bob@example.org")
    await bob.upload("his.txt")
    for query in ({}, {"parent_id": "root"}):
        answer = await ann("GET", "/v1/files", params=query)
        again = await bob("GET", "/v1/files", params=query, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, [file["name"] for file in again.json["files"]]) == (200, ["his.txt"])
        assert "authorization" in answer.headers["Vary"].lower()
        same = await ann("GET", "/v1/files", params=query, headers={"If-None-Match": answer.headers["ETag"]})
        assert same.status == 304


async def test_a_folder_is_made_by_path(ann: Person) -> None:
    missing = await ann("POST", "/v1/folders", {"path": "a/b/c"})
    assert (missing.status, missing.json["field"]) == (404, "path")
    made = await ann("POST", "/v1/folders", {"path": "a/b/c/", "parents": True})
    assert (made.status, made.json["name"], made.json["path"]) == (201, "c", "a/b/c")
    assert made.headers["Location"].endswith(f"/v1/files/{made.json['id']}")
    taken = await ann("POST", "/v1/folders", {"path": "a/b/c", "parents": True})
    assert (taken.status, taken.json["code"]) == (409, "name_taken")
    beside = await ann("POST", "/v1/folders", {"path": "a/b/d"})
    assert (beside.status, beside.json["parent_id"]) == (201, made.json["parent_id"])


async def test_a_folder_that_exists_is_fine_if_the_client_says_so(ann: Person) -> None:
    for body in ({"name": "a"}, {"path": "b/c", "parents": True}):
        made = await ann("POST", "/v1/folders", {**body, "exist_ok": True})
        again = await ann("POST", "/v1/folders", {**body, "exist_ok": True})
        assert (made.status, again.status) == (201, 200)
        assert again.json == made.json
        assert again.headers["ETag"] == made.headers["ETag"]
        assert "Location" not in again.headers
    await ann.upload("file")
    for body in ({"name": "file"}, {"path": "file"}, {"path": "file/a", "parents": True}):
        refused = await ann("POST", "/v1/folders", {**body, "exist_ok": True})
        assert (refused.status, refused.json["code"]) == (409, "name_taken")


async def test_a_body_that_names_no_folder_is_refused(ann: Person) -> None:
    for body, field in (
        ({}, "name"),
        ({"parent_id": "root"}, "name"),
        ({"path": "a", "name": "b"}, "name"),
        ({"path": "a", "parent_id": "root"}, "parent_id"),
        ({"path": ""}, "path"),
        ({"path": "/"}, "path"),
        ({"path": "/a"}, "path"),
        ({"path": "a//b"}, "path"),
        ({"path": "../a"}, "path"),
        ({"path": "a/.."}, "path"),
        ({"path": "a" * 8191}, "path"),
        ({"path": "/".join("a" * 1025), "parents": True}, "path"),
    ):
        answer = await ann("POST", "/v1/folders", body)
        assert (answer.status, answer.json["field"]) == (422, field), body


async def test_a_folder_is_listed_by_size_and_time_and_with_its_folders_first(ann: Person) -> None:
    outer = await folder(ann, "outer")
    for name, size, day in (("b", 2, 3), ("c", 1, 1), ("a", 3, 2)):
        file = await ann.upload(name, b"x" * size, parent_id=outer["id"])
        await ann("PATCH", f"/v1/files/{file['id']}", {"modified_at": f"2001-01-0{day}T00:00:00Z"})
    await folder(ann, "d", outer["id"])

    async def names(path: str, **query: str) -> str:
        answer = await ann("GET", path, params=query)
        assert answer.status == 200, answer.content
        return "".join(file["name"] for file in answer.json["files"])

    for path in (f"/v1/files?parent_id={outer['id']}", f"/v1/files/{outer['id']}/children", "/v1/files/by-path/outer"):
        more = {"children": "true"} if "by-path" in path else {}
        assert await names(path, sort="size", **more) == "dcba"
        assert await names(path, sort="-size", **more) == "abcd"
        assert await names(path, sort="modified_at", **more) == "cabd"
        assert await names(path, sort="-modified_at", folders_first="true", **more) == "dbac"
        assert await names(path, sort="name", folders_first="true", **more) == "dabc"
    refused = await ann("GET", "/v1/files?sort=size")
    assert (refused.status, refused.json["field"]) == (422, "sort")


async def test_an_error_about_a_path_names_the_path(ann: Person) -> None:
    await ann("POST", "/v1/folders", {"name": "taken"})
    for path in ("taken", "taken/..", "/", "x/" + "y" * 256):
        answer = await ann("POST", "/v1/folders", {"path": path, "parents": True})
        assert answer.status in (409, 422)
        assert answer.json["field"] == "path", path
