"""Lists that are sent again: always what a fresh read would give."""

from __future__ import annotations

from typing import Any

import pytest

from godrive.http.api.page_cache import LARGEST, MOST, PageCache
from godrive.model import ETag
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio


async def test_every_change_of_what_a_list_shows_is_seen_by_the_next_request(ann: Person, site: Site) -> None:
    async def names() -> list[str]:
        for _ in range(2):
            listed = [file["name"] for file in (await ann("GET", "/v1/files?sort=name")).json["files"]]
        return listed

    assert await names() == []
    file = await ann.upload("a.txt")
    assert await names() == ["a.txt"]
    await ann("PATCH", f"/v1/files/{file['id']}", {"name": "b.txt"})
    assert await names() == ["b.txt"]
    await ann("DELETE", f"/v1/files/{file['id']}")
    assert await names() == []
    await ann("POST", f"/v1/files/{file['id']}/restore")
    assert await names() == ["b.txt"]
    await ann.upload("c.txt", b"")
    assert await names() == ["b.txt", "c.txt"]


async def test_an_unchanged_list_is_not_sent_again_and_a_changed_one_is(ann: Person) -> None:
    first = await ann("GET", "/v1/files")
    known = {"If-None-Match": first.headers["ETag"]}
    same = await ann("GET", "/v1/files", headers=known)
    assert (same.status, same.content) == (304, b"")
    await ann.upload("a.txt")
    changed = await ann("GET", "/v1/files", headers=known)
    assert (changed.status, len(changed.json["files"])) == (200, 1)
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_a_list_that_cannot_be_had_is_never_unchanged(ann: Person) -> None:
    folder, trashed = [(await ann("POST", "/v1/folders", {"name": name})).json["id"] for name in ("a", "b")]
    await ann.upload("a.txt")
    await ann.upload("b.txt")
    await ann("DELETE", f"/v1/files/{trashed}")
    other = (await ann("GET", "/v1/files?limit=1")).json["next_page"]
    tag = (await ann("GET", "/v1/files")).headers["ETag"]
    for query in ("page=x", "sort=size", f"parent_id={trashed}", f"parent_id={folder}&page={other}", "prefix=%00"):
        for limit in (1, 1000):
            path = f"/v1/files?{query}&limit={limit}"
            fresh = await ann("GET", path)
            assert fresh.status in (404, 422), path
            for known in ("*", tag):
                again = await ann("GET", path, headers={"If-None-Match": known})
                assert again.status == fresh.status, (path, known)


async def test_the_tag_of_a_list_is_of_its_owner_and_of_this_catalog(
    ann: Person, bob: Person, http: Any, open_site: Any
) -> None:
    mine = await ann("GET", "/v1/files")
    theirs = await bob("GET", "/v1/files", headers={"If-None-Match": mine.headers["ETag"]})
    assert (theirs.status, theirs.json) == (200, {"files": []})
    assert theirs.headers["ETag"] != mine.headers["ETag"]
    for answer in (mine, theirs, await ann("GET", "/v1/files", headers={"If-None-Match": mine.headers["ETag"]})):
        assert answer.headers["Vary"] == "Authorization"
    async with open_site() as other:
        elsewhere = await Person(http, other.url).enter()
        assert (await elsewhere("GET", "/v1/files")).headers["ETag"] != mine.headers["ETag"]


async def test_what_does_not_change_the_list_leaves_its_tag(ann: Person, bob: Person) -> None:
    file = await ann.upload("a.txt")
    tag = (await ann("GET", "/v1/files")).headers["ETag"]
    await bob.upload("b.txt")
    await ann("GET", f"/v1/files/{file['id']}/download")
    await ann("POST", "/v1/files/upload-intent", {"filename": "c.txt", "size_bytes": 1})
    assert (await ann("GET", "/v1/files")).headers["ETag"] == tag


async def test_pages_are_kept_apart_by_owner_path_and_query(ann: Person, bob: Person) -> None:
    for number in range(3):
        await ann.upload(f"{number}.txt", b"")
        await bob.upload(f"{number}.txt", b"")
    for _ in range(2):
        mine = (await ann("GET", "/v1/files?limit=2")).json
        assert [file["owner_id"] for file in mine["files"]] == [(await ann("GET", "/v1/me")).json["id"]] * 2
        theirs = (await bob("GET", "/v1/files?limit=2")).json
        assert {file["id"] for file in mine["files"]}.isdisjoint(file["id"] for file in theirs["files"])
        rest = (await ann("GET", "/v1/files", params={"limit": 2, "page": mine["next_page"]})).json
        assert len(rest["files"]) == 1
        assert len((await ann("GET", "/v1/files?limit=3")).json["files"]) == 3
        assert len((await ann("GET", "/v1/files?q=1")).json["files"]) == 1


async def test_an_unchanged_list_is_read_once(ann: Person, site: Site) -> None:
    metadata = site.drive.metadata
    replies: list[Any] = []

    class Watched:
        async def ask(self, message: Any, **options: Any) -> Any:
            replies.append(await metadata.ask(message, **options))
            return replies[-1]

    site.drive.metadata = Watched()
    for _ in range(3):
        assert (await ann("GET", "/v1/files")).status == 200
    assert [reply.page is not None for reply in replies] == [True, False, False]


def test_only_the_last_page_is_kept_with_its_tag() -> None:
    pages = PageCache()
    pages.put("a", ETag("1"), b"one")
    assert pages.get("a") == ("1", b"one")
    assert pages.get("b") is None
    pages.put("a", ETag("2"), b"two")
    assert pages.get("a") == ("2", b"two")


def test_the_pages_unused_for_longest_go_first_and_large_ones_are_not_kept() -> None:
    pages = PageCache(capacity=10)
    pages.put("a", ETag("1"), b"12345")
    pages.put("b", ETag("1"), b"12345")
    assert pages.get("a")
    pages.put("c", ETag("1"), b"12345")
    assert [request for request in "abc" if pages.get(request)] == ["a", "c"]
    for _ in range(100):
        pages.put("a", ETag("1"), b"12345")
    assert [request for request in "abc" if pages.get(request)] == ["a", "c"]
    large = PageCache()
    large.put("a", ETag("1"), b"x" * (LARGEST + 1))
    assert large.get("a") is None


def test_there_are_not_more_pages_the_smaller_they_are() -> None:
    pages = PageCache()
    for number in range(MOST + 1):
        pages.put(number, ETag("1"), b"{}")
    assert pages.get(0) is None
    assert all(pages.get(number) for number in range(1, MOST + 1))
