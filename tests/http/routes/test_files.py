"""Files and the trash over a socket."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.cases import each
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio

ORIGINAL = {"id", "owner_id", "name", "mime", "size_bytes", "created_at", "version_id"}
UNKNOWN = "00000000-0000-7000-8000-000000000000"


async def test_a_list_has_the_fields_of_the_original_and_no_next_page_at_its_end(ann: Person) -> None:
    file = await ann.upload("a.txt", b"12345")
    for path in ("/files", "/v1/files"):
        answer = (await ann("GET", path)).json
        assert answer.keys() == {"files"}
        assert answer["files"] == [file]
        assert file.keys() >= ORIGINAL


async def test_pages_follow_one_another_newest_first_without_gap_or_repeat(ann: Person, site: Site) -> None:
    names = [f"{number}.txt" for number in range(7)]
    for name in names:
        await ann.upload(name)
        site.clock.advance(1)
    found: list[str] = []
    page: dict[str, Any] = {}
    while True:
        answer = (await ann("GET", "/v1/files", params={"limit": 3, **page})).json
        found += [file["name"] for file in answer["files"]]
        if "next_page" not in answer:
            break
        page = {"page": answer["next_page"]}
    assert found == names[::-1]


async def test_the_root_list_has_pages_of_20_and_the_canonical_one_of_100(ann: Person) -> None:
    for number in range(21):
        await ann.upload(f"{number}.txt", b"")
    root = (await ann("GET", "/files")).json
    assert (len(root["files"]), "next_page" in root) == (20, True)
    canonical = (await ann("GET", "/v1/files")).json
    assert (len(canonical["files"]), "next_page" in canonical) == (21, False)


async def test_a_list_can_be_narrowed_and_sorted_by_name(ann: Person) -> None:
    for name in ("beta.txt", "Alpha.txt", "gamma.md"):
        await ann.upload(name)

    async def names(**query: str) -> list[str]:
        return [file["name"] for file in (await ann("GET", "/v1/files", params=query)).json["files"]]

    assert await names(sort="name", q=".TXT") == ["Alpha.txt", "beta.txt"]
    assert await names(prefix="g") == ["gamma.md"]
    assert await names(q="%") == []
    assert await names(sort="created_at") == ["beta.txt", "Alpha.txt", "gamma.md"]


@each(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=abc", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=1e2", "limit"),
        ("limit=null", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("sort=sideways", "sort"),
        ("page=edited", "page"),
        ("page=" + "x" * 3000, "page"),
        ("q=%00", "q"),
        ("q=" + "x" * 256, "q"),
        ("parent_id=..%2F..", "parent_id"),
        ("limmit=5", "limmit"),
        ("%FF%00=5", None),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_by_name(ann: Person, query: str, field: str | None) -> None:
    for path in ("/v1/files", "/files"):
        answer = await ann("GET", f"{path}?{query}")
        assert (answer.status, answer.json["code"]) == (422, "invalid"), answer.content
        assert field is None or answer.json["field"] == field


async def test_an_edited_page_token_is_refused(ann: Person) -> None:
    for number in range(3):
        await ann.upload(f"{number}.txt", b"")
    token = (await ann("GET", "/v1/files?limit=2")).json["next_page"]
    for edited in (token[:-1], token + "A", token[:5] + ("A" if token[5] != "A" else "B") + token[6:]):
        answer = await ann("GET", "/v1/files", params={"limit": 2, "page": edited})
        assert (answer.status, answer.json["field"]) == (422, "page")


async def test_a_file_has_an_etag_and_an_unchanged_one_is_not_sent_again(ann: Person) -> None:
    file = await ann.upload("a.txt")
    answer = await ann("GET", f"/v1/files/{file['id']}")
    etag = answer.headers["ETag"]
    assert answer.json == file
    assert etag == f'"{file["etag"]}"'
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        again = await ann("GET", f"/v1/files/{file['id']}", headers={"If-None-Match": known})
        assert (again.status, again.content, again.headers["ETag"]) == (304, b"", etag)
    assert (await ann("GET", f"/v1/files/{file['id']}", headers={"If-None-Match": '"x"'})).status == 200
    broken = await ann("GET", f"/v1/files/{file['id']}", headers={"If-None-Match": "x"})
    assert (broken.status, broken.json["field"]) == (422, "If-None-Match")


async def test_renaming_changes_the_etag_and_if_match_guards_it(ann: Person) -> None:
    file = await ann.upload("a.txt")
    path = f"/v1/files/{file['id']}"
    etag = (await ann("GET", path)).headers["ETag"]
    renamed = await ann("PATCH", path, {"name": "b.txt"}, headers={"If-Match": etag})
    assert (renamed.status, renamed.json["name"]) == (200, "b.txt")
    assert renamed.headers["ETag"] != etag
    late = await ann("PATCH", path, {"name": "c.txt"}, headers={"If-Match": etag})
    assert (late.status, late.json["code"]) == (412, "precondition_failed")
    for never, status in (("W/" + renamed.headers["ETag"], 412), ('"a", "b"', 422), ("b", 422), ("", 422)):
        assert (await ann("PATCH", path, {"name": "c.txt"}, headers={"If-Match": never})).status == status
    assert (await ann("PATCH", path, {"name": "c.txt"}, headers={"If-Match": "*"})).status == 200


async def test_the_time_of_modification_is_kept_and_can_be_set(ann: Person) -> None:
    intent = {"filename": "a", "size_bytes": 1, "modified_at": "1999-12-31T23:00:00.123456789-01:00"}
    url = (await ann("POST", "/v1/files/upload-intent", intent)).json["upload_url"]
    file = (await ann("PUT", url, data=b"a")).json["file"]
    assert file["modified_at"] == "2000-01-01T00:00:00.123457Z"
    path = f"/v1/files/{file['id']}"
    change = {"modified_at": "1987-06-05T04:03:02Z", "name": "b"}
    changed = await ann("PATCH", path, change, headers={"If-Match": f'"{file["etag"]}"'})
    assert (changed.json["modified_at"], changed.json["name"]) == ("1987-06-05T04:03:02Z", "b")
    assert (await ann("GET", path)).json == changed.json
    for wrong in ("1987-06-05T04:03:02", "1987-06-05", "0001-01-01T00:00:00+01:00", 7, None):
        refused = await ann("PATCH", path, {"modified_at": wrong})
        assert (refused.status, refused.json["field"]) == (422, "modified_at"), wrong
    assert (await ann("GET", path)).json == changed.json


async def test_if_match_guards_the_way_to_the_trash_and_back_and_out(ann: Person) -> None:
    file = await ann.upload("a.txt")
    path = f"/v1/files/{file['id']}"
    steps = [("DELETE", path, 200), ("POST", f"{path}/restore", 200), ("DELETE", path, 200)]
    for method, at, done in [*steps, ("DELETE", f"/v1/trash/{file['id']}", 204)]:
        refused = await ann(method, at, headers={"If-Match": '"another"'})
        assert (refused.status, refused.json["code"]) == (412, "precondition_failed"), (method, at)
        assert (await ann(method, at)).status == done


async def test_a_change_that_depends_on_a_date_is_refused_and_not_carried_out(ann: Person) -> None:
    file = await ann.upload("a.txt")
    path, date = f"/v1/files/{file['id']}", "Mon, 01 Jan 2024 00:00:00 GMT"
    for method, at, body in (
        ("PUT", "/v1/files/by-path/a.txt", {"data": b"other"}),
        ("POST", "/v1/files?name=a.txt&on_conflict=replace", {"data": b"other"}),
        ("PATCH", path, {"json": {"name": "b.txt"}}),
        ("DELETE", path, {}),
        ("DELETE", "/v1/files/by-path/a.txt", {}),
        ("POST", "/v1/files/upload-intent", {"json": {"filename": "a.txt", "size_bytes": 1, "on_conflict": "replace"}}),
    ):
        refused = await ann(method, at, headers={"If-Unmodified-Since": date}, **body)
        assert (refused.status, refused.json["field"]) == (422, "If-Unmodified-Since"), (method, at)
    assert (await ann("GET", path)).json == file
    headers = {"If-Unmodified-Since": date, "If-Match": f'"{file["etag"]}"'}
    assert (await ann("PATCH", path, {"name": "b.txt"}, headers=headers)).status == 200
    assert (await ann("DELETE", path, headers={"If-Unmodified-Since": "no date"})).status == 200


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "x" * 256, "é" * 256, "\x7f", 7, None, ["a"]]
)
async def test_a_name_that_cannot_be_is_refused(ann: Person, name: Any) -> None:
    file = await ann.upload("a.txt")
    answer = await ann("PATCH", f"/v1/files/{file['id']}", {"name": name})
    assert (answer.status, answer.json["field"]) == (422, "name")
    assert (await ann("GET", f"/v1/files/{file['id']}")).json == file


async def test_a_name_that_is_taken_is_a_conflict(ann: Person) -> None:
    file = await ann.upload("a.txt")
    await ann.upload("b.txt")
    answer = await ann("PATCH", f"/v1/files/{file['id']}", {"name": "b.txt"})
    assert (answer.status, answer.json["code"]) == (409, "name_taken")


@pytest.mark.parametrize("path", ["/files", "/v1/files"])
async def test_a_deleted_file_says_so_and_is_in_the_trash_until_its_purge_date(
    ann: Person, site: Site, path: str
) -> None:
    file = await ann.upload("a.txt")
    gone = await ann("DELETE", f"{path}/{file['id']}")
    assert (gone.status, gone.json["deleted"]) == (200, file["id"])
    grace = datetime.fromisoformat(gone.json["purge_at"]) - datetime.fromisoformat(gone.json["trashed_at"])
    assert grace == timedelta(seconds=site.drive.config.janitor.trash_grace)
    site.clock.advance(10)
    assert (await ann("DELETE", f"{path}/{file['id']}")).json == gone.json
    assert (await ann("GET", f"/v1/files/{file['id']}")).status == 404
    assert (await ann("GET", f"/v1/files/{file['id']}/download")).status == 404
    assert (await ann("GET", "/v1/files")).json["files"] == []
    (trashed,) = (await ann("GET", "/v1/trash")).json["files"]
    assert (trashed["id"], trashed["purge_at"]) == (file["id"], gone.json["purge_at"])


async def test_a_restored_file_is_back_and_restoring_again_is_harmless(ann: Person) -> None:
    file = await ann.upload("a.txt")
    await ann("DELETE", f"/v1/files/{file['id']}")
    restored = await ann("POST", f"/v1/files/{file['id']}/restore")
    assert (restored.status, restored.json["name"], restored.json["trashed_at"]) == (200, "a.txt", None)
    again = await ann("POST", f"/v1/files/{file['id']}/restore")
    assert (again.status, again.json) == (200, restored.json)


async def test_restoring_over_a_name_that_was_taken_meanwhile_is_a_conflict_or_a_rename(ann: Person) -> None:
    file = await ann.upload("a.txt")
    await ann("DELETE", f"/v1/files/{file['id']}")
    await ann.upload("a.txt")
    path = f"/v1/files/{file['id']}/restore"
    assert (await ann("POST", path)).json["code"] == "name_taken"
    assert (await ann("POST", path, {"on_conflict": "merge"})).json["field"] == "on_conflict"
    assert (await ann("POST", path, {"on_conflict": "rename"})).json["name"] == "a (1).txt"


async def test_a_purged_file_is_gone_for_good(ann: Person) -> None:
    kept, purged = await ann.upload("kept.txt"), await ann.upload("purged.txt")
    assert (await ann("DELETE", f"/v1/trash/{kept['id']}")).status == 404
    await ann("DELETE", f"/v1/files/{purged['id']}")
    answer = await ann("DELETE", f"/v1/trash/{purged['id']}")
    assert (answer.status, answer.content) == (204, b"")
    assert (await ann("POST", f"/v1/files/{purged['id']}/restore")).status == 404
    assert (await ann("GET", "/v1/trash")).json == {"files": []}
    assert [file["id"] for file in (await ann("GET", "/v1/files")).json["files"]] == [kept["id"]]


async def test_emptying_the_trash_tells_how_much_was_in_it(ann: Person) -> None:
    for name in ("a.txt", "b.txt"):
        await ann("DELETE", f"/v1/files/{(await ann.upload(name))['id']}")
    assert (await ann("DELETE", "/v1/trash")).json == {"purged": 2}
    assert (await ann("DELETE", "/v1/trash")).json == {"purged": 0}


@pytest.mark.parametrize("path", ["/files", "/v1/files"])
async def test_a_download_is_a_url_that_needs_no_token(ann: Person, stranger: Person, path: str) -> None:
    file = await ann.upload("a.txt", b"12345")
    answer = await ann("GET", f"{path}/{file['id']}/download")
    assert answer.json.keys() == {"url", "expires_at"}
    assert answer.json["url"].startswith(f"{ann.url}/v1/files/")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await stranger("GET", answer.json["url"])).content == b"12345"


async def test_an_inline_download_is_asked_for_with_true_or_false(ann: Person, stranger: Person) -> None:
    file = await ann.upload("a.txt", b"12345")
    shown = await ann("GET", f"/v1/files/{file['id']}/download?inline=true")
    assert (await stranger("GET", shown.json["url"])).headers["Content-Disposition"].startswith("inline")
    saved = await ann("GET", f"/v1/files/{file['id']}/download?inline=false")
    assert (await stranger("GET", saved.json["url"])).headers["Content-Disposition"].startswith("attachment")
    assert (await ann("GET", f"/v1/files/{file['id']}/download?inline=1")).json["field"] == "inline"


async def test_a_download_url_is_valid_for_as_long_as_was_asked_for(ann: Person, stranger: Person, site: Site) -> None:
    file = await ann.upload("a.txt", b"12345")
    path = f"/v1/files/{file['id']}/download"
    asked = (await ann("GET", f"{path}?expires_in=60")).json
    assert datetime.fromisoformat(asked["expires_at"]) == site.clock.now() + timedelta(seconds=60)
    longest = int(site.drive.config.blobs.download_ttl_max)
    for wrong in ("0", "-1", "1.5", "x", "", str(longest + 1), "nan", "inf", "1e3"):
        answer = await ann("GET", f"{path}?expires_in={wrong}")
        assert (answer.status, answer.json["field"]) == (422, "expires_in")
    long = (await ann("GET", f"{path}?expires_in={longest}")).json["url"]
    site.clock.advance(61)
    assert (await stranger("GET", asked["url"])).status == 403
    assert (await stranger("GET", long)).content == b"12345"


async def test_the_root_can_be_listed_on_its_own(ann: Person) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json
    inside = await ann.upload("inside.txt", b"", parent_id=folder["id"])
    top = await ann.upload("top.txt", b"", parent_id="root")

    async def names(query: str) -> list[str]:
        return [file["name"] for file in (await ann("GET", f"/v1/files?sort=name{query}")).json["files"]]

    assert (inside["parent_id"], top["parent_id"]) == (folder["id"], None)
    assert await names("&parent_id=root") == ["folder", "top.txt"]
    assert await names(f"&parent_id={folder['id']}") == ["inside.txt"]
    assert await names("") == ["inside.txt", "top.txt"]
    assert (await ann("GET", "/v1/files?parent_id=")).json["field"] == "parent_id"


FILE_ROUTES = [
    ("GET", "/v1/files/{id}", None),
    ("HEAD", "/v1/files/{id}", None),
    ("PATCH", "/v1/files/{id}", {"name": "b.txt"}),
    ("DELETE", "/v1/files/{id}", None),
    ("DELETE", "/files/{id}", None),
    ("POST", "/v1/files/{id}/restore", None),
    ("GET", "/v1/files/{id}/download", None),
    ("GET", "/files/{id}/download", None),
    ("DELETE", "/v1/trash/{id}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), FILE_ROUTES)
async def test_a_missing_file_and_somebody_elses_are_not_found_alike(
    ann: Person, bob: Person, method: str, path: str, body: Any
) -> None:
    file = await ann.upload("a.txt")
    same = {"X-Request-Id": "same"}
    theirs = await bob(method, path.format(id=file["id"]), body, headers=same)
    missing = await bob(method, path.format(id=UNKNOWN), body, headers=same)
    assert theirs.status == missing.status == 404
    assert theirs.content == missing.content
    assert (await ann("GET", f"/v1/files/{file['id']}")).json == file


@each(("method", "path", "body"), FILE_ROUTES)
@each(
    "made_up",
    ["x", "%00", "%2e%2e", "..%2f..", "%ff", "%zz", "x" * 65, "x" * 7000, "%E2%82%AC", "{id}", "a%20b", "'--"],
)
async def test_what_cannot_be_an_id_is_not_found(ann: Person, method: str, path: str, body: Any, made_up: str) -> None:
    answer = await ann(method, path.replace("{id}", made_up), body)
    if path == "/files/{id}" and made_up == "%2e%2e":  # the client has made that "/"
        assert (answer.status, answer.json["code"]) == (405, "method_not_allowed")
        return
    assert answer.status == 404
    assert method == "HEAD" or answer.json["code"] == "not_found"


@each(
    ("method", "path", "body"),
    [
        *FILE_ROUTES,
        ("GET", "/files", None),
        ("GET", "/v1/files", None),
        ("GET", "/v1/trash", None),
        ("DELETE", "/v1/trash", None),
        ("POST", "/files/upload-intent", {"filename": "a", "size_bytes": 1}),
        ("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 1}),
        ("GET", "/v1/uploads", None),
        ("GET", "/v1/uploads/{id}", None),
        ("DELETE", "/v1/uploads/{id}", None),
        ("POST", "/v1/uploads/{id}/complete", None),
        ("GET", "/v1/me", None),
        ("PATCH", "/v1/me", {"current_password": "x"}),
        ("DELETE", "/v1/me", {"password": "x"}),
        ("POST", "/v1/logout", None),
        ("GET", "/v1/sessions", None),
        ("DELETE", "/v1/sessions/{id}", None),
    ],
)
async def test_without_a_token_nothing_is_told(stranger: Person, method: str, path: str, body: Any) -> None:
    answer = await stranger(method, path.replace("{id}", UNKNOWN), body)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
