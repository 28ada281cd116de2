"""A proxy that loses each first answer, and a client that sends the same request again, on every mutating route.

The server has done what was asked when the answer is lost.  The second answer
must be the first one again, or say that it is done; nothing is done twice.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import pytest
from yarl import URL

from godrive.blobs import BlobStore
from godrive.blobs.parts import SMALLEST_PART
from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.http.app import OPERATIONS
from tests.blobs.s3.fake_store import FakeStore
from tests.http.client import Answer, Json, Person, Site, parse
from tests.http.conftest import _open_site

pytestmark = pytest.mark.anyio

BYTES = b"bytes of the file"
PASSWORD = "correct horse"
NO_HEADERS: Mapping[str, str] = {}


class LosingProxy:
    """Passes requests on, one for each connection, and cuts the connection instead of passing the answer on once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.losing = False
        self.lost: list[Answer] = []

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
        sending = asyncio.create_task(_pass_on(reader, upstream_writer))
        received = await upstream_reader.read()  # the client sends "Connection: close"
        sending.cancel()
        upstream_writer.close()
        if self.losing:
            self.losing = False
            self.lost.append(parse(received))
            writer.transport.abort()
            return
        writer.write(received)
        await writer.drain()
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


class Stubborn:
    """A person whose first answer to each request is lost, and who sends the same again."""

    def __init__(self, person: Person, proxy: LosingProxy, port: int) -> None:
        self.person = person
        self.proxy = proxy
        self.port = port

    async def __call__(
        self, method: str, path: str, body: Any = None, *, data: bytes = b"", headers: Mapping[str, str] = NO_HEADERS
    ) -> tuple[Answer, Answer]:
        """The answer that was lost, and the one to the same request sent again."""
        content = data if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: proxy", "Connection: close", f"Content-Length: {len(content)}"]
        lines += [f"Authorization: Bearer {self.person.token}"]
        lines += ["Content-Type: application/json"] * (body is not None)
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
        self.proxy.losing = True
        assert await self._exchange(request) == b""
        return self.proxy.lost[-1], parse(await self._exchange(request))

    async def _exchange(self, request: bytes) -> bytes:
        """Send the request on a connection of its own.  No client library: some send again by themselves."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@dataclass
class Scene:
    """A person behind a losing proxy, and the same person straight at the server."""

    ann: Person
    stubborn: Stubborn
    site: Site
    ids: dict[str, str] = field(default_factory=dict)

    async def intent(self, name: str = "new.txt") -> Json:
        body = {"filename": name, "size_bytes": len(BYTES), "mime": "text/plain"}
        answer: Json = (await self.ann("POST", "/v1/files/upload-intent", body)).json
        return answer


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Somebody with a file and one in the trash."""
    async with open_scene() as scene:
        file, trashed = await scene.ann.upload("a.txt", BYTES), await scene.ann.upload("b.txt", BYTES)
        await scene.ann("DELETE", f"/v1/files/{trashed['id']}")
        scene.ids = {"file": file["id"], "trashed": trashed["id"]}
        yield scene


@asynccontextmanager
async def open_scene(blob_store: BlobStore | None = None) -> AsyncIterator[Scene]:
    async with _open_site(blob_store=blob_store) as site, aiohttp.ClientSession() as http:
        proxy = LosingProxy(site.port)
        async with proxy.listen() as port:
            ann = await Person(http, site.url).enter()
            yield Scene(ann, Stubborn(ann, proxy, port), site)


def check_same(lost: Answer, again: Answer) -> None:
    assert (again.status, again.content) == (lost.status, lost.content)
    for name in ("etag", "location"):
        assert again.headers.get(name) == lost.headers.get(name)


async def sign_up(scene: Scene) -> None:
    """The second answer says that the account is there; logging in works."""
    account = {"email": "bob@example.org", "password": PASSWORD}
    lost, again = await scene.stubborn("POST", "/v1/signup", account)
    assert (lost.status, again.status, again.json["code"]) == (201, 409, "email_taken")
    assert (await scene.ann("POST", "/v1/login", account)).status == 200


async def log_in(scene: Scene) -> None:
    """A second session begins; the lost one is listed and can be ended."""
    lost, again = await scene.stubborn("POST", "/v1/login", {"email": "ann@example.org", "password": PASSWORD})
    assert (lost.status, again.status) == (200, 200)
    assert len((await scene.ann("GET", "/v1/sessions")).json["sessions"]) == 3


async def refresh_token(scene: Scene) -> None:
    """The same refresh token comes again, and the session goes on."""
    lost, again = await scene.stubborn(
        "POST", "/v1/token/refresh", {"refresh_token": scene.ann.tokens["refresh_token"]}
    )
    assert (lost.status, again.status) == (200, 200)
    assert again.json["refresh_token"] == lost.json["refresh_token"]
    scene.ann.token = again.json["token"]
    assert (await scene.ann("GET", "/v1/me")).status == 200
    newer = await scene.ann("POST", "/v1/token/refresh", {"refresh_token": again.json["refresh_token"]})
    assert newer.status == 200


async def log_out(scene: Scene) -> None:
    """The second answer says that there is no session any more."""
    lost, again = await scene.stubborn("POST", "/v1/logout")
    assert (lost.status, again.status) == (204, 401)


async def update_me(scene: Scene) -> None:
    """A new address is set again; after a new password the old one is wrong."""
    lost, again = await scene.stubborn("PATCH", "/v1/me", {"current_password": PASSWORD, "email": "new@example.org"})
    check_same(lost, again)
    change = {"current_password": PASSWORD, "password": "another horse"}
    lost, again = await scene.stubborn("PATCH", "/v1/me", change)
    assert (lost.status, again.status) == (200, 403)
    account = {"email": "new@example.org", "password": "another horse"}
    assert (await scene.ann("POST", "/v1/login", account)).status == 200


async def delete_me(scene: Scene) -> None:
    """The second answer says that there is no session any more."""
    lost, again = await scene.stubborn("DELETE", "/v1/me", {"password": PASSWORD})
    assert (lost.status, again.status) == (204, 401)


async def end_session(scene: Scene) -> None:
    """The session has ended, and is not found the second time."""
    await scene.ann("POST", "/v1/login", {"email": "ann@example.org", "password": PASSWORD})
    (other,) = [s["id"] for s in (await scene.ann("GET", "/v1/sessions")).json["sessions"] if not s["current"]]
    lost, again = await scene.stubborn("DELETE", f"/v1/sessions/{other}")
    assert lost.status == 204
    assert again.status in (204, 404)


async def begin_upload(scene: Scene) -> None:
    """With a key the same intent comes again; without one there are two, of which one expires."""
    body = {"filename": "new.txt", "size_bytes": 5}
    lost, again = await scene.stubborn("POST", "/v1/files/upload-intent", body, headers={"Idempotency-Key": "k"})
    check_same(lost, again)
    assert len((await scene.ann("GET", "/v1/uploads?state=pending")).json["uploads"]) == 1
    lost, again = await scene.stubborn("POST", "/v1/files/upload-intent", body)
    assert (lost.status, again.status) == (200, 200)
    assert lost.json["upload_id"] != again.json["upload_id"]


TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
CREATED = {**TUS, "Upload-Length": str(len(BYTES)), "Upload-Metadata": "filename bmV3LnR4dA=="}


async def create_tus_upload(scene: Scene) -> None:
    """With a key the same upload comes again; without one there are two, of which one expires."""
    lost, again = await scene.stubborn("POST", "/v1/tus", headers={**CREATED, "Idempotency-Key": "k"})
    assert lost.status == 201
    check_same(lost, again)
    lost, again = await scene.stubborn("POST", "/v1/tus", headers=CREATED)
    assert (lost.status, again.status) == (201, 201)
    assert lost.headers["location"] != again.headers["location"]


async def create_tus_upload_in_folder(scene: Scene) -> None:
    """As without a folder."""
    path = "/v1/tus/by-path/"
    lost, again = await scene.stubborn("POST", path, headers={**CREATED, "Idempotency-Key": "k"})
    assert lost.status == 201
    check_same(lost, again)


async def append_to_tus_upload(scene: Scene, method: str = "PATCH") -> None:
    """The state of the upload says what was stored; after the last byte the same answer comes again."""
    for name in ("a", "b"):
        said = {**CREATED, "Upload-Metadata": f"filename {base64.b64encode(f'{method}{name}'.encode()).decode()}"}
        target = (await scene.ann("POST", "/v1/tus", headers=said)).headers["Location"].removeprefix(scene.ann.url)
        override = {"X-HTTP-Method-Override": "PATCH"}
        lost, again = await scene.stubborn(
            method, target, data=BYTES[:5], headers={**TUS, **override, "Upload-Offset": "0"}
        )
        assert (lost.status, again.status, again.headers["upload-offset"]) == (204, 409, "5")
        last = {**TUS, **override, "Upload-Offset": "5"}
        lost, again = await scene.stubborn(method, target, data=BYTES[5:], headers=last)
        assert (lost.status, again.status, again.headers["upload-offset"]) == (204, 409, str(len(BYTES)))
        asked = await scene.ann("HEAD", target, headers=TUS)
        assert asked.headers["Upload-File-Id"] == lost.headers["upload-file-id"]


async def override_tus_method(scene: Scene) -> None:
    """As the method that is meant."""
    await append_to_tus_upload(scene, "POST")


async def terminate_tus_upload(scene: Scene) -> None:
    """The same answer comes again."""
    target = (await scene.ann("POST", "/v1/tus", headers=CREATED)).headers["Location"].removeprefix(scene.ann.url)
    lost, again = await scene.stubborn("DELETE", target, headers=TUS)
    assert lost.status == 204
    check_same(lost, again)


async def append_to_upload(scene: Scene) -> None:
    """The state of the upload says what was stored; the end of it, sent again without bytes, gets the file again."""
    part = {"Upload-Complete": "?0", "Content-Type": "application/partial-upload"}
    created = await scene.ann("PUT", "/v1/files/by-path/new.txt", headers={"Upload-Complete": "?0"})
    target = created.headers["Location"].removeprefix(scene.ann.url)
    lost, again = await scene.stubborn("PATCH", target, data=BYTES, headers={**part, "Upload-Offset": "0"})
    assert (lost.status, again.status, again.headers["upload-offset"]) == (204, 409, str(len(BYTES)))
    end = {**part, "Upload-Complete": "?1", "Upload-Offset": str(len(BYTES))}
    lost, again = await scene.stubborn("PATCH", target, headers=end)
    assert lost.status == 201
    check_same(lost, again)


async def put_content(scene: Scene) -> None:
    """The same bytes get the file again, and other bytes do not."""
    intent = await scene.intent()
    target = intent["upload_url"].removeprefix(scene.ann.url)
    lost, again = await scene.stubborn("PUT", target, data=BYTES)
    assert (lost.status, again.status) == (201, 200)
    assert again.json == lost.json
    assert again.headers["etag"] == lost.headers["etag"]
    assert again.headers["location"] == lost.headers["location"]
    other = await scene.ann("PUT", intent["upload_url"], data=BYTES[::-1])
    assert (other.status, other.json["code"]) == (409, "upload_finished")
    new = await scene.ann("PUT", intent["upload_url"], data=BYTES, headers={"If-None-Match": "*"})
    assert (new.status, new.json["code"]) == (412, "precondition_failed")


async def put_by_path(scene: Scene) -> None:
    """The same bytes get the file again and make no version, whatever was to be replaced."""
    path = "/v1/files/by-path/folder/new.txt?parents=true"
    lost, again = await scene.stubborn("PUT", path, data=BYTES)
    assert (lost.status, again.status, again.json) == (201, 200, lost.json)
    assert again.headers["location"] == lost.headers["location"]
    assert again.headers["etag"] == lost.headers["etag"]
    match = {"If-Match": lost.headers["etag"]}
    lost, again = await scene.stubborn("PUT", path, data=BYTES[::-1], headers=match)
    assert (lost.status, again.status, again.json) == (200, 200, lost.json)
    rows = await scene.site.drive.catalog.read(
        lambda tx: tx.all("SELECT id FROM versions WHERE file_id = $1", lost.json["id"])
    )
    assert len(rows) == 2
    absent = {"If-None-Match": "*"}
    lost, again = await scene.stubborn("PUT", "/v1/files/by-path/other.txt", data=BYTES, headers=absent)
    assert (lost.status, again.status) == (201, 412)
    lost, again = await scene.stubborn(
        "PUT", "/v1/files/by-path/other.txt?on_conflict=rename", data=BYTES, headers={"Idempotency-Key": "k"}
    )
    assert (lost.status, lost.json["name"]) == (201, "other (1).txt")
    check_same(lost, again)


async def post_file(scene: Scene) -> None:
    """The same bytes get the file again, with the digest or without; to number a new name takes a key."""
    lost, again = await scene.stubborn("POST", "/v1/files?name=new.txt", data=BYTES)
    assert (lost.status, again.status, again.json) == (201, 200, lost.json)
    assert again.headers["location"] == lost.headers["location"]
    lost, again = await scene.stubborn("POST", "/v1/files?name=other.txt&on_conflict=replace", data=BYTES)
    assert (lost.status, again.status, again.json) == (201, 200, lost.json)
    rename, key = "/v1/files?name=new.txt&on_conflict=rename", {"Idempotency-Key": "k"}
    lost, again = await scene.stubborn("POST", rename, data=BYTES, headers=key)
    assert (lost.status, lost.json["name"]) == (201, "new (1).txt")
    check_same(lost, again)
    absent = {"If-None-Match": "*"}
    lost, again = await scene.stubborn("POST", "/v1/files?name=third.txt", data=BYTES, headers=absent)
    assert (lost.status, again.status) == (201, 412)


async def complete_upload(scene: Scene) -> None:
    """The same file comes again."""
    intent = await scene.intent()
    await scene.site.drive.blobs.put(intent["object_key"], _pieces(), size=len(BYTES))
    lost, again = await scene.stubborn("POST", f"/v1/uploads/{intent['upload_id']}/complete")
    assert lost.status == 200
    check_same(lost, again)


@asynccontextmanager
async def open_parts() -> AsyncIterator[tuple[Scene, Json]]:
    """A drive over an S3 store, and an upload in parts."""
    fake = FakeStore()
    async with fake, open_scene(S3BlobStore(fake.settings, capabilities=Capabilities(conditional_put=True))) as scene:
        body = {"filename": "a", "size_bytes": 3, "part_size": SMALLEST_PART}
        yield scene, (await scene.ann("POST", "/v1/files/upload-intent", body)).json
        assert fake.uploads == {}


async def send_part(scene: Scene, part: Json) -> None:
    data = io.BytesIO(bytes(part["size_bytes"]))
    async with scene.ann.http.put(URL(part["url"], encoded=True), data=data, headers=part["headers"]) as sent:
        assert sent.status == 200


async def sign_more_parts(_: Scene) -> None:
    """The same parts are signed again.  Once they are joined, the same file comes again."""
    async with open_parts() as (scene, intent):
        path = f"/v1/uploads/{intent['upload_id']}"
        lost, again = await scene.stubborn("POST", f"{path}/parts", {"numbers": [1]})
        assert (lost.status, again.status) == (200, 200)
        (before,), (after,) = lost.json["parts"], again.json["parts"]
        assert {**before, "url": ""} == {**after, "url": ""}
        await send_part(scene, after)
        lost, again = await scene.stubborn("POST", f"{path}/complete")
        assert lost.status == 200
        check_same(lost, again)


async def begin_s3_upload(_: Scene) -> None:
    """The same id comes again.  Once the upload is aborted, the same upload comes again."""
    async with open_parts() as (scene, intent):
        path = f"/v1/uploads/{intent['upload_id']}"
        lost, again = await scene.stubborn("POST", f"{path}/s3")
        assert (lost.status, intent["upload_id"].encode() in lost.content) == (200, True)
        check_same(lost, again)
        lost, again = await scene.stubborn("DELETE", path)
        assert lost.status == 200
        check_same(lost, again)


async def complete_s3_upload(_: Scene) -> None:
    """The same file comes again."""
    async with open_parts() as (scene, intent):
        await send_part(scene, intent["parts"][0])
        lost, again = await scene.stubborn("POST", f"/v1/uploads/{intent['upload_id']}/s3/complete")
        assert lost.status == 200
        check_same(lost, again)


async def abort_upload(scene: Scene) -> None:
    """The same upload comes again."""
    intent = await scene.intent()
    lost, again = await scene.stubborn("DELETE", f"/v1/uploads/{intent['upload_id']}")
    assert lost.status == 200
    check_same(lost, again)


async def make_folder(scene: Scene) -> None:
    """With a key the folder comes again; without one the second answer says that its name is taken."""
    lost, again = await scene.stubborn("POST", "/v1/folders", {"name": "c"}, headers={"Idempotency-Key": "k"})
    assert lost.status == 201
    check_same(lost, again)
    lost, again = await scene.stubborn("POST", "/v1/folders", {"name": "d"})
    assert (lost.status, again.status, again.json["code"]) == (201, 409, "name_taken")
    lost, again = await scene.stubborn("POST", "/v1/folders", {"path": "e/f", "parents": True, "exist_ok": True})
    assert (lost.status, again.status) == (201, 200)
    assert again.json == lost.json


async def update_file(scene: Scene) -> None:
    """Name and place are what they were set to; with ``If-Match`` a key gets the first answer again."""
    path = f"/v1/files/{scene.ids['file']}"
    folder = (await scene.ann("POST", "/v1/folders", {"name": "folder"})).json
    lost, again = await scene.stubborn("PATCH", path, {"parent_id": folder["id"]})
    assert (lost.status, lost.json["parent_id"]) == (200, folder["id"])
    check_same(lost, again)
    lost, again = await scene.stubborn("PATCH", path, {"name": "c.txt"})
    assert lost.status == 200
    check_same(lost, again)
    headers = {"If-Match": again.headers["etag"], "Idempotency-Key": "k"}
    lost, again = await scene.stubborn("PATCH", path, {"name": "d.txt"}, headers=headers)
    assert lost.status == 200
    check_same(lost, again)
    headers = {"If-Match": again.headers["etag"]}
    lost, again = await scene.stubborn("PATCH", path, {"name": "e.txt"}, headers=headers)
    assert (lost.status, again.status) == (200, 412)


async def update_by_path(scene: Scene) -> None:
    """As by id; once the name is another, nothing is at the path, and a key gets the first answer again."""
    path = "/v1/files/by-path/a.txt"
    lost, again = await scene.stubborn("PATCH", path, {"favorite": True})
    assert lost.status == 200
    check_same(lost, again)
    lost, again = await scene.stubborn("PATCH", path, {"name": "b.txt"}, headers={"Idempotency-Key": "k"})
    assert (lost.status, lost.json["name"]) == (200, "b.txt")
    check_same(lost, again)
    assert (await scene.ann("PATCH", path, {"name": "b.txt"})).status == 404


async def trash_by_path(scene: Scene) -> None:
    """With a key the answer comes again; without one nothing is at the path."""
    path = "/v1/files/by-path/a.txt"
    lost, again = await scene.stubborn("DELETE", path, headers={"Idempotency-Key": "k"})
    assert (lost.status, lost.json["deleted"]) == (200, scene.ids["file"])
    check_same(lost, again)
    assert (await scene.ann("DELETE", path)).status == 404


async def copy_file(scene: Scene) -> None:
    """With a key the copy comes again; without one the second answer says that its name is taken."""
    path = f"/v1/files/{scene.ids['file']}/copy"
    body = {"on_conflict": "rename"}
    lost, again = await scene.stubborn("POST", path, body, headers={"Idempotency-Key": "k"})
    assert (lost.status, lost.json["name"]) == (201, "a (1).txt")
    check_same(lost, again)
    lost, again = await scene.stubborn("POST", path, {"name": "c.txt"})
    assert (lost.status, again.status, again.json["code"]) == (201, 409, "name_taken")
    assert len((await scene.ann("GET", "/v1/files")).json["files"]) == 3


async def run_batch(scene: Scene) -> None:
    """With a key the results come again; without one they say what was done before."""
    file, trashed = scene.ids["file"], scene.ids["trashed"]
    steps = [
        {"op": "mkdir", "name": "c"},
        {"op": "copy", "id": file, "parent_path": "c"},
        {"op": "purge", "id": trashed},
    ]
    for atomic in (False, True):
        body = {"operations": steps, "atomic": atomic}
        lost, again = await scene.stubborn("POST", "/v1/batch", body, headers={"Idempotency-Key": f"{atomic}"})
        assert lost.status == (409 if atomic else 200)  # the second time, the folder is there already
        if atomic:
            assert (again.status, again.json["field"]) == (lost.status, "operations[0].name")
        else:
            assert [result["status"] for result in lost.json["results"]] == [201, 201, 204]
            check_same(lost, again)
    lost, again = await scene.stubborn("POST", "/v1/batch", {"operations": steps})
    assert [result["status"] for result in again.json["results"]] == [409, 409, 404]
    body = {"operations": [{"op": "mkdir", "name": "d"}, {"op": "trash", "id": file}], "atomic": True}
    lost, again = await scene.stubborn("POST", "/v1/batch", body, headers={"Idempotency-Key": "k"})
    assert [result["status"] for result in lost.json["results"]] == [201, 200]
    check_same(lost, again)


async def trash_file(scene: Scene) -> None:
    """The purge date stays."""
    lost, again = await scene.stubborn("DELETE", f"/v1/files/{scene.ids['file']}")
    assert lost.status == 200
    check_same(lost, again)


async def restore_file(scene: Scene) -> None:
    """The file is back."""
    lost, again = await scene.stubborn("POST", f"/v1/files/{scene.ids['trashed']}/restore")
    assert lost.status == 200
    check_same(lost, again)


async def restore_version(scene: Scene) -> None:
    """The file has the bytes already, so the second request changes nothing."""
    old = (await scene.ann("GET", f"/v1/files/{scene.ids['file']}")).json["version_id"]
    await scene.ann.upload("a.txt", b"other", on_conflict="replace")
    path = f"/v1/files/{scene.ids['file']}/versions"
    lost, again = await scene.stubborn("POST", f"{path}/{old}/restore")
    assert (lost.status, lost.json["size_bytes"]) == (200, len(BYTES))
    check_same(lost, again)
    assert len((await scene.ann("GET", path)).json["versions"]) == 3


async def name_version(scene: Scene) -> None:
    """The version has the name."""
    file = (await scene.ann("GET", f"/v1/files/{scene.ids['file']}")).json
    path = f"/v1/files/{file['id']}/versions/{file['version_id']}"
    lost, again = await scene.stubborn("PATCH", path, {"name": "final"})
    assert (lost.status, lost.json["name"]) == (200, "final")
    check_same(lost, again)


async def delete_version(scene: Scene) -> None:
    """With a key the answer comes again; without one the second says that the version is gone."""
    old = (await scene.ann("GET", f"/v1/files/{scene.ids['file']}")).json["version_id"]
    await scene.ann.upload("a.txt", b"other", on_conflict="replace")
    path = f"/v1/files/{scene.ids['file']}/versions/{old}"
    lost, again = await scene.stubborn("DELETE", path, headers={"Idempotency-Key": "k"})
    assert lost.status == 204
    check_same(lost, again)
    assert (await scene.ann("DELETE", path)).status == 404


async def purge_file(scene: Scene) -> None:
    """With a key the answer comes again; without one the second says that the file is gone."""
    path = f"/v1/trash/{scene.ids['trashed']}"
    lost, again = await scene.stubborn("DELETE", path, headers={"Idempotency-Key": "k"})
    assert lost.status == 204
    check_same(lost, again)
    assert (await scene.ann("DELETE", path)).status == 404


async def empty_trash(scene: Scene) -> None:
    """With a key the count comes again; without one there is nothing left to purge."""
    lost, again = await scene.stubborn("DELETE", "/v1/trash", headers={"Idempotency-Key": "k"})
    assert lost.json == {"purged": 1}
    check_same(lost, again)
    assert (await scene.ann("DELETE", "/v1/trash")).json == {"purged": 0}


HOOK = {"url": "https://example.org/hook"}


async def add_webhook(scene: Scene) -> None:
    """With an Idempotency-Key, the second answer is the first, with the secret; there is one webhook."""
    lost, again = await scene.stubborn("POST", "/v1/webhooks", HOOK, headers={"Idempotency-Key": "k"})
    assert (lost.status, "secret" in lost.json) == (201, True)
    check_same(lost, again)
    assert len((await scene.ann("GET", "/v1/webhooks")).json["webhooks"]) == 1


async def remove_webhook(scene: Scene) -> None:
    """The second answer says that there is no such webhook."""
    webhook = (await scene.ann("POST", "/v1/webhooks", HOOK)).json
    lost, again = await scene.stubborn("DELETE", f"/v1/webhooks/{webhook['id']}")
    assert (lost.status, again.status) == (204, 404)


async def replay_webhook(scene: Scene) -> None:
    """The second answer is the first."""
    webhook = (await scene.ann("POST", "/v1/webhooks", HOOK)).json
    lost, again = await scene.stubborn("POST", f"/v1/webhooks/{webhook['id']}/replay")
    assert lost.status == 200
    check_same(lost, again)


class Check(Protocol):
    """One route: what its second answer must be, by its docstring."""

    __name__: str

    async def __call__(self, scene: Scene, /) -> None: ...


ACCOUNTS: list[Check] = [sign_up, log_in, refresh_token, log_out, update_me, delete_me, end_session]
PARTS: list[Check] = [sign_more_parts, begin_s3_upload, complete_s3_upload]
UPLOADS: list[Check] = [
    begin_upload,
    put_content,
    put_by_path,
    post_file,
    complete_upload,
    abort_upload,
]
TUS_UPLOADS: list[Check] = [
    create_tus_upload,
    create_tus_upload_in_folder,
    append_to_tus_upload,
    override_tus_method,
    terminate_tus_upload,
    append_to_upload,
]
FILES: list[Check] = [make_folder, update_file, copy_file, run_batch, trash_file, restore_file, purge_file, empty_trash]
PATHS: list[Check] = [update_by_path, trash_by_path]
VERSIONS: list[Check] = [restore_version, name_version, delete_version]
WEBHOOKS: list[Check] = [add_webhook, remove_webhook, replay_webhook]
CHECKS = {
    check.__name__: check for check in (*ACCOUNTS, *UPLOADS, *PARTS, *TUS_UPLOADS, *FILES, *PATHS, *VERSIONS, *WEBHOOKS)
}
MUTATING = {operation.name for operation in OPERATIONS if operation.method not in ("GET", "OPTIONS")}


def test_every_mutating_route_has_a_check() -> None:
    assert CHECKS.keys() == MUTATING


@pytest.mark.parametrize("name", CHECKS)
async def test_a_lost_answer_can_be_had_again(name: str, scene: Scene) -> None:
    await CHECKS[name](scene)
    print(f"{name}: {CHECKS[name].__doc__}")


async def _pieces() -> AsyncIterator[bytes]:
    yield BYTES
