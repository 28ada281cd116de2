"""A folder as a ZIP archive over a socket."""

from __future__ import annotations

import io
import zipfile
from urllib.parse import urlsplit

import aiohttp
import pytest

from godrive.messages.storage import DeleteBlob
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyone(ann: Person) -> Person:
    """A person without a token."""
    return Person(ann.http, ann.url)


async def filled(ann: Person) -> str:
    """The id of a folder with a file and a folder."""
    folder: str = (await ann("POST", "/v1/folders", {"name": "Été"})).json["id"]
    inner = (await ann("POST", "/v1/folders", {"name": "inner", "parent_id": folder})).json
    await ann.upload("a.txt", b"a" * 200_000, parent_id=folder)
    await ann.upload("b.txt", b"b", parent_id=inner["id"])
    return folder


CONTENT = {"a.txt": b"a" * 200_000, "inner/": b"", "inner/b.txt": b"b"}


def read(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


async def test_a_folder_is_read_with_a_token_and_by_a_signed_url(ann: Person, anyone: Person) -> None:
    folder = await filled(ann)
    url = (await ann("GET", f"/v1/files/{folder}/download")).json["url"]
    for person, target in ((ann, f"/v1/files/{folder}/zip"), (anyone, url)):
        answer = await person("GET", target)
        assert answer.status == 200, answer.content
        assert read(answer.content) == CONTENT
        assert answer.headers["Content-Type"] == "application/zip"
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert answer.headers["Content-Disposition"].endswith("filename*=UTF-8''%C3%89t%C3%A9.zip")
        head = await person("HEAD", target)
        assert (head.status, head.headers["Content-Length"]) == (200, answer.headers["Content-Length"])


async def test_root_is_the_whole_drive(ann: Person) -> None:
    await filled(ann)
    answer = await ann("GET", "/v1/files/root/zip")
    assert read(answer.content) == {"Été/": b"", **{f"Été/{name}": content for name, content in CONTENT.items()}}
    assert answer.headers["Content-Disposition"] == 'attachment; filename="drive.zip"'


async def test_a_range_is_refused(ann: Person) -> None:
    folder = await filled(ann)
    answer = await ann("GET", f"/v1/files/{folder}/zip", headers={"Range": "bytes=10-"})
    assert (answer.status, answer.json["code"]) == (400, "range_not_supported")
    whole = await ann("GET", f"/v1/files/{folder}/zip", headers={"Range": "bytes=10-", "If-Range": '"x"'})
    assert whole.status == 200
    assert whole.headers["Accept-Ranges"] == "none"


async def test_a_url_ends_with_the_folder_and_covers_nothing_else(ann: Person, anyone: Person) -> None:
    folder = await filled(ann)
    other = (await ann("POST", "/v1/folders", {"name": "other"})).json["id"]
    url = (await ann("GET", f"/v1/files/{folder}/download")).json["url"]
    query = urlsplit(url).query
    for path in (f"/v1/files/{other}/zip", "/v1/files/root/zip", f"/v1/files/{folder}/content"):
        assert (await anyone("GET", f"{path}?{query}")).status == 403, path
    await ann("DELETE", f"/v1/files/{folder}")
    assert (await anyone("GET", url)).status == 404


async def test_only_folders_have_archives(ann: Person, bob: Person, anyone: Person) -> None:
    folder = await filled(ann)
    file = await ann.upload("c.txt")
    assert (await ann("GET", f"/v1/files/{file['id']}/zip")).status == 404
    assert (await bob("GET", f"/v1/files/{folder}/zip")).status == 404
    assert (await anyone("GET", f"/v1/files/{folder}/zip")).status == 401


async def test_lost_bytes_cut_the_answer_and_are_counted(ann: Person, site: Site) -> None:
    folder = await filled(ann)
    intent = (
        await ann("POST", "/v1/files/upload-intent", {"filename": "z", "size_bytes": 1, "parent_id": folder})
    ).json
    await ann("PUT", intent["upload_url"], data=io.BytesIO(b"z"), headers=intent["headers"])
    await site.drive.storage.ask(DeleteBlob(intent["object_key"]))
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await ann("GET", f"/v1/files/{folder}/zip")
    assert 'godrive_blobs_damaged_total{kind="missing"} 1' in (await ann("GET", "/metrics")).content.decode()
