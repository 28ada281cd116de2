"""Search over a socket: what a query means, and what is refused."""

from __future__ import annotations

import pytest

from tests.cases import each
from tests.http.client import Person
from tests.http.routes.test_folders import UNKNOWN, folder

pytestmark = pytest.mark.anyio


async def found(ann: Person, **query: str) -> list[str]:
    answer = await ann("GET", "/v1/search", params=query)
    assert answer.status == 200, answer.content
    return [file["name"] for file in answer.json["files"]]


async def test_a_search_finds_by_words_and_filters_and_is_paged(ann: Person) -> None:
    outer = await folder(ann, "letters")
    await ann.upload("letter to bob.txt", parent_id=outer["id"])
    await ann.upload("100% letters.txt")
    assert await found(ann, q="letter") == ["letter to bob.txt", "letters", "100% letters.txt"]
    assert await found(ann, q="BOB letter") == ["letter to bob.txt"]
    assert await found(ann, q="%") == ["100% letters.txt"]
    assert await found(ann, q="letter", **{"in": outer["id"]}) == ["letter to bob.txt"]
    assert await found(ann, q="letter", **{"in": "root"}, type="folder") == ["letters"]
    assert await found(ann, type="text", modified_after="2000-01-01T00:00:00Z", min_size="1") == [
        "100% letters.txt",
        "letter to bob.txt",
    ]
    assert await found(ann, type="text", modified_before="2000-01-01T01:00:00+01:00") == []
    first = (await ann("GET", "/v1/search", params={"q": "letter", "limit": "2"})).json
    rest = (await ann("GET", "/v1/search", params={"q": "letter", "limit": "2", "page": first["next_page"]})).json
    assert [file["name"] for file in first["files"] + rest["files"]] == await found(ann, q="letter")
    assert "next_page" not in rest
    got = (await ann("GET", f"/v1/files/{outer['id']}")).json
    assert first["files"][1] == got


@each("query, field", [
    ({}, "q"),
    ({"q": ""}, "q"),
    ({"q": "  "}, "q"),
    ({"q": "x" * 1001}, "q"),
    ({"q": "a\0"}, "q"),
    ({"q": "a", "type": "application/pdf"}, "type"),
    ({"q": "a", "min_size": "-1"}, "min_size"),
    ({"q": "a", "max_size": "1.5"}, "max_size"),
    ({"q": "a", "min_size": "9" * 18}, None),
    ({"q": "a", "modified_after": "yesterday"}, "modified_after"),
    ({"q": "a", "modified_after": "2026-01-01T00:00:00"}, "modified_after"),
    ({"q": "a", "modified_before": "2026-01-01"}, "modified_before"),
    ({"q": "a", "modified_after": "9999-12-31T23:59:59-01:00"}, "modified_after"),
    ({"q": "a", "limit": "0"}, "limit"),
    ({"q": "a", "page": "x"}, "page"),
    ({"q": "a", "in": "a/b"}, "in"),
    ({"q": "a", "within": "root"}, "within"),
])  # fmt: skip
async def test_a_query_that_means_nothing_is_refused_by_name(
    ann: Person, query: dict[str, str], field: str | None
) -> None:
    answer = await ann("GET", "/v1/search", params=query)
    assert answer.status == (422 if field else 200), answer.content
    assert answer.json.get("field") == field


async def test_a_folder_that_is_not_there_is_named(ann: Person) -> None:
    file = await ann.upload("a.txt")
    for place in (UNKNOWN, file["id"]):
        answer = await ann("GET", "/v1/search", params={"q": "a", "in": place})
        assert (answer.status, answer.json["code"], answer.json["field"]) == (404, "not_found", "in")
