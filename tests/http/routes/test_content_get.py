"""Reading the bytes of a file, over a socket."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import aiohttp
import anyio
import pytest

from godrive.blobs.disk import DiskBlobStore
from godrive.http import app
from godrive.model import ObjectKey
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site, parse
from tests.http.conftest import Exchange, OpenSite
from tests.noise import noise

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(params=["memory", "disk"])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(blobs={"driver": request.param}) as site:
        yield site


async def url_of(person: Person, file: Json, *, inline: bool = False) -> str:
    path = f"/v1/files/{file['id']}/download" + ("?inline=true" if inline else "")
    url: str = (await person("GET", path)).json["url"]
    return url


async def get(person: Person, url: str, method: str = "GET", **headers: str) -> Answer:
    return await person(method, url, headers={name.replace("_", "-"): value for name, value in headers.items()})


def request(url: str, method: str = "GET", **headers: str) -> bytes:
    """A request by hand."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 4096, 128 * 1024, 128 * 1024 + 1, 3 * MIB + 7, 20 * MIB])
async def test_what_was_sent_is_read_whole_with_all_that_describes_it(ann: Person, size: int) -> None:
    content = noise(size)
    file = await ann.upload("a.txt", content)
    answer = await get(ann, await url_of(ann, file))
    assert answer.status == 200
    assert answer.content == content
    headers = answer.headers
    assert headers["Content-Length"] == str(size)
    assert headers["Content-Type"] == "text/plain"
    assert headers["ETag"] == f'"{file["version_id"]}"'
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert headers["Cache-Control"].startswith("private")
    assert headers["Content-Disposition"] == 'attachment; filename="a.txt"'
    assert headers["Last-Modified"].endswith(" GMT")


async def test_head_tells_the_same_without_the_bytes(ann: Person) -> None:
    url = await url_of(ann, await ann.upload("a.txt", noise(MIB)))
    whole, head = await get(ann, url), await get(ann, url, "HEAD")
    assert (head.status, head.content) == (200, b"")
    changing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k.lower() not in changing} == {
        k: v for k, v in whole.headers.items() if k.lower() not in changing
    }


async def test_a_range_of_a_head_is_no_range(ann: Person) -> None:
    url = await url_of(ann, await ann.upload("a.txt", DIGITS))
    head = await get(ann, url, "HEAD", Range="bytes=2-4")
    assert (head.status, head.headers["Content-Length"]) == (200, "10")
    assert "Content-Range" not in head.headers


DIGITS = b"0123456789"


@pytest.fixture
async def digits(ann: Person) -> str:
    """The URL of a file with ten of them."""
    return await url_of(ann, await ann.upload("a.txt", DIGITS))


@each(
    ("asked", "status", "span", "content"),
    [
        ("bytes=0-0", 206, "bytes 0-0/10", b"0"),
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=7-100", 206, "bytes 7-9/10", b"789"),
        ("bytes=0-", 206, "bytes 0-9/10", DIGITS),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=-100", 206, "bytes 0-9/10", DIGITS),
        ("bytes=7-18446744073709551615", 206, "bytes 7-9/10", b"789"),
        ("bytes=0-" + "9" * 5000, 206, "bytes 0-9/10", DIGITS),
        ("bytes=-" + "9" * 30, 206, "bytes 0-9/10", DIGITS),
        ("bytes=" + "0" * 30 + "2-" + "0" * 30 + "4", 206, "bytes 2-4/10", b"234"),
        ("Bytes = 2-4 ", 206, "bytes 2-4/10", b"234"),
        ("bytes=0-1,5-6", 200, None, DIGITS),
        ("bytes=0-1,99-", 200, None, DIGITS),
        ("lines=1-2", 200, None, DIGITS),
        ("bytes", 200, None, DIGITS),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=99-100", 416, "bytes */10", None),
        ("bytes=98-,99-", 416, "bytes */10", None),
        ("bytes=-0", 416, "bytes */10", None),
        ("bytes=4-2", 416, "bytes */10", None),
        ("bytes=", 416, "bytes */10", None),
        ("bytes=-", 416, "bytes */10", None),
        ("bytes=a-b", 416, "bytes */10", None),
        ("bytes=1-2-3", 416, "bytes */10", None),
        ("bytes=--5", 416, "bytes */10", None),
        ("bytes=" + "9" * 30 + "-", 416, "bytes */10", None),
        ("bytes=٣-٤", 416, "bytes */10", None),
    ],
)
async def test_a_range_is_answered_in_part_whole_or_not_at_all(
    ann: Person, digits: str, *, asked: str, status: int, span: str | None, content: bytes | None
) -> None:
    answer = await get(ann, digits, Range=asked)
    assert answer.status == status
    assert answer.headers.get("Content-Range") == span
    if content is None:
        assert answer.json["code"] == "range_not_satisfiable"
    else:
        assert answer.content == content


@pytest.mark.parametrize(("start", "end"), [(0, 5 * MIB), (1, 200_000), (4_999_999, 5 * MIB), (12_345, 3_456_789)])
async def test_a_part_of_a_large_file_is_that_part(ann: Person, start: int, end: int) -> None:
    content = noise(5 * MIB)
    url = await url_of(ann, await ann.upload("a.bin", content))
    answer = await get(ann, url, Range=f"bytes={start}-{end - 1}")
    assert (answer.status, answer.content) == (206, content[start:end])
    suffix = await get(ann, url, Range=f"bytes=-{end - start}")
    assert suffix.content == content[-(end - start) :]


async def test_an_empty_file_has_no_first_byte(ann: Person) -> None:
    url = await url_of(ann, await ann.upload("a.txt", b""))
    assert (await get(ann, url)).status == 200
    first = await get(ann, url, Range="bytes=0-")
    assert (first.status, first.headers["Content-Range"]) == (416, "bytes */0")
    assert (await get(ann, url, Range="bytes=-5")).status == 200


async def test_a_client_that_has_it_already_is_told_so(ann: Person, site: Site) -> None:
    file = await ann.upload("a.txt", DIGITS)
    url, etag = await url_of(ann, file), f'"{file["version_id"]}"'
    first = await get(ann, url)
    modified = first.headers["Last-Modified"]
    later = format_datetime(site.clock.now() + timedelta(hours=1), usegmt=True)
    earlier = format_datetime(site.clock.now() - timedelta(hours=1), usegmt=True)
    for unchanged in (
        {"If_None_Match": etag},
        {"If_None_Match": f'"other", W/{etag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": modified},
        {"If_Modified_Since": later},
        {"If_Modified_Since": later.replace("GMT", "-0000")},  # a date of no time zone (RFC 5322)
        {"If_None_Match": etag, "If_Modified_Since": earlier},
        {"If_None_Match": etag, "Range": "bytes=0-1"},
    ):
        answer = await get(ann, url, **unchanged)
        assert (answer.status, answer.content, answer.headers["ETag"]) == (304, b"", etag), unchanged
        assert "Content-Type" not in answer.headers
    for changed in (
        {"If_None_Match": '"other"'},
        {"If_Modified_Since": earlier},
        {"If_Modified_Since": "not a date"},
        {"If_Modified_Since": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"},
        {"If_None_Match": '"other"', "If_Modified_Since": later},
        {"If_Match": etag},
        {"If_Match": "*"},
        {"If_Unmodified_Since": modified},
        {"If_Unmodified_Since": later},
        {"If_Match": etag, "If_Unmodified_Since": earlier},
    ):
        answer = await get(ann, url, **changed)
        assert (answer.status, answer.content) == (200, DIGITS), changed
    for failed in (
        {"If_Match": '"other"'},
        {"If_Match": f"W/{etag}"},
        {"If_Unmodified_Since": earlier},
        {"If_Match": '"other"', "If_None_Match": etag},
    ):
        answer = await get(ann, url, **failed)
        assert (answer.status, answer.json["code"]) == (412, "precondition_failed"), failed
    for header in ("If_Match", "If_None_Match"):
        assert (await get(ann, url, **{header: "no quotes"})).status == 422


async def test_a_range_counts_only_if_the_client_has_the_rest_of_the_same(ann: Person, site: Site) -> None:
    file = await ann.upload("a.txt", DIGITS)
    url, etag = await url_of(ann, file), f'"{file["version_id"]}"'
    modified = (await get(ann, url)).headers["Last-Modified"]
    earlier = format_datetime(site.clock.now() - timedelta(hours=1), usegmt=True)

    async def status(if_range: str) -> int:
        return (await get(ann, url, Range="bytes=2-4", If_Range=if_range)).status

    assert await status(etag) == 206
    assert await status('"other"') == 200
    assert await status(f"W/{etag}") == 200
    assert await status(earlier) == 200
    assert await status("nonsense") == 200
    assert await status(modified) == 200  # it may still change within this second
    site.clock.advance(2)
    assert await status(modified) == 206


@each(
    "name",
    [
        "a.txt",
        'quo"te.txt',
        "semi;colon, comma.txt",
        "ümläut.txt",
        "日本語.pdf",
        "🎉.png",
        "100%.txt",
        "  spaces  .txt",
        "filename*=x.txt",
        "🎉" * 255,
    ],
)
async def test_any_name_reaches_the_client(ann: Person, name: str) -> None:
    file = await ann.upload(name, b"")
    said = (await get(ann, await url_of(ann, file))).headers["Content-Disposition"]
    assert said.isascii()
    assert re.fullmatch(r"""attachment; filename="[^"\\%;/]+"(; filename\*=UTF-8''[^ ";]+)?""", said)
    _, star, encoded = said.partition("filename*=UTF-8''")
    if star:
        assert unquote(encoded) == name
        assert quote(name, safe="") == encoded
    else:
        assert said == f'attachment; filename="{name}"'


@each("control", [*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"])
async def test_a_name_is_saved_without_what_turns_the_direction_of_writing(ann: Person, control: str) -> None:
    names = {f"invoice{control}fdp.exe": "invoicefdp.exe", control * 3: "download", f"é{control}.txt": "é.txt"}
    for name, saved in names.items():
        file = await ann.upload(name, b"")
        said = (await get(ann, await url_of(ann, file))).headers["Content-Disposition"]
        assert quote(control) not in said
        shown = unquote(said.partition("filename*=UTF-8''")[2]) or said.partition('filename="')[2][:-1]
        assert shown == saved
        assert (await ann("GET", f"/v1/files/{file['id']}")).json["name"] == name


@each(
    ("name", "plain"),
    [("日本語.pdf", "download.pdf"), ("日本語", "download"), (".profile", ".profile"), (".größe", ".groe")],
)
async def test_a_client_that_reads_ascii_only_keeps_the_suffix_and_is_not_given_a_hidden_file(
    ann: Person, name: str, plain: str
) -> None:
    file = await ann.upload(name, b"")
    said = (await get(ann, await url_of(ann, file))).headers["Content-Disposition"]
    assert said.split("; ")[1] == f'filename="{plain}"'


@each(
    ("mime", "shown"),
    [
        ("image/png", True),
        ("text/plain", True),
        ("text/plain; charset=utf-8", True),
        ("application/pdf", True),
        ("video/mp4", True),
        ("audio/ogg", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("application/xhtml+xml", False),
        ("text/xml", False),
        ("TEXT/HTML", False),
        ("application/javascript", False),
        ("audio/ogg, text/html", False),
        ("text/plain; a=b, text/html", False),
    ],
)
async def test_only_harmless_types_are_shown_and_only_when_asked(ann: Person, mime: str, shown: bool) -> None:
    file = await ann.upload(f"of {mime.replace('/', ' ')}", b"x", mime=mime)
    asked = await get(ann, await url_of(ann, file, inline=True))
    assert asked.headers["Content-Disposition"].startswith("inline" if shown else "attachment")
    media = shown and mime.startswith(("audio", "video"))
    policy = "default-src 'none'; media-src 'self'; sandbox" if media else "default-src 'none'; sandbox"
    assert asked.headers["Content-Security-Policy"] == policy
    plain = await get(ann, await url_of(ann, file))
    assert plain.headers["Content-Disposition"].startswith("attachment")
    assert plain.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    ("content", "mime", "said"),
    [
        ("Grüße\n".encode(), "text/plain", "text/plain; charset=utf-8"),
        ("Grüße\n".encode(), "", "text/plain; charset=utf-8"),
        (b"", "text/plain", "text/plain; charset=utf-8"),
        (("é" * 5000).encode(), "text/plain", "text/plain; charset=utf-8"),
        ("aé".encode() * 3000, "text/plain", "text/plain; charset=utf-8"),
        ("Grüße\n".encode("latin-1"), "text/plain", "text/plain"),
        ("Grüße\n".encode(), 'text/plain; charset="iso-8859-1"', 'text/plain; charset="iso-8859-1"'),
        ("Grüße\n".encode(), "text/plain; format=flowed", "text/plain; format=flowed; charset=utf-8"),
        (b"abc", "image/png", "image/png"),
    ],
)
async def test_text_that_is_shown_says_its_charset_when_the_bytes_prove_it(
    ann: Person, content: bytes, mime: str, said: str
) -> None:
    file = await ann.upload("a", content, mime=mime)
    url = await url_of(ann, file, inline=True)
    for method in ("GET", "HEAD"):
        assert (await get(ann, url, method)).headers["Content-Type"] == said
    saved = await get(ann, await url_of(ann, file))
    assert saved.headers["Content-Type"] == (mime or "text/plain")


async def test_a_url_ends_with_its_time_and_with_the_file(ann: Person, site: Site) -> None:
    file = await ann.upload("a.txt", DIGITS)
    url = await url_of(ann, file)
    for forged in (url + "&inline=1", url.replace(file["id"], UNKNOWN), url[:-1]):
        answer = await get(ann, forged)
        assert (answer.status, answer.json["code"]) == (403, "url_invalid")
    await ann("DELETE", f"/v1/files/{file['id']}")
    assert (await get(ann, url)).status == 404
    await ann("POST", f"/v1/files/{file['id']}/restore")
    assert (await get(ann, url)).content == DIGITS
    expires_at = site.clock.now() + timedelta(minutes=1)
    for claims in ({"v": UNKNOWN, "user": file["owner_id"]}, {"v": file["version_id"], "user": UNKNOWN}):
        other = site.drive.urls.sign("GET", f"/v1/files/{file['id']}/content", claims, expires_at=expires_at)
        assert (await get(ann, other)).status == 404
    site.clock.advance(901)
    assert (await get(ann, url)).json["code"] == "url_invalid"


async def test_one_connection_gives_many_files(ann: Person, exchange: Exchange) -> None:
    contents = [noise(size) for size in (3 * MIB, 10, 2 * MIB, 0, 300_000)]
    urls = [await url_of(ann, await ann.upload(f"{number}", content)) for number, content in enumerate(contents)]
    asked = b"".join(request(url) for url in urls[:-1]) + request(urls[-1], Connection="close")
    received = await exchange(asked)
    for content in contents:
        answer = parse(received)
        assert (answer.status, answer.content) == (200, content)
        received = received.partition(b"\r\n\r\n")[2][len(content) :]
    assert received == b""


async def test_a_client_that_reads_slowly_gets_it_all(ann: Person, site: Site) -> None:
    content = noise(12 * MIB)
    url = await url_of(ann, await ann.upload("a.bin", content))
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", site.port))
    with raw:
        await loop.sock_sendall(raw, request(url, Connection="close"))
        received = bytearray()
        while piece := await loop.sock_recv(raw, 30_000):
            received += piece
            await anyio.lowlevel.checkpoint()
    assert parse(bytes(received)).content == content


@pytest.mark.slow
async def test_a_client_that_leaves_half_way_leaves_nothing_open(ann: Person, site: Site) -> None:
    content = noise(30 * MIB)
    url = await url_of(ann, await ann.upload("a.bin", content))

    def open_twice_or_blob() -> list[str]:
        found: Counter[str] = Counter()
        for handle in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                found[str(handle.readlink())] += 1
        return [name for name, times in found.items() if "/objects/0" in name or (times > 1 and "socket" in name)]

    async def all_closed() -> None:
        with anyio.fail_after(30):
            while open_twice_or_blob():
                await anyio.lowlevel.checkpoint()

    for _ in range(5):
        stream = await anyio.connect_tcp("127.0.0.1", site.port)
        await stream.send(request(url))
        await stream.receive()
        await stream.aclose()
    await all_closed()
    assert (await get(ann, url)).content == content
    await all_closed()


async def test_many_read_at_once(ann: Person) -> None:
    contents = [noise(2 * MIB + number) for number in range(8)]
    urls = [await url_of(ann, await ann.upload(f"{number}", content)) for number, content in enumerate(contents)]
    answers = await asyncio.gather(*(get(ann, url) for url in urls * 3))
    assert [answer.content for answer in answers] == contents * 3


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_a_blob_that_is_short_or_lost_is_told_logged_and_counted(
    http: aiohttp.ClientSession, open_site: OpenSite, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    async with open_site(blobs={"driver": "disk", "path": str(tmp_path / "blobs"), "pack_below": 0}) as site:
        ann = await Person(http, site.url).enter()
        url = await url_of(ann, await ann.upload("a.bin", noise(size)))
        (blob,) = [path for path in (tmp_path / "blobs" / "objects").rglob("*") if path.is_file()]
        os.truncate(blob, size // 2)
        for kind in ("size", "missing"):
            caplog.clear()
            answer = await get(ann, url)
            assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
            (event,) = [
                record.getMessage() for record in caplog.records if "event='blob_damaged'" in record.getMessage()
            ]
            assert f"kind='{kind}'" in event
            assert blob.name in event
            numbers = (await ann("GET", "/metrics")).content.decode()
            assert f'godrive_blobs_damaged_total{{kind="{kind}"}} 1.0' in numbers
            blob.unlink(missing_ok=True)


async def test_a_packed_blob_that_is_damaged_is_told_logged_and_counted(
    http: aiohttp.ClientSession, open_site: OpenSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(blobs={"driver": "disk", "path": str(tmp_path / "blobs")}) as site:
        ann = await Person(http, site.url).enter()
        urls = [await url_of(ann, await ann.upload(f"{number}.bin", noise(1000))) for number in range(3)]
        (pack,) = (tmp_path / "blobs" / "packs").glob("*.pack")
        with pack.open("r+b") as file:
            file.seek(pack.stat().st_size // 2)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        answers = [await get(ann, url) for url in urls]
        assert [answer.status for answer in answers] == [200, 503, 200]
        assert answers[1].json["code"] == "store_unavailable"
        (event,) = [record.getMessage() for record in caplog.records if "event='blob_damaged'" in record.getMessage()]
        assert "kind='bytes'" in event
        assert 'godrive_blobs_damaged_total{kind="bytes"} 1.0' in (await ann("GET", "/metrics")).content.decode()


async def test_a_packed_blob_is_sent_without_a_copy_on_a_disk(
    http: aiohttp.ClientSession, open_site: OpenSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So people can read their files when the disk is full."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    content = noise(MIB - 100)
    async with open_site(blobs={"driver": "disk", "path": str(tmp_path / "blobs"), "pack_below": MIB}) as site:
        ann = await Person(http, site.url).enter()
        url = await url_of(ann, await ann.upload("a.bin", content))
        assert not [path for path in (tmp_path / "blobs" / "objects").rglob("*") if path.is_file()]
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
        assert (await get(ann, url)).content == content
        part = await get(ann, url, Range="bytes=1000-900000")
        assert part.status == 206
        assert part.content == content[1000:900_001]


async def test_a_blob_that_ends_while_it_is_sent_cuts_the_answer_and_has_its_line_in_the_log(
    http: aiohttp.ClientSession, open_site: OpenSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(blobs={"driver": "disk", "path": str(tmp_path / "blobs")}) as site:
        ann = await Person(http, site.url).enter()
        url = await url_of(ann, await ann.upload("a.bin", noise(3 * MIB)))
        (blob,) = [path for path in (tmp_path / "blobs" / "objects").rglob("*") if path.is_file()]
        store = site.drive.blobs
        assert isinstance(store, DiskBlobStore)
        open_file = store.open_file

        async def open_then_cut(key: ObjectKey) -> int | None:
            """A file that has its size when it is opened, and loses half of it before it is read."""
            opened = await open_file(key)
            assert opened is not None
            fstat = os.fstat

            def lie(file: int) -> os.stat_result:
                monkeypatch.undo()
                os.truncate(blob, MIB)
                return found

            found = fstat(opened)
            monkeypatch.setattr(os, "fstat", lie)
            return opened

        with pytest.MonkeyPatch.context() as monkeypatch, caplog.at_level(logging.INFO):
            store.open_file = open_then_cut  # type: ignore[method-assign]
            with pytest.raises(aiohttp.ClientError):
                await get(ann, url)
        lines = [record.getMessage() for record in caplog.records]
        assert any("blob_damaged" in line for line in lines)
        (line,) = [
            line for line in lines if "event='request'" in line and "/content" in line and "method='GET'" in line
        ]
        assert "ended='cut'" in line
        assert "status=200" in line
        numbers = (await ann("GET", "/metrics")).content.decode()
        assert 'godrive_answers_unfinished_total{reason="cut"} 1.0' in numbers


async def test_a_download_without_a_duplicate_of_its_socket_is_whole_and_keeps_no_blob_open(
    http: aiohttp.ClientSession, open_site: OpenSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "most_duplicates", lambda: 0)
    async with open_site(blobs={"driver": "disk", "path": str(tmp_path / "blobs")}) as site:
        ann = await Person(http, site.url).enter()
        content = noise(3 * MIB + 5)
        url = await url_of(ann, await ann.upload("a.bin", content))
        assert (await get(ann, url)).content == content
        assert (await get(ann, url, Range="bytes=1000000-2999999")).content == content[1000000:3000000]
