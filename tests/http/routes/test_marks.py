"""Properties and favorites over a socket."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cases import each
from tests.http.client import Person

pytestmark = pytest.mark.anyio

REFUSED: dict[str, Any] = {
    "nothing": {},
    "only a policy": {"on_conflict": "rename"},
    "a list": {"properties": {"a": [1]}},
    "an object": {"properties": {"a": {"b": 1}}},
    "no object": {"properties": "a"},
    "a key with a slash": {"properties": {"a/b": 1}},
    "no mark": {"favorite": None},
    "a huge number": {"properties": {"a": 1e300}},
}
QUERIES = {
    "no key": {},
    "a bad key": {"key": "a b"},
    "text that is not JSON": {"key": "a", "value": "draft"},
    "null": {"key": "a", "value": "null"},
    "a list": {"key": "a", "value": "[1]"},
    "a page of another list": {"key": "a", "page": "x"},
}


async def test_a_file_keeps_what_a_client_sets_and_is_found_by_it(ann: Person, bob: Person) -> None:
    file = await ann.upload("a.txt")
    body = {"name": "b.txt", "favorite": True, "properties": {"color": "bl\u00fc", "n": 1, "gone": None}}
    answer = await ann("PATCH", f"/v1/files/{file['id']}", body)
    assert answer.status == 200, answer.content
    assert answer.json["properties"] == {"color": "bl\u00fc", "n": 1}
    for path, query in (
        ("/v1/favorites", {}),
        ("/v1/properties", {"key": "n"}),
        ("/v1/properties", {"key": "n", "value": "1.0"}),
        ("/v1/properties", {"key": "color", "value": '"bl\\u00fc"'}),
    ):
        found = await ann("GET", path, params=query)
        assert [entry["name"] for entry in found.json["files"]] == ["b.txt"], (path, query)
        assert (await bob("GET", path, params=query)).json == {"files": []}
    assert (await ann("GET", "/v1/properties", params={"key": "n", "value": '"1"'})).json == {"files": []}
    listed = (await ann("GET", "/v1/files")).json["files"]
    assert [entry["favorite"] for entry in listed] == [True]


@each("kind", REFUSED)
async def test_what_is_neither_a_mark_nor_a_property_is_refused(ann: Person, kind: str) -> None:
    file = await ann.upload(kind)
    answer = await ann("PATCH", f"/v1/files/{file['id']}", REFUSED[kind])
    assert (answer.status, answer.json["code"]) == (422, "invalid"), answer.content
    assert (await ann("GET", f"/v1/files/{file['id']}")).json == file


@each("kind", QUERIES)
async def test_a_query_that_can_find_nothing_is_refused(ann: Person, kind: str) -> None:
    answer = await ann("GET", "/v1/properties", params=QUERIES[kind])
    assert (answer.status, answer.json["code"]) == (422, "invalid"), answer.content


@each(
    ("query", "field"),
    [
        ({"key": "a b"}, "key"),
        ({"key": "a", "value": str(2**63)}, "value"),
        ({"key": "a", "value": '"\\u0000"'}, "value"),
    ],
)
async def test_a_refusal_of_a_query_names_its_parameter(ann: Person, query: dict[str, str], field: str) -> None:
    answer = await ann("GET", "/v1/properties", params=query)
    assert (answer.status, answer.json["field"]) == (422, field)
