"""Bodies as editors and clients write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from godrive.http.app import OPERATIONS
from tests.http.client import Person

pytestmark = pytest.mark.anyio

BOM = b"\xef\xbb\xbf"
JSON = {"Content-Type": "application/json"}
ACCOUNT = {"email": "ann@example.org", "password": "correct horse"}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


async def test_a_byte_order_mark_before_json_does_not_matter(ann: Person) -> None:
    file = await ann.upload("a.txt")
    bodies = {
        "/v1/login": ("POST", ACCOUNT, 200),
        "/v1/token/refresh": ("POST", {"refresh_token": ann.tokens["refresh_token"]}, 200),
        "/v1/files/upload-intent": ("POST", {"filename": "b.txt", "size_bytes": 0}, 200),
        f"/v1/files/{file['id']}": ("PATCH", {"name": "c.txt"}, 200),
        "/v1/files/by-path/c.txt": ("PATCH", {"favorite": True}, 200),
        f"/v1/files/{file['id']}/restore": ("POST", {"on_conflict": "rename"}, 200),
        f"/v1/files/{file['id']}/copy": ("POST", {"name": "d.txt"}, 201),
        "/v1/webhooks": ("POST", {"url": "https://example.org/changes"}, 201),
        "/v1/batch": ("POST", {"operations": []}, 200),
        f"/v1/files/{file['id']}/versions/{file['version_id']}": ("PATCH", {"name": "first"}, 200),
        "/v1/folders": ("POST", {"name": "folder"}, 201),
        "/v1/signup": ("POST", {**ACCOUNT, "email": "bob@example.org"}, 201),
    }
    for path, (method, body, status) in bodies.items():
        answer = await ann(method, path, data=BOM + encoded(body), headers=JSON)
        assert answer.status == status, (path, answer.content)
    hook = (await ann("GET", "/v1/webhooks")).json["webhooks"][0]["id"]
    assert (await ann("POST", f"/v1/webhooks/{hook}/replay", data=BOM + encoded({}), headers=JSON)).status < 300
    upload = (await ann("POST", "/v1/files/upload-intent", {"filename": "e.txt", "size_bytes": 0})).json["upload_id"]
    for path, body in (("complete", {}), ("parts", {"numbers": [1]})):  # of an upload that has no bytes, or no parts
        answer = await ann("POST", f"/v1/uploads/{upload}/{path}", data=BOM + encoded(body), headers=JSON)
        assert (answer.status, answer.json["code"]) == (409, "conflict"), answer.content
    for method, body in (("PATCH", {"current_password": "correct horse"}), ("DELETE", {"password": "correct horse"})):
        assert (await ann(method, "/v1/me", data=BOM + encoded(body), headers=JSON)).status < 300
    assert len(bodies) + 5 == sum(operation.body is not None for operation in OPERATIONS)


async def test_a_byte_order_mark_alone_is_no_body(ann: Person) -> None:
    file = await ann.upload("a.txt")
    assert (await ann("POST", f"/v1/files/{file['id']}/restore", data=BOM, headers=JSON)).status == 200
    assert (await ann("POST", "/v1/login", data=BOM, headers=JSON)).json["code"] == "malformed"


@pytest.mark.parametrize("mark", [BOM * 2, b"\xff\xfe", b"\xfe\xff", b" " + BOM])
async def test_other_marks_are_not_json(ann: Person, mark: bytes) -> None:
    answer = await ann("POST", "/v1/login", data=mark + encoded(ACCOUNT), headers=JSON)
    assert (answer.status, answer.json["code"]) == (400, "malformed")


async def test_the_same_body_with_and_without_a_mark_is_the_same_request(ann: Person) -> None:
    body = encoded({"filename": "a.txt", "size_bytes": 0})
    headers = {**JSON, "Idempotency-Key": "one"}
    first = await ann("POST", "/v1/files/upload-intent", data=body, headers=headers)
    again = await ann("POST", "/v1/files/upload-intent", data=BOM + body, headers=headers)
    assert (again.status, again.content) == (200, first.content)


async def test_a_text_that_is_none_of_a_few_is_told_which_they_are(ann: Person) -> None:
    listed = await ann("GET", "/v1/files?sort=sideways")
    assert listed.json["detail"].startswith("Must be one of: -created_at, created_at, name, -name, ")
    intent = await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 1, "on_conflict": "merge"})
    assert (intent.json["field"], intent.json["detail"]) == ("on_conflict", "Must be one of: fail, rename, replace.")
