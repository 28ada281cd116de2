"""Entries by path, over a socket: percent-encoding to the letter, and the answers of the same requests by id."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from tests.cases import each
from tests.http.client import Answer, Person, parse
from tests.http.conftest import Exchange
from tests.http.routes.test_folders import UNKNOWN, folder

pytestmark = pytest.mark.anyio

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\"), min_size=1, max_size=60
)


async def raw(person: Person, method: str, path: str, json: Any = None, **options: Any) -> Answer:
    """Send a request whose path is exactly this."""
    headers = {"Authorization": f"Bearer {person.token}", **options.pop("headers", {})}
    url = URL(f"{person.url}/v1/files/by-path/{path}", encoded=True)
    async with person.http.request(method, url, json=json, headers=headers, **options) as response:
        return Answer(response.status, response.headers, await response.read())


async def made(ann: Person, path: str) -> Any:
    """The folder at the path, with those above it."""
    answer = await ann("POST", "/v1/folders", {"path": path, "parents": True, "exist_ok": True})
    assert answer.status in (200, 201), answer.content
    return answer.json


@each(
    ("name", "encoded"),
    [
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("a+b", "a%2Bb"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("%2e%2e", "%252e%252e"),
        ("é", "%C3%A9"),
        ("e\u0301", "e%CC%81"),
        ("?#[]@!$&'()*,;=:~", "%3F%23[]@!$&'()*,;=:~"),
        ("...", "..."),
        (".a", "%2Ea"),
        ("download", "download"),
        ("children", "children"),
        ("by-path", "by-path"),
        ("\U0001f600", "%f0%9f%98%80"),
        ("a%", "a%25"),
    ],
)
async def test_a_name_is_decoded_once_and_exactly(ann: Person, name: str, encoded: str) -> None:
    top = await folder(ann, f"{encoded} {name}".replace("/", ""))
    entry = await folder(ann, name, top["id"])
    answer = await raw(ann, "GET", f"{quote(top['name'], safe='')}/{encoded}")
    assert answer.status == 200, answer.content
    assert answer.json == {**entry, "path": f"{top['name']}/{name}"}


@each(
    "path",
    (
        "/a a//b a// // . .. a/.. a/./b %2e%2E/a a%2Fb a%2fb a%5Cb a\\b a%00b a%0Ab a% a%2 a%zz %C3 %ff %ED%A0%80 "
        f"%C0%AF a/%F0%9F%98 {quote('x' * 256)} {'/'.join('a' * 1025)}"
    ).split(),
)
async def test_a_path_that_no_entry_can_have_is_refused_for_every_method(ann: Person, path: str) -> None:
    await made(ann, "a/b")
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        answer = await raw(ann, method, path, body)
        assert (answer.status, answer.json["field"]) == (422, "path"), (method, answer.content)
    assert (await raw(ann, "GET", "a/b")).status == 200


async def test_too_deep_has_a_code_of_its_own(ann: Person) -> None:
    answer = await raw(ann, "GET", "/".join("a" * 1025))
    assert (answer.status, answer.json["code"]) == (422, "too_deep")
    assert (await raw(ann, "GET", "/".join("a" * 1024))).status == 404


async def test_a_target_over_8190_bytes_is_414(ann: Person) -> None:
    start = len("/v1/files/by-path/")
    for length, status in ((8190, 422), (8191, 414)):
        answer = await raw(ann, "GET", "a" * (length - start))
        assert answer.status == status, answer.content


async def test_what_a_library_would_mend_is_refused(ann: Person, exchange: Exchange) -> None:
    """Bytes as no client library sends them: above all, nothing is taken away from a path that is then deleted."""
    for name in ("a", "a#b", "é"):
        await folder(ann, name)

    async def send(method: str, target: bytes) -> Answer:
        head = method.encode() + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        return parse(await exchange(head + str(ann.token).encode() + b"\r\n\r\n", half_close=True))

    prefix = b"/v1/files/by-path/"
    assert (await send("DELETE", prefix + b"a#b")).status in (400, 422)
    assert (await send("GET", prefix + "é".encode())).status in (200, 400)
    assert (await send("GET", prefix + b"\xff")).status in (400, 422)
    assert (await send("GET", b"/v1/files/by%2Dpath/a")).json["name"] == "a"
    assert (await send("GET", b"/v1/files%2Fby-path/a")).status == 404
    assert (await send("GET", b"/v1/files/../files/by-path/a")).status == 404
    assert (await send("GET", b"/v1//files/by-path/a")).status == 404
    assert (await send("GET", b"http://other.example" + prefix + b"a/../a%23b")).status == 422
    assert (await send("GET", b"http://other.example" + prefix + b"a%23b")).json["name"] == "a#b"
    assert {file["name"] for file in (await ann("GET", "/v1/files/root/children")).json["files"]} == {"a", "a#b", "é"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3))
async def test_any_names_make_a_path(ann: Person, names: list[str]) -> None:
    entry = await made(ann, "/".join(names))
    assert entry["path"] == "/".join(names)
    for form in (quote, lambda name, safe: "".join(f"%{byte:02x}" for byte in name.encode())):
        answer = await raw(ann, "GET", "/".join(form(name, safe="") for name in names))
        assert (answer.status, answer.json) == (200, entry)


async def test_by_path_and_by_id_get_the_same_answers(ann: Person) -> None:
    """Every request that can be sent by path, on each kind of entry, beside the same request by id."""

    async def both(method: str, id_: str, path: str, query: str = "", body: Any = None, **headers: str) -> None:
        by_id = await ann(method, f"/v1/files/{id_}{query}", body, headers=headers)
        by_path = await raw(
            ann,
            method,
            path + query.replace("/children", "?children").replace("?limit", "&limit"),
            body,
            headers=headers,
        )
        expected: Any = by_id.json if by_id.content else None
        found: Any = by_path.json if by_path.content else None
        if found is not None and found.get("field") == "path":
            assert expected.pop("field") == "file_id"
            del found["field"]
        for json in (expected, found):
            if isinstance(json, dict):
                for varying in ("path", "request_id", "next_page"):
                    json.pop(varying, None)
        assert (by_path.status, found) == (by_id.status, expected), (method, path, query, body, headers)
        for header in ("ETag", "Cache-Control", "Vary", "Content-Type", "Allow"):
            assert by_path.headers.get(header) == by_id.headers.get(header), header

    outer = await folder(ann, "outer")
    inner = await folder(ann, "inner", outer["id"])
    file = await ann.upload("a b.txt", parent_id=inner["id"])
    for number in range(3):
        await ann.upload(f"{number}.txt", parent_id=outer["id"])
    entries = [
        ("root", "", '"x"'),
        (outer["id"], "outer", outer["etag"]),
        (inner["id"], "outer/inner/", inner["etag"]),
        (file["id"], "outer/inner/a%20b.txt", file["etag"]),
        (UNKNOWN, "outer/none", "x"),
    ]
    for id_, path, etag in entries:
        for method in ("GET", "HEAD"):
            await both(method, id_, path)
            await both(method, id_, path, **{"If-None-Match": f'"{etag}"'})
            for query in (
                "/children",
                "/children?limit=2&sort=name",
                "/children?limit=0",
                "/children?limit=2&sort=-name&prefix=1",
            ):
                await both(method, id_, path, query)
        for body in (
            {},
            {"name": "a/b"},
            {"parent_id": UNKNOWN},
            {"unknown": 1},
            {"parent_id": outer["id"]},
            {"name": 1},
        ):
            if body != {"parent_id": outer["id"]} or id_ in (outer["id"], "root", UNKNOWN):
                await both("PATCH", id_, path, body=body)
        await both("PATCH", id_, path, body={"favorite": True}, **{"If-Match": '"other"'})
        await both("DELETE", id_, path, **{"If-Match": '"other"'})
        await both("PATCH", id_, path, body={"favorite": id_ != "root"})


async def test_an_entry_is_changed_and_trashed_by_path(ann: Person) -> None:
    inner = await made(ann, "outer/inner")
    renamed = await raw(ann, "PATCH", "outer/inner", {"name": "new name"})
    assert (renamed.status, renamed.json["id"], renamed.json["name"]) == (200, inner["id"], "new name")
    assert (await raw(ann, "GET", "outer/inner")).status == 404
    stale = {"If-Match": f'"{inner["etag"]}"'}
    assert (await raw(ann, "DELETE", "outer/new%20name", headers=stale)).status == 412
    once = {"Idempotency-Key": "once"}
    trashed = await raw(ann, "DELETE", "outer/new%20name", headers=once)
    assert (trashed.status, trashed.json["deleted"]) == (200, inner["id"])
    assert (await raw(ann, "DELETE", "outer/new%20name")).status == 404
    assert (await raw(ann, "DELETE", "outer/new%20name", headers=once)).json == trashed.json
    assert (await raw(ann, "GET", "outer/new%20name")).status == 404
    assert (await raw(ann, "GET", "outer/?children")).json["files"] == []


async def test_the_root_is_an_entry_that_cannot_be_changed(ann: Person) -> None:
    entry = await folder(ann, "entry")
    for root in (await ann("GET", "/v1/files/root"), await raw(ann, "GET", "")):
        assert (root.status, root.json["id"], root.json["kind"], root.json["parent_id"]) == (
            200,
            "root",
            "folder",
            None,
        )
        assert root.headers["ETag"] == f'"{root.json["etag"]}"'
    for method, body in (("PATCH", {"name": "x"}), ("DELETE", None)):
        for answer in (await ann(method, "/v1/files/root", body), await raw(ann, method, "", body)):
            assert (answer.status, answer.json["code"]) == (403, "forbidden")
    for answer in (await ann("GET", "/v1/files/root/children"), await raw(ann, "GET", "?children")):
        assert answer.json["files"] == [entry]


async def test_parameters_of_a_list_need_children(ann: Person) -> None:
    await folder(ann, "a")
    for query in ("limit=5", "sort=name", "page=x", "q=a", "children=false&prefix=a"):
        answer = await raw(ann, "GET", f"a?{query}")
        assert answer.status == 422, query
        assert answer.json["field"] in query
    for query in ("children=yes", "children&children", "Children"):
        assert (await raw(ann, "GET", f"a?{query}")).status == 422
    for query in ("children", "children=", "children=true", "children&limit=5"):
        assert (await raw(ann, "GET", f"a?{query}")).json == {"files": []}


async def test_nobody_else_finds_anything_at_the_path(ann: Person, bob: Person) -> None:
    await made(ann, "a/b")
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        assert (await raw(bob, method, "a/b", body)).status == 404
    assert (await raw(ann, "GET", "a/b")).status == 200


async def test_a_page_is_kept_for_its_own_folder_only(ann: Person) -> None:
    """A list may be answered from memory: two folders with the same query are two lists."""
    a, b = await made(ann, "top/a"), await made(ann, "other/b")
    for path, entry in (("top", a), ("other", b), ("top", a)):
        files = (await raw(ann, "GET", f"{path}?children")).json["files"]
        assert [file["id"] for file in files] == [entry["id"]]


async def test_a_path_with_an_empty_name_is_told_of_its_slashes(ann: Person) -> None:
    for path in ("/a/b", "a//b"):
        refused = await ann("POST", "/v1/folders", {"path": path, "parents": True})
        assert (refused.status, refused.json["field"]) == (422, "path")
        assert refused.json["detail"] == "A path must not begin with a slash, or have two in a row."


async def test_an_upload_is_announced_into_the_folder_at_a_path(ann: Person) -> None:
    intent: dict[str, Any] = {"filename": "f.txt", "size_bytes": 0, "path": "a/b"}
    missing = await ann("POST", "/v1/files/upload-intent", intent)
    assert (missing.status, missing.json["field"]) == (404, "path")
    both = await ann("POST", "/v1/files/upload-intent", {**intent, "parent_id": "root"})
    assert (both.status, both.json["field"]) == (422, "parent_id")
    file = await ann.upload("f.txt", path="a/b/", parents=True)
    assert (await raw(ann, "GET", "a/b/f.txt")).json["id"] == file["id"]
    for path in ("/a", "a//b", "..", "a/b/f.txt/c"):
        refused = await ann("POST", "/v1/files/upload-intent", {**intent, "path": path, "parents": True})
        assert (refused.status, refused.json["field"]) == (409 if "f.txt" in path else 422, "path"), path


async def test_a_change_by_path_takes_the_etag_of_the_entry_or_of_its_content(ann: Person) -> None:
    file = await ann.upload("f.txt", path="a", parents=True)
    for number, tag in enumerate((file["etag"], file["version_id"], "*")):
        match = {"If-Match": tag if tag == "*" else f'"{tag}"'}
        changed = await raw(ann, "PATCH", "a/f.txt", {"properties": {"number": number}}, headers=match)
        assert changed.status == 200, changed.content
    stale = {"If-Match": f'"{file["etag"]}"'}
    for method, body in (("PATCH", {"name": "x"}), ("DELETE", None)):
        assert (await raw(ann, method, "a/f.txt", body, headers=stale)).status == 412
    assert (await raw(ann, "DELETE", "a/f.txt", headers={"If-Match": f'"{file["version_id"]}"'})).status == 200


async def test_a_taken_name_fails_or_is_numbered_whichever_way_it_is_taken(ann: Person) -> None:
    """Rename, move and restore, by id and by path; nothing is merged, and a folder is never replaced."""
    await made(ann, "target/name")
    for number in range(3):
        await made(ann, f"from{number}/name")
    target = (await raw(ann, "GET", "target")).json["id"]
    move: dict[str, Any] = {"parent_id": target}
    assert (await raw(ann, "PATCH", "from0/name", move)).json["code"] == "name_taken"
    assert (await raw(ann, "PATCH", "from0/name", {**move, "on_conflict": "rename"})).json["name"] == "name (1)"
    assert (await raw(ann, "PATCH", "target/name%20(1)", {"name": "name"})).json["code"] == "name_taken"
    renamed = await raw(ann, "PATCH", "target/name%20(1)", {"name": "NAME"})
    assert (renamed.status, renamed.json["name"]) == (200, "NAME")
    assert (await raw(ann, "PATCH", "from1/name", {**move, "on_conflict": "replace"})).status in (409, 422)
    trashed = (await raw(ann, "DELETE", "target/name")).json["deleted"]
    await made(ann, "target/name")
    refused = await ann("POST", f"/v1/files/{trashed}/restore")
    assert (refused.status, refused.json["code"]) == (409, "name_taken")
    restored = await ann("POST", f"/v1/files/{trashed}/restore", {"on_conflict": "rename"})
    assert (restored.status, restored.json["name"]) == (200, "name (1)")
    names = [file["name"] for file in (await raw(ann, "GET", "target?children&sort=name")).json["files"]]
    assert sorted(names) == ["NAME", "name", "name (1)"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "children", "rename", "move", "favorite", "trash", "make"]),
        st.sampled_from(["a", "a/b", "a/b/f", "c", "a/c", "c/b", "a/b/b", "none"]),
        st.sampled_from(["a", "b", "c", "f", "a/b", "F"]),
    ),
    min_size=3,
    max_size=10,
)
numbers = itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
async def test_any_sequence_of_requests_by_path_does_what_it_does_by_id(
    ann: Person, bob: Person, steps: list[tuple[str, str, str]]
) -> None:
    """Ann sends ids and Bob paths, each in a drive of the same tree."""
    top = f"top {next(numbers)}"

    async def id_of(person: Person, path: str) -> str:
        found = await raw(person, "GET", f"{quote(top)}/{path}")
        return str(found.json["id"]) if found.status == 200 else UNKNOWN

    async def send(person: Person, step: str, path: str, other: str) -> Answer:
        url = f"/v1/files/{await id_of(person, path)}" if person is ann else f"/v1/files/by-path/{quote(top)}/{path}"
        match step:
            case "get":
                return await person("GET", url)
            case "children":
                return await person("GET", f"{url}/children" if person is ann else f"{url}?children")
            case "rename":
                return await person("PATCH", url, {"name": other.replace("/", "")})
            case "move":
                return await person("PATCH", url, {"parent_id": await id_of(person, other), "on_conflict": "rename"})
            case "favorite":
                return await person("PATCH", url, {"favorite": True})
            case "trash":
                return await person("DELETE", url)
            case _:
                return await person("POST", "/v1/folders", {"path": f"{top}/{path}/{other}", "parents": True})

    def told(answer: Answer) -> Any:
        """What an answer says, without the ids and instants, which differ."""
        json = answer.json
        entries = json.get("files", [json])
        parts = [(e.get("name"), e.get("kind"), e.get("favorite"), e.get("code")) for e in entries]
        return answer.status, sorted(parts, key=str)

    for person in (ann, bob):
        await made(person, f"{top}/a")
        await person.upload("f", path=f"{top}/a/b", parents=True)
        await made(person, f"{top}/c")
    for step in steps:
        assert told(await send(ann, *step)) == told(await send(bob, *step)), step
