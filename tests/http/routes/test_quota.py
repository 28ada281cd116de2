"""What a user has, what they may have, and what is missing when they want more."""

from __future__ import annotations

import aiohttp
import pytest

from godrive.messages.users import SetQuota
from godrive.model import UserId
from tests.http.client import Answer, Person, Site
from tests.http.conftest import OpenSite
from tests.principals import SYSTEM

pytestmark = pytest.mark.anyio

TEXT = {"Content-Type": "text/plain"}


async def test_a_user_sees_what_is_charged_and_how_much_there_may_be(ann: Person) -> None:
    await ann.upload("a.txt", b"old")
    await ann.upload("a.txt", b"newer", on_conflict="replace")
    trashed = await ann.upload("b.txt", b"trash")
    await ann("DELETE", f"/v1/files/{trashed['id']}")
    await ann("POST", "/v1/folders", {"name": "folder"})
    await ann("POST", "/v1/files/upload-intent", {"filename": "c.txt", "size_bytes": 100})
    me = (await ann("GET", "/v1/me")).json
    assert me["quota_bytes"] is None
    split = {"live_bytes": 5, "trash_bytes": 5, "version_bytes": 3, "reserved_bytes": 100}
    assert me["usage"] == {"used_bytes": 113, **split}
    assert me["counts"] == {"entries": 3, "uploads": 1, "versions": 1}
    assert me["limits"] == {"entries": 1_000_000, "uploads": 10_000, "versions": 1_000_000}


def check_missing(answer: Answer, field: str, missing: str) -> None:
    """The refusal names the limit, and how much is missing."""
    assert (answer.status, answer.json["code"], answer.json["field"]) == (507, "quota_exceeded", field), answer.json
    assert missing in answer.json["detail"]


async def test_every_way_in_is_refused_with_the_bytes_that_are_missing(ann: Person, site: Site) -> None:
    user_id = UserId((await ann("GET", "/v1/me")).json["id"])
    await site.drive.auth.ask(SetQuota(SYSTEM, user_id, 20))
    old = await ann.upload("a.txt", b"0123456789")
    new = await ann.upload("a.txt", b"01234", on_conflict="replace")
    path = f"/v1/files/{old['id']}"
    before = (await ann("GET", "/v1/me")).json
    intent = {"filename": "b.txt", "size_bytes": 8}
    announced = [
        await ann("POST", "/v1/files/upload-intent", intent),
        await ann("POST", "/v1/files/upload-intent", {**intent, "filename": "a.txt", "on_conflict": "replace"}),
    ]
    sent = [
        await ann("POST", "/v1/files?name=b.txt", data=b"01234567", headers=TEXT),
        await ann("PUT", "/v1/files/by-path/a.txt", data=b"01234567", headers=TEXT),
    ]
    for field, refused in (("size_bytes", announced), ("Content-Length", sent)):
        for answer in refused:
            check_missing(answer, field, ": 3 bytes are missing")
    await ann.upload("c.txt", b"0")
    check_missing(
        await ann("POST", f"{path}/versions/{old['version_id']}/restore"), "size_bytes", "6 bytes are missing"
    )
    check_missing(await ann("POST", f"{path}/copy", {"name": "copy"}), "size_bytes", "1 bytes are missing")
    assert (await ann("GET", path)).json["version_id"] == new["version_id"]
    after = (await ann("GET", "/v1/me")).json
    assert after["usage"]["used_bytes"] == before["usage"]["used_bytes"] + 1
    assert after["usage"]["reserved_bytes"] == 0


async def test_a_limit_of_rows_is_named(open_site: OpenSite) -> None:
    limits = {"max_entries": 2, "max_pending_uploads": 1, "max_versions": 1}
    async with open_site(auth=limits) as site, aiohttp.ClientSession() as http:
        ann = await Person(http, site.url).enter()
        await ann.upload("a.txt")
        await ann.upload("a.txt", b"two", on_conflict="replace")
        replacing = {"filename": "a.txt", "size_bytes": 0, "on_conflict": "replace"}
        check_missing(await ann("POST", "/v1/files/upload-intent", replacing), "versions", "at most 1 earlier versions")
        pending = (await ann("POST", "/v1/files/upload-intent", {"filename": "b.txt", "size_bytes": 0})).json
        more = {"filename": "c.txt", "size_bytes": 0}
        check_missing(await ann("POST", "/v1/files/upload-intent", more), "uploads", "at most 1 pending uploads")
        check_missing(await ann("POST", "/v1/folders", {"name": "folder"}), "entries", "at most 2 files and folders")
        await ann("DELETE", f"/v1/uploads/{pending['upload_id']}")
        assert (await ann("POST", "/v1/folders", {"name": "folder"})).status == 201
        assert (await ann("GET", "/v1/me")).json["limits"] == {"entries": 2, "uploads": 1, "versions": 1}
