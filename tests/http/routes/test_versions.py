"""Versions over a socket."""

from __future__ import annotations

import pytest

from godrive.messages.janitor import Sweep
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio


async def test_versions_are_listed_by_page_and_say_which_is_current(ann: Person) -> None:
    for content in (b"a", b"bb", b"ccc"):
        file = await ann.upload("a.txt", content, on_conflict="replace")
    path = f"/v1/files/{file['id']}/versions"
    first = (await ann("GET", path, params={"limit": 2})).json
    assert [(v["size_bytes"], v["current"]) for v in first["versions"]] == [(3, True), (2, False)]
    assert first["versions"][0].keys() == {
        *("id", "file_id", "current", "name", "mime", "size_bytes", "sha256"),
        *("created_at", "modified_at", "replaced_at"),
    }
    rest = (await ann("GET", path, params={"page": first["next_page"]})).json
    assert [v["size_bytes"] for v in rest["versions"]] == [1]
    assert "next_page" not in rest
    for limit in (0, 1001):
        assert (await ann("GET", path, params={"limit": limit})).json["field"] == "limit"


async def test_the_bytes_of_an_earlier_version_have_a_url(ann: Person, stranger: Person) -> None:
    old = await ann.upload("a.txt", b"old")
    new = await ann.upload("a.txt", b"newer", on_conflict="replace")
    path = f"/v1/files/{old['id']}/download"
    for version, content in ((old["version_id"], b"old"), (new["version_id"], b"newer")):
        link = (await ann("GET", path, params={"version_id": version})).json
        answer = await stranger("GET", link["url"])
        assert answer.content == content
        assert answer.headers["ETag"] == f'"{version}"'
    assert (await ann("GET", path, params={"version_id": "other"})).status == 404


async def test_the_bytes_of_a_version_are_read_with_a_token(ann: Person, bob: Person) -> None:
    old = await ann.upload("a.txt", b"old")
    new = await ann.upload("a.txt", b"newer", on_conflict="replace")
    path = f"/v1/files/{old['id']}/versions"
    answer = await ann("GET", f"{path}/{old['version_id']}/content")
    assert (answer.status, answer.content) == (200, b"old")
    assert answer.headers["ETag"] == f'"{old["version_id"]}"'
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a.txt"'
    part = await ann("GET", f"{path}/{new['version_id']}/content", headers={"Range": "bytes=1-2"})
    assert (part.status, part.content) == (206, b"ew")
    known = await ann("GET", f"{path}/{old['version_id']}/content", headers={"If-None-Match": answer.headers["ETag"]})
    assert known.status == 304
    assert (await bob("GET", f"{path}/{old['version_id']}/content")).status == 404


async def test_a_version_comes_back_as_a_new_one(ann: Person) -> None:
    old = await ann.upload("a.txt", b"old")
    await ann.upload("a.txt", b"newer", on_conflict="replace")
    path = f"/v1/files/{old['id']}/versions"
    stale = await ann("POST", f"{path}/{old['version_id']}/restore", headers={"If-Match": '"other"'})
    assert stale.json["code"] == "precondition_failed"
    restored = await ann("POST", f"{path}/{old['version_id']}/restore")
    assert (restored.status, restored.json["size_bytes"]) == (200, 3)
    assert restored.headers["ETag"] == (await ann("GET", f"/v1/files/{old['id']}")).headers["ETag"]
    assert [v["size_bytes"] for v in (await ann("GET", path)).json["versions"]] == [3, 5, 3]
    usage = (await ann("GET", "/v1/me")).json["usage"]
    assert (usage["live_bytes"], usage["version_bytes"]) == (3, 8)


async def test_a_version_is_named_and_deleted(ann: Person, site: Site) -> None:
    old = await ann.upload("a.txt", b"old")
    new = await ann.upload("a.txt", b"newer", on_conflict="replace")
    path = f"/v1/files/{old['id']}/versions"
    for name in ("first draft", None):
        named = await ann("PATCH", f"{path}/{old['version_id']}", {"name": name})
        assert (named.status, named.json["name"]) == (200, name)
    for body in ({}, {"name": ""}, {"name": "x" * 256}, {"name": "a\nb"}, {"name": 5}):
        refused = await ann("PATCH", f"{path}/{old['version_id']}", body)
        assert (refused.status, refused.json["field"]) == (422, "name")
    current = await ann("DELETE", f"{path}/{new['version_id']}")
    assert (current.status, current.json["code"]) == (409, "conflict")
    assert (await ann("DELETE", f"{path}/{old['version_id']}")).status == 204
    assert (await ann("DELETE", f"{path}/{old['version_id']}")).status == 404
    assert len((await ann("GET", path)).json["versions"]) == 1
    assert (await ann("GET", "/v1/me")).json["usage"]["version_bytes"] == 3
    assert (await site.drive.janitor.ask(Sweep())).versions == 1
    assert (await ann("GET", "/v1/me")).json["usage"]["version_bytes"] == 0
