"""Every route against everyone who may call it: a matrix made of OPERATIONS, so that a route without a row fails.

Ann has a file, one in the trash, an upload that is pending and one that is
committed, all with canaries in their names and bytes.  Others ask for them by
their ids, which they are given.  No answer may contain a canary.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import pytest

from godrive.http.api.operations import Operation
from godrive.http.app import OPERATIONS, create_app
from godrive.http.routes import docs
from godrive.messages.auth import Authenticate
from godrive.model import UserId, UserState
from godrive.principal import ApiToken, Scope
from godrive.rules import users
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"
BYTES = b"bytes of canary-7f3a"
GARBAGE = ["x", "eyJhbGciOiJub25lIn0.e30.", "a.b.c"]
PASSWORD = "correct horse"
_numbers = itertools.count()
TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
LAST = {"Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1"}
CREATED = {**TUS, "Upload-Length": str(len(BYTES)), "Upload-Metadata": "filename bmV3LnR4dA=="}


@dataclass(frozen=True)
class Row:
    """How a route is called, and what its owner gets."""

    status: int
    """The answer to the owner of what the path names; to anyone for a public route."""
    path: dict[str, str] = field(default_factory=dict)
    """Which of Ann's things the path names: keys of ``Ann.ids``."""
    body: Any = None
    query: dict[str, str] = field(default_factory=dict)
    """Values in braces, here, in the body and in the headers, are keys of ``Ann.ids``."""
    headers: dict[str, str] = field(default_factory=dict)
    foreign: tuple[int, str] = (404, "not_found")
    """The answer to others, if the request names something of Ann's."""
    tells: bool = False
    """Whether the owner's answer contains a canary: proof that others could have seen it."""


ROWS: dict[str, list[Row]] = {
    "sign_up": [Row(409, body={"email": "ann@example.org", "password": PASSWORD})],
    "log_in": [Row(401, body={"email": "ann@example.org", "password": "wrong horse"})],
    "refresh_token": [Row(401, body={"refresh_token": "x"})],
    "log_out": [Row(204)],
    "get_me": [Row(200, tells=True)],
    "update_me": [Row(200, body={"current_password": PASSWORD}, tells=True)],
    "delete_me": [Row(403, body={"password": "wrong horse"})],
    "list_sessions": [Row(200)],
    "end_session": [Row(204, {"session_id": "session"})],
    "begin_upload": [
        Row(200, body={"filename": f"{CANARY}-new.txt", "size_bytes": 1}),
        Row(200, body={"filename": f"{CANARY}-new.txt", "size_bytes": 1, "parent_id": "{folder}"}),
    ],
    "describe_tus": [Row(204)],
    "describe_tus_folder": [Row(204, {"path": "folder_path"})],
    "describe_tus_upload": [Row(204, {"upload_id": "resumable"})],
    "create_tus_upload": [
        Row(201, headers=CREATED),
        Row(201, query={"parent_id": "{folder}"}, headers=CREATED),
    ],
    "create_tus_upload_in_folder": [Row(201, {"path": "folder_path"}, headers=CREATED)],
    "get_tus_upload": [
        Row(200, {"upload_id": "resumable"}, tells=True),
        Row(404, {"upload_id": "committed"}),
    ],
    "append_to_tus_upload": [Row(204, {"upload_id": "resumable"}, headers={**TUS, "Upload-Offset": "0"})],
    "terminate_tus_upload": [Row(204, {"upload_id": "resumable"}, headers=TUS)],
    "override_tus_method": [
        Row(204, {"upload_id": "resumable"}, headers={**TUS, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}),
        Row(204, {"upload_id": "resumable"}, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}),
        Row(204, {"upload_id": "resumable"}, headers={**TUS, "X-HTTP-Method-Override": "HEAD"}),
    ],
    "list_uploads": [Row(200, tells=True)],
    "get_upload": [Row(200, {"upload_id": "pending"}, tells=True), Row(200, {"upload_id": "committed"}, tells=True)],
    "append_to_upload": [Row(201, {"upload_id": "resumable"}, headers=LAST, tells=True)],
    "describe_files": [Row(204)],
    "describe_path": [Row(204, {"path": "path"})],
    "complete_upload": [Row(409, {"upload_id": "pending"}), Row(200, {"upload_id": "committed"}, tells=True)],
    "list_parts": [Row(409, {"upload_id": "pending"}), Row(409, {"upload_id": "committed"})],
    "begin_s3_upload": [Row(409, {"upload_id": "pending"})],
    "list_s3_parts": [Row(409, {"upload_id": "pending"})],
    "complete_s3_upload": [Row(409, {"upload_id": "pending"}), Row(200, {"upload_id": "committed"})],
    "sign_more_parts": [
        Row(409, {"upload_id": "pending"}, {"numbers": [1]}),
        Row(409, {"upload_id": "committed"}, {"numbers": [1]}),
    ],
    "abort_upload": [Row(200, {"upload_id": "pending"}, tells=True), Row(409, {"upload_id": "committed"})],
    "list_files": [
        Row(200, tells=True),
        Row(200, query={"parent_id": "root"}, tells=True),
        Row(200, query={"parent_id": "{folder}"}),
    ],
    "make_folder": [
        Row(201, body={"name": f"{CANARY}-new"}, tells=True),
        Row(201, body={"name": f"{CANARY}-new", "parent_id": "{folder}"}, tells=True),
    ],
    "list_children": [Row(200, {"file_id": "folder"})],
    "get_by_path": [
        Row(200, {"path": "path"}, tells=True),
        Row(200, {"path": "folder_path"}, query={"children": "true"}),
        Row(404, {"path": "trashed_path"}),
    ],
    "update_by_path": [Row(200, {"path": "path"}, {"name": f"{CANARY}-renamed.txt"}, tells=True)],
    "trash_by_path": [Row(200, {"path": "path"}), Row(404, {"path": "trashed_path"})],
    "get_file": [Row(200, {"file_id": "file"}, tells=True), Row(404, {"file_id": "trashed"})],
    "update_file": [
        Row(200, {"file_id": "file"}, {"name": f"{CANARY}-renamed.txt"}, tells=True),
        Row(200, {"file_id": "file"}, {"modified_at": "2001-02-03T04:05:06Z"}, tells=True),
    ],
    "list_favorites": [Row(200)],
    "list_by_property": [Row(200, query={"key": "color"})],
    "copy_file": [
        Row(201, {"file_id": "file"}, {"name": f"{CANARY}-copy.txt"}, tells=True),
        Row(201, {"file_id": "file"}, {"parent_id": "{folder}"}, tells=True),
        Row(404, {"file_id": "trashed"}, {"name": f"{CANARY}-copy.txt"}),
    ],
    "run_batch": [
        Row(200, body={"operations": [{"op": "rename", "id": "{file}", "name": f"{CANARY}-renamed.txt"}]}, tells=True),
        Row(200, body={"operations": [{"op": "copy", "id": "{file}", "parent_id": "{folder}"}]}, tells=True),
        Row(200, body={"operations": [{"op": "move", "path": f"{CANARY}.txt", "parent_id": "{folder}"}]}, tells=True),
        Row(200, body={"operations": [{"op": "trash", "id": "{file}"}]}, tells=True),
        Row(200, body={"operations": [{"op": "restore", "id": "{trashed}"}]}, tells=True),
        Row(200, body={"operations": [{"op": "purge", "id": "{trashed}"}]}),
        Row(200, body={"operations": [{"op": "mkdir", "name": f"{CANARY}-new"}]}, tells=True),
    ],
    "trash_file": [Row(200, {"file_id": "file"})],
    "restore_file": [Row(200, {"file_id": "trashed"}, tells=True)],
    "get_archive": [Row(200, {"file_id": "folder"})],
    "search_files": [
        Row(200, query={"q": CANARY}, tells=True),
        Row(200, query={"type": "folder"}),
        Row(200, query={"q": CANARY, "in": "{folder}"}),
    ],
    "download_file": [
        Row(200, {"file_id": "file"}),
        Row(200, {"file_id": "file"}, query={"version_id": "{version}"}),
        Row(404, {"file_id": "trashed"}),
    ],
    "list_versions": [Row(200, {"file_id": "file"}), Row(404, {"file_id": "trashed"})],
    "get_version_content": [
        Row(200, {"file_id": "file", "version_id": "version"}, tells=True),
        Row(404, {"file_id": "trashed", "version_id": "version"}),
    ],
    "restore_version": [
        Row(200, {"file_id": "file", "version_id": "version"}, tells=True),
        Row(404, {"file_id": "trashed", "version_id": "version"}),
    ],
    "name_version": [
        Row(200, {"file_id": "file", "version_id": "version"}, {"name": CANARY}, tells=True),
        Row(404, {"file_id": "trashed", "version_id": "version"}, {"name": "other"}),
    ],
    "delete_version": [
        Row(204, {"file_id": "file", "version_id": "version"}),
        Row(409, {"file_id": "file", "version_id": "current"}),
    ],
    "list_trash": [Row(200, tells=True)],
    "purge_file": [Row(204, {"file_id": "trashed"}), Row(404, {"file_id": "file"})],
    "empty_trash": [Row(200)],
    "put_by_path": [Row(201, {"path": "new_path"})],
    "post_file": [
        Row(201, query={"name": f"{CANARY}-new.txt"}, tells=True),
        Row(201, query={"name": f"{CANARY}-new.txt", "parent_id": "{folder}"}, tells=True),
    ],
    "put_content": [Row(201, {"upload_id": "pending"}, tells=True)],
    "get_content": [Row(200, {"file_id": "file"}, tells=True)],
    "list_changes": [
        Row(200),
        Row(200, query={"cursor": "{cursor}", "wait": "1"}, foreign=(410, "cursor_reset"), tells=True),
    ],
    "follow_changes": [Row(200)],
    "list_webhooks": [Row(200, tells=True)],
    "add_webhook": [Row(201, body={"url": f"https://example.org/{CANARY}-new"}, tells=True)],
    "remove_webhook": [Row(204, {"webhook_id": "webhook"})],
    "replay_webhook": [Row(200, {"webhook_id": "webhook"}, tells=True)],
    "health": [Row(200)],
    "livez": [Row(200)],
    "readyz": [Row(200)],
    "metrics": [Row(200)],
}


@dataclass(frozen=True, repr=False)
class Case:
    """One row of one route, by one of its paths."""

    operation: Operation
    row: Row
    path: str

    def __repr__(self) -> str:
        body = self.row.body or {}
        named = [*self.row.path.values(), *self.row.query.values(), *filter(None, [body.get("parent_id")])]
        return "-".join([self.operation.method, self.path, *named])

    @property
    def names_a_thing(self) -> bool:
        """Whether the request names something of Ann's."""
        values = [*self.row.query.values(), *(self.row.body or {}).values(), *self.row.headers.values()]
        return bool(self.row.path) or any(str(value).startswith("{") for value in values)

    async def __call__(self, person: Person, owner: Ann, **options: Any) -> Answer:
        """Have *person* ask for what is *owner*'s."""
        target = self.path.format(**{name: owner.ids[key] for name, key in self.row.path.items()})
        body = self.row.body and {name: _filled(value, owner, person) for name, value in self.row.body.items()}
        query = {name: _filled(value, owner, person) for name, value in self.row.query.items()}
        query |= options.pop("params", {})
        headers = {name: _filled(value, owner, person) for name, value in self.row.headers.items()}
        options["headers"] = headers | options.get("headers", {})
        if self.operation.method == "GET":
            head = await person("HEAD", target, params=query, **options)
            answer = await person("GET", target, params=query, **options)
            assert (head.status, head.content) == (answer.status, b"")
            if head.status >= 400 or not self.row.tells:
                check_silent(head)
            return answer
        if self.operation.content:
            options.setdefault("data", BYTES)
        return await person(self.operation.method, target, body, params=query, **options)


def _filled(value: Any, owner: Ann, person: Person) -> Any:
    """The value with Ann's ids, and for others without the canary, which they cannot know."""
    if isinstance(value, list):
        return [_filled(item, owner, person) for item in value]
    if isinstance(value, dict):
        return {name: _filled(item, owner, person) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    known = value if person is owner.person else value.replace(CANARY, "other")
    return known.format(**owner.ids) if known.startswith("{") else known


def all_cases(*, needs: Literal["scope", "public", "signed"]) -> list[Case]:
    """The rows of these routes."""
    wanted = {"scope": lambda o: bool(o.scopes), "public": lambda o: o.public, "signed": lambda o: o.signed}[needs]
    return [
        Case(operation, row, path)
        for operation in filter(wanted, OPERATIONS)
        for row in ROWS.get(operation.name, [])
        for path in filter(None, (operation.path, operation.original))
    ]


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert ROWS.keys() == {operation.name for operation in OPERATIONS}
    for operation in OPERATIONS:
        assert all(row.path.keys() == set(operation.parameters) for row in ROWS[operation.name])
    assert all(operation.public for operation in docs.routes.operations)


async def test_no_route_is_served_that_declares_nothing(site: Site) -> None:
    declared = {
        (method, path)
        for operation in (*OPERATIONS, *docs.routes.operations)
        for path in filter(None, (operation.path, operation.original))
        for method in ([operation.method, "HEAD"] if operation.method == "GET" else [operation.method])
    }
    routes = create_app(site.drive).router.routes()
    served = {(route.method, route.resource.canonical) for route in routes if route.resource is not None}
    assert served == declared  # the webhook, which has a token of its own, is served only where one is configured


@dataclass
class Ann:
    """What Ann has."""

    person: Person
    ids: dict[str, str]
    urls: dict[str, str]

    async def state(self) -> Json:
        """All there is to see of it."""
        paths = ("/v1/files", "/v1/trash", "/v1/uploads")
        return {path: (await self.person("GET", path)).json for path in paths} | {
            "versions": (await self.person("GET", f"/v1/files/{self.ids['file']}/versions")).json,
            "bytes": (await self.person("GET", self.urls["get_content"])).content,
            "sessions": [s["id"] for s in (await self.person("GET", "/v1/sessions")).json["sessions"]],
        }


async def settle(person: Person) -> Ann:
    """Give the person a file, one in the trash, and two uploads."""
    cursor = (await person("GET", "/v1/changes")).json["cursor"]
    earlier = await person.upload(f"{CANARY}.txt", b"earlier " + BYTES)
    file = await person.upload(f"{CANARY}.txt", BYTES, on_conflict="replace")
    trashed = await person.upload(f"{CANARY}-trashed.txt", BYTES)
    await person("DELETE", f"/v1/files/{trashed['id']}")
    intent = {"filename": f"{CANARY}-pending.txt", "size_bytes": len(BYTES), "mime": "text/plain"}
    pending = (await person("POST", "/v1/files/upload-intent", intent)).json
    name = base64.b64encode(f"{CANARY}-resumable.txt".encode()).decode()
    resumable = await person("POST", "/v1/tus", headers={**CREATED, "Upload-Metadata": f"filename {name}"})
    assert resumable.status == 201, resumable.content
    uploads = (await person("GET", "/v1/uploads?state=committed")).json["uploads"]
    (committed,) = [upload["id"] for upload in uploads if upload["file_id"] == file["id"]][:1]
    (session,) = (await person("GET", "/v1/sessions")).json["sessions"]
    url = (await person("GET", f"/v1/files/{file['id']}/download")).json["url"]
    folder = (await person("POST", "/v1/folders", {"name": "the-folder-of-ann"})).json
    webhook = (await person("POST", "/v1/webhooks", {"url": f"https://example.org/{CANARY}"})).json
    ids = {
        "webhook": webhook["id"],
        "cursor": cursor,
        "folder": folder["id"],
        "file": file["id"],
        "version": earlier["version_id"],
        "current": file["version_id"],
        "trashed": trashed["id"],
        "pending": pending["upload_id"],
        "resumable": resumable.headers["Location"].rpartition("/")[2],
        "committed": committed,
        "folder_path": "the-folder-of-ann",
        "path": f"{CANARY}.txt",
        "new_path": "the-folder-of-ann/new.txt",
        "trashed_path": f"{CANARY}-trashed.txt",
    }
    archive = (await person("GET", f"/v1/files/{folder['id']}/download")).json["url"]
    urls = {"put_content": pending["upload_url"], "get_content": url, "get_archive": archive}
    return Ann(person, ids | {"session": session["id"]}, urls)


async def newcomer(http: aiohttp.ClientSession, site: Site) -> Ann:
    """Somebody with as much as Ann."""
    return await settle(await Person(http, site.url).enter(f"{CANARY}-{next(_numbers)}@example.org"))


@pytest.fixture
async def owner(http: aiohttp.ClientSession, site: Site) -> Ann:
    """Ann, whose address is a canary too."""
    return await settle(await Person(http, site.url).enter(f"{CANARY}@example.org"))


async def disable(site: Site, person: Person) -> None:
    """Do what the operator's ``user disable`` does."""
    user_id, now = UserId((await person("GET", "/v1/me")).json["id"]), site.clock.now()
    await site.drive.catalog.write(lambda tx: users.set_state(tx, user_id, UserState.DISABLED, now=now))


def check_silent(answer: Answer) -> None:
    """Fail if the answer lets a canary out."""
    assert CANARY.encode() not in answer.content
    assert not any(CANARY in value for value in answer.headers.values())


@each("case", all_cases(needs="scope"))
async def test_the_owner_gets_what_the_table_says(case: Case, http: aiohttp.ClientSession, site: Site) -> None:
    owner = await newcomer(http, site)
    answer = await case(owner.person, owner)
    assert answer.status == case.row.status, answer.content
    assert (CANARY.encode() in answer.content) == case.row.tells
    if answer.status < 400:
        assert answer.headers["Vary"] == "Authorization"
        assert answer.headers["Cache-Control"] in ("private, no-cache", "no-store")


@pytest.fixture
async def ended(owner: Ann, site: Site) -> Person:
    """Ann by a session that has ended."""
    person = await Person(owner.person.http, site.url).enter(f"{CANARY}@example.org")
    assert (await person("POST", "/v1/logout")).status == 204
    return person


@pytest.fixture
async def disabled(site: Site, stranger: Person) -> Ann:
    """Somebody who had as much as Ann, until they were disabled."""
    found = await settle(await Person(stranger.http, site.url).enter("d@e.f"))
    await disable(site, found.person)
    site.clock.advance(1.1)
    return found


@each("case", all_cases(needs="scope"))
async def test_without_a_credential_that_is_alive_nobody_gets_anything(
    case: Case, owner: Ann, ended: Person, disabled: Ann, stranger: Person
) -> None:
    before = await owner.state()
    headers: list[dict[str, str]] = [{}, *({"Authorization": f"Bearer {garbage}"} for garbage in GARBAGE)]
    headers += [{"Authorization": f"Basic {owner.person.token}"}, {"Authorization": f"Bearer {ended.token}"}]
    headers += [{"Authorization": f"Bearer {owner.person.tokens['refresh_token']}"}]
    for credential in headers:
        answer = await case(stranger, owner, headers=credential)
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated"), credential
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        check_silent(answer)
    for target in (owner, disabled):
        answer = await case(disabled.person, target)
        assert answer.status == 401
        check_silent(answer)
    # A credential in the query is none, whatever its name.
    for names in (("token", "access_token", "authorization"), ("signature",)):
        answer = await case(stranger, owner, params=dict.fromkeys(names, str(owner.person.token)))
        assert answer.status == (403 if case.operation.signed and "signature" in names else 401)
        check_silent(answer)
    assert await owner.state() == before


@each("case", all_cases(needs="scope"))
async def test_another_user_finds_nothing_and_changes_nothing(
    case: Case, owner: Ann, http: aiohttp.ClientSession, site: Site
) -> None:
    bob = await Person(http, site.url).enter(f"bob-{next(_numbers)}@example.org")
    before = await owner.state()
    answer = await case(bob, owner)
    if case.names_a_thing:
        assert (answer.status, answer.json["code"]) == case.row.foreign
    else:
        assert answer.status == case.row.status, answer.content  # about Bob's own things
        assert not any(id_ in answer.content.decode() for id_ in owner.ids.values())
    check_silent(answer)
    assert await owner.state() == before


async def test_nothing_gets_into_the_folder_of_another_user(owner: Ann, bob: Person) -> None:
    before, folder = await owner.state(), owner.ids["folder"]
    file = await bob.upload("b.txt")
    moved = await bob("PATCH", f"/v1/files/{file['id']}", {"parent_id": folder})
    assert (moved.status, moved.json["code"]) == (404, "not_found")
    check_silent(moved)
    assert (await bob("GET", f"/v1/files/{file['id']}")).json == file
    assert (await owner.person("GET", f"/v1/files?parent_id={folder}")).json == {"files": []}
    assert await owner.state() == before


async def by_token(case: Case, owner: Ann, site: Site, scopes: frozenset[Scope]) -> Answer:
    """Have the owner ask with an API token of these scopes."""
    user_id, auth = UserId((await owner.person("GET", "/v1/me")).json["id"]), site.drive.auth

    class Tokens:
        """Auth that knows one API token and passes everything else on."""

        async def ask(self, message: Any, **options: Any) -> Any:
            if isinstance(message, Authenticate) and message.token == "an-api-token":
                return ApiToken(user_id=user_id, token_id="t", scopes=scopes)
            return await auth.ask(message, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.drive, "auth", Tokens())
        patch.setattr(owner.person, "token", "an-api-token")
        return await case(owner.person, owner)


@each("case", all_cases(needs="scope"))
async def test_a_token_reaches_only_the_routes_of_its_scopes(case: Case, owner: Ann, site: Site) -> None:
    before = await owner.state()
    everything = frozenset(Scope) - {Scope.ACCOUNT}
    for lacking in (case.operation.scopes, *(frozenset({scope}) for scope in case.operation.needs_also)):
        answer = await by_token(case, owner, site, everything - lacking)
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
        check_silent(answer)
    assert await owner.state() == before


@each("case", [case for case in all_cases(needs="scope") if Scope.ACCOUNT not in case.operation.scopes])
async def test_the_scopes_that_a_route_declares_are_all_that_it_needs(
    case: Case, http: aiohttp.ClientSession, site: Site
) -> None:
    for scope in case.operation.scopes:
        owner = await newcomer(http, site)
        answer = await by_token(case, owner, site, case.operation.needs_also | {scope})
        assert answer.status == case.row.status, answer.content


@each("case", all_cases(needs="public"))
async def test_a_public_route_tells_everyone_the_same(case: Case, owner: Ann, stranger: Person, bob: Person) -> None:
    if case.operation.name == "sign_up":
        await stranger("POST", "/v1/signup", case.row.body)
    for person in (stranger, bob, owner.person):
        answer = await case(person, owner)
        assert answer.status == case.row.status, answer.content
        check_silent(answer)
        assert not any(id_ in answer.content.decode() for id_ in owner.ids.values())


def altered(url: str) -> Iterator[str]:
    """The URL with each part of its query changed, left out, doubled, and with one more."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    for at, (name, value) in enumerate(query):
        rest = query[:at] + query[at + 1 :]
        changed = value[:-1] + ("1" if value[-1:] != "1" else "2")
        for other in ([*rest, (name, changed)], rest, [*query, (name, value)], [*query, (name, changed)]):
            yield parts._replace(query=urlencode(other)).geturl()
    yield parts._replace(query=urlencode([*query, ("inline", "1")])).geturl()
    yield parts._replace(query="").geturl()


@pytest.mark.parametrize("case", all_cases(needs="signed"), ids=str)
async def test_a_signed_route_serves_its_url_and_nothing_else(
    case: Case, owner: Ann, site: Site, stranger: Person, bob: Person
) -> None:
    before = await owner.state()
    url = owner.urls[case.operation.name]
    theirs = (await settle(bob)).urls[case.operation.name]
    assert urlsplit(url).path == case.path.format(**{name: owner.ids[key] for name, key in case.row.path.items()})
    other = next(signed for name, signed in owner.urls.items() if name != case.operation.name)
    mine = urlsplit(url)
    foreign = [mine._replace(query=urlsplit(signed).query).geturl() for signed in (theirs, other)]
    method = case.operation.method
    for person in (stranger, bob, owner.person):  # a session does not make up for a signature
        for attempt in (*altered(url), *foreign):
            answer = await person(method, attempt, data=BYTES if method == "PUT" else None)
            if case.operation.scopes and "signature=" not in attempt:  # then the token decides
                assert answer.status == (401 if person is stranger else 422 if "?" in attempt else answer.status)
                assert person is owner.person or answer.status >= 400
                check_silent(answer) if person is not owner.person else None
                continue
            assert (answer.status, answer.json["code"]) == (403, "url_invalid"), attempt
            check_silent(answer)
    for wrong in {"GET", "HEAD", "PUT", "POST", "DELETE"} - {method} - ({"HEAD"} if method == "GET" else set()):
        answer = await stranger(wrong, url)
        assert answer.status == 405
        check_silent(answer)
    assert await owner.state() == before
    sent = {"data": BYTES} if method == "PUT" else {}
    served = await stranger(method, url, **sent)
    assert served.status == case.row.status
    assert (CANARY.encode() in served.content) == case.row.tells
    site.clock.advance(timedelta(days=2).total_seconds())
    late = await stranger(method, url, **sent)
    assert (late.status, late.json["code"]) == (403, "url_invalid")
    check_silent(late)


@pytest.mark.parametrize("end", ["disable", "delete", "trash"])
async def test_a_signed_url_ends_with_the_right_of_who_made_it(
    end: str, owner: Ann, site: Site, stranger: Person
) -> None:
    user_id = UserId((await owner.person("GET", "/v1/me")).json["id"])
    if end == "disable":
        await site.drive.catalog.write(
            lambda tx: users.set_state(tx, user_id, UserState.DISABLED, now=site.clock.now())
        )
    elif end == "delete":
        assert (await owner.person("DELETE", "/v1/me", {"password": PASSWORD})).status == 204
    else:
        for id_ in ("file", "folder"):
            await owner.person("DELETE", f"/v1/files/{owner.ids[id_]}")
    site.clock.advance(1.1)
    for name in ("get_content", "get_archive"):
        answer = await stranger("GET", owner.urls[name])
        assert answer.status in (401, 403, 404)
        check_silent(answer)
    if end != "trash":
        answer = await stranger("PUT", owner.urls["put_content"], data=BYTES)
        assert answer.status in (401, 403, 404, 410)
        check_silent(answer)
