"""Uploads over a socket: from the intent to the file."""

from __future__ import annotations

import hashlib
from typing import Any

import aiohttp
import pytest

from tests.cases import each
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio

INTENT = {"filename": "a.txt", "mime": "text/plain", "size_bytes": 5}
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.mark.parametrize("path", ["/files/upload-intent", "/v1/files/upload-intent"])
async def test_an_intent_has_the_fields_of_the_original_and_where_to_ask_about_it(ann: Person, path: str) -> None:
    answer = await ann("POST", path, INTENT)
    assert answer.status == 200
    assert answer.json.keys() == {"upload_url", "object_key", "headers", "expires_at", "upload_id", "method"}
    assert answer.json["method"] == "PUT"
    assert answer.json["upload_url"].startswith(f"{ann.url}/v1/uploads/")
    assert "a.txt" not in answer.json["object_key"]
    assert answer.headers["Location"] == f"{ann.url}/v1/uploads/{answer.json['upload_id']}"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_an_upload_can_be_followed_from_intent_to_file(ann: Person) -> None:
    intent = (await ann("POST", "/v1/files/upload-intent", INTENT)).json
    path = f"/v1/uploads/{intent['upload_id']}"
    pending = (await ann("GET", path)).json
    assert (pending["state"], pending["size_bytes"], pending["received_bytes"]) == ("pending", 5, 0)
    assert pending.keys().isdisjoint({"file", "file_id", "reason", "finished_at", "object_key"})
    assert (await ann("POST", f"{path}/complete")).status == 409
    sent = await ann("PUT", intent["upload_url"], data=b"hello", headers=intent["headers"])
    assert sent.status == 201
    file = sent.json["file"]
    committed = (await ann("GET", path)).json
    assert (committed["state"], committed["file"]) == ("committed", file)
    for _ in range(2):
        complete = await ann("POST", f"{path}/complete")
        assert (complete.status, complete.json) == (200, {"file": file})
    assert (await ann("DELETE", path)).json["code"] == "upload_finished"


async def test_the_upload_of_a_file_in_the_trash_has_no_file_to_show(ann: Person) -> None:
    intent = (await ann("POST", "/v1/files/upload-intent", {**INTENT, "size_bytes": 0})).json
    await ann("PUT", intent["upload_url"], data=b"", headers=intent["headers"])
    upload = (await ann("GET", f"/v1/uploads/{intent['upload_id']}")).json
    await ann("DELETE", f"/v1/files/{upload['file_id']}")
    upload = (await ann("GET", f"/v1/uploads/{intent['upload_id']}")).json
    assert (upload["state"], "file" in upload) == ("committed", False)


async def test_an_aborted_upload_gives_its_bytes_back_and_takes_none(ann: Person) -> None:
    intent = (await ann("POST", "/v1/files/upload-intent", INTENT)).json
    assert (await ann("GET", "/v1/me")).json["usage"]["reserved_bytes"] == 5
    path = f"/v1/uploads/{intent['upload_id']}"
    for _ in range(2):
        aborted = await ann("DELETE", path)
        assert (aborted.status, aborted.json["state"]) == (200, "aborted")
    assert (await ann("GET", "/v1/me")).json["usage"]["reserved_bytes"] == 0
    assert (await ann("POST", f"{path}/complete")).json["code"] == "gone"
    late = await ann("PUT", intent["upload_url"], data=b"hello", headers=intent["headers"])
    assert (late.status, late.json["code"]) == (410, "gone")


async def test_other_bytes_than_declared_fail_the_upload_with_a_reason(ann: Person) -> None:
    digest = hashlib.sha256(b"hello").hexdigest().upper()
    intent = (await ann("POST", "/v1/files/upload-intent", {**INTENT, "sha256": digest})).json
    sent = await ann("PUT", intent["upload_url"], data=b"jello", headers=intent["headers"])
    assert (sent.status, sent.json["code"]) == (422, "digest_mismatch")
    upload = (await ann("GET", f"/v1/uploads/{intent['upload_id']}")).json
    assert upload["state"] == "failed"
    assert upload["reason"]
    assert (await ann("GET", "/v1/files")).json["files"] == []


async def replace(ann: Person, content: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Upload bytes that replace those of a.txt; the status and body of the PUT, or of the refused intent."""
    body = {**INTENT, "size_bytes": len(content), "on_conflict": "replace"}
    intent = await ann("POST", "/v1/files/upload-intent", body, headers=headers)
    if intent.status != 200:
        return intent.status, intent.json
    sent = await ann("PUT", intent.json["upload_url"], data=content, headers=intent.json["headers"])
    return sent.status, sent.json


async def test_an_upload_can_replace_the_bytes_of_a_file(ann: Person) -> None:
    status, created = await replace(ann, b"hello")
    assert status == 201
    status, replaced = await replace(ann, b"goodbye")
    assert (status, replaced["file"]["id"]) == (200, created["file"]["id"])
    assert (await ann("GET", "/v1/files")).json["files"] == [replaced["file"]]
    usage = (await ann("GET", "/v1/me")).json["usage"]
    assert (usage["live_bytes"], usage["version_bytes"]) == (7, 5)


async def test_an_upload_replaces_only_the_version_that_its_client_has_seen(ann: Person) -> None:
    await replace(ann, b"one")
    seen = (await ann("GET", "/v1/files")).json["files"][0]
    tag = (await ann("GET", f"/v1/files/{seen['id']}")).headers["ETag"]
    body = {**INTENT, "on_conflict": "replace"}
    slow = (await ann("POST", "/v1/files/upload-intent", body, headers={"If-Match": tag})).json
    assert (await replace(ann, b"two", **{"If-Match": tag}))[0] == 200
    assert (await replace(ann, b"six", **{"If-Match": tag}))[1]["code"] == "precondition_failed"
    late = await ann("PUT", slow["upload_url"], data=b"hello", headers=slow["headers"])
    assert (late.status, late.json["code"]) == (412, "precondition_failed")
    upload = (await ann("GET", f"/v1/uploads/{slow['upload_id']}")).json
    assert upload["state"] == "failed"
    assert (await ann("GET", "/v1/me")).json["usage"]["reserved_bytes"] == 0
    plain = await ann("POST", "/v1/files/upload-intent", INTENT, headers={"If-Match": tag})
    assert (plain.status, plain.json["field"]) == (422, "on_conflict")


async def test_uploads_are_listed_by_page_and_state(ann: Person, site: Site) -> None:
    ids = []
    for number in range(3):
        intent = await ann("POST", "/v1/files/upload-intent", {**INTENT, "filename": f"{number}.txt"})
        ids.append(intent.json["upload_id"])
        site.clock.advance(1)
    await ann("DELETE", f"/v1/uploads/{ids[1]}")
    first = (await ann("GET", "/v1/uploads?limit=2")).json
    assert [upload["id"] for upload in first["uploads"]] == ids[:0:-1]
    rest = (await ann("GET", "/v1/uploads", params={"limit": 2, "page": first["next_page"]})).json
    assert [upload["id"] for upload in rest["uploads"]] == ids[:1]
    assert "next_page" not in rest
    aborted = (await ann("GET", "/v1/uploads?state=aborted")).json
    assert [upload["id"] for upload in aborted["uploads"]] == ids[1:2]
    assert (await ann("GET", "/v1/uploads?state=lost")).json["field"] == "state"


@each(
    ("change", "field"),
    [
        ({"filename": "a/b"}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": "a\0b"}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"filename": None}, "filename"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"size_bytes": 1.5}, "size_bytes"),
        ({"size_bytes": "5"}, "size_bytes"),
        ({"size_bytes": 2**63}, "size_bytes"),
        ({"size_bytes": 10**300}, "size_bytes"),
        ({"size_bytes": True}, "size_bytes"),
        ({"mime": "no type"}, "mime"),
        ({"mime": "a\r\nX: y"}, "mime"),
        ({"mime": "text/plain\0"}, "mime"),
        ({"mime": "x/" + "y" * 300}, "mime"),
        ({"mime": 5}, "mime"),
        ({"sha256": "abc"}, "sha256"),
        ({"sha256": "g" * 64}, "sha256"),
        ({"sha256": "a" * 64 + "\n"}, "sha256"),
        ({"parent_id": ""}, "parent_id"),
        ({"parent_id": "../x"}, "parent_id"),
        ({"parent_id": "x\n"}, "parent_id"),
        ({"on_conflict": "merge"}, "on_conflict"),
        ({"owner_id": "x"}, "owner_id"),
    ],
)
async def test_wrong_input_to_an_intent_is_refused_by_name(ann: Person, change: dict[str, Any], field: str) -> None:
    answer = await ann("POST", "/v1/files/upload-intent", {**INTENT, **change})
    assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "invalid", field), answer.content
    assert (await ann("GET", "/v1/uploads")).json["uploads"] == []


async def test_an_intent_over_the_limit_of_the_server_is_too_large(ann: Person) -> None:
    answer = await ann("POST", "/v1/files/upload-intent", {**INTENT, "size_bytes": 2**62})
    assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_an_intent_over_the_quota_is_refused_before_a_byte_is_sent(
    http: aiohttp.ClientSession, open_site: Any
) -> None:
    async with open_site(auth={"default_quota_bytes": 8}) as site:
        ann = await Person(http, site.url).enter()
        assert (await ann("POST", "/v1/files/upload-intent", INTENT)).status == 200
        answer = await ann("POST", "/v1/files/upload-intent", {**INTENT, "filename": "b.txt"})
    assert (answer.status, answer.json["code"]) == (507, "quota_exceeded")


async def test_an_intent_into_a_folder_that_is_not_there_is_not_found(ann: Person) -> None:
    assert (await ann("POST", "/v1/files/upload-intent", {**INTENT, "parent_id": UNKNOWN})).status == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/uploads/{}"), ("DELETE", "/v1/uploads/{}"), ("POST", "/v1/uploads/{}/complete")]
)
async def test_somebody_elses_upload_is_not_found(ann: Person, bob: Person, method: str, path: str) -> None:
    intent = (await ann("POST", "/v1/files/upload-intent", INTENT)).json
    same = {"X-Request-Id": "same"}
    theirs = await bob(method, path.format(intent["upload_id"]), headers=same)
    missing = await bob(method, path.format(UNKNOWN), headers=same)
    assert theirs.status == missing.status == 404
    assert theirs.content == missing.content
    assert (await ann("GET", f"/v1/uploads/{intent['upload_id']}")).json["state"] == "pending"


async def test_a_repeated_idempotency_key_gets_the_first_answer_and_makes_nothing_new(ann: Person) -> None:
    key = {"Idempotency-Key": "once"}
    first = await ann("POST", "/v1/files/upload-intent", INTENT, headers=key)
    again = await ann("POST", "/v1/files/upload-intent", INTENT, headers=key)
    assert (again.status, again.json) == (first.status, first.json)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert len((await ann("GET", "/v1/uploads")).json["uploads"]) == 1


async def test_an_idempotency_key_belongs_to_one_request_of_one_person(ann: Person, bob: Person) -> None:
    key = {"Idempotency-Key": "once"}
    await ann("POST", "/v1/files/upload-intent", INTENT, headers=key)
    other = await ann("POST", "/v1/files/upload-intent", {**INTENT, "size_bytes": 6}, headers=key)
    assert (other.status, other.json["code"]) == (409, "idempotency_mismatch")
    file = await ann.upload("a.txt")
    path = f"/v1/files/{file['id']}"
    key = {"Idempotency-Key": "trash"}
    assert (await ann("DELETE", path, headers=key)).status == 200
    for method, at, more in (
        ("DELETE", "/v1/trash", {}),
        ("DELETE", path, {"If-Match": '"x"'}),
        ("POST", f"{path}/restore", {}),
    ):
        other = await ann(method, at, headers={**key, **more})
        assert (other.status, other.json["code"]) == (409, "idempotency_mismatch"), (method, at)
    key = {"Idempotency-Key": "once"}
    theirs = await bob("POST", "/v1/files/upload-intent", INTENT, headers=key)
    assert (theirs.status, "Idempotency-Replayed" in theirs.headers) == (200, False)


async def test_after_an_error_the_idempotency_key_is_free(ann: Person) -> None:
    file = await ann.upload("a.txt")
    await ann.upload("b.txt")
    key = {"Idempotency-Key": "rename"}
    path = f"/v1/files/{file['id']}"
    assert (await ann("PATCH", path, {"name": "b.txt"}, headers=key)).status == 409
    assert (await ann("PATCH", path, {"name": "c.txt"}, headers=key)).json["name"] == "c.txt"


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ünïcödé"])
async def test_an_idempotency_key_that_cannot_be_is_refused(ann: Person, key: str) -> None:
    answer = await ann("POST", "/v1/files/upload-intent", INTENT, headers={"Idempotency-Key": key})
    assert (answer.status, answer.json["field"]) == (422, "Idempotency-Key")


async def test_an_idempotent_purge_is_answered_twice_though_the_file_is_gone(ann: Person) -> None:
    file = await ann.upload("a.txt")
    await ann("DELETE", f"/v1/files/{file['id']}")
    key = {"Idempotency-Key": "purge"}
    for _ in range(2):
        answer = await ann("DELETE", f"/v1/trash/{file['id']}", headers=key)
        assert (answer.status, answer.content) == (204, b"")
