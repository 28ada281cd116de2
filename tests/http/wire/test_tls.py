"""HTTPS of our own, and a Unix socket behind a proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from godrive.errors import ConfigError
from godrive.http.wire import tls
from godrive.http.wire.connection_limit import ConnectionLimit
from godrive.http.wire.server import serve
from godrive.http.wire.tls import Certificate, accept_forever
from godrive.testing import open_drive
from tests.conftest import require_program
from tests.daemon import free_port
from tests.http.client import Person

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 4096 * 5


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    openssl = require_program("openssl", "openssl")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    subprocess.run([openssl, *new, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@asynccontextmanager
async def https(folder: Path, **server: Any) -> AsyncIterator[tuple[str, Path, Path]]:
    certificate, key = make_certificate(folder)
    tables = {
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "port": free_port(),
        "public_url": "",
        **server,
    }
    async with open_drive(server=tables) as drive, serve(drive) as (url,):
        yield url, certificate, key


@asynccontextmanager
async def client(url: str, certificate: Path) -> AsyncIterator[Person]:
    connector = aiohttp.TCPConnector(ssl=trusting(certificate))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield await Person(session, url).enter()


async def subject_at(port: int, certificate: Path) -> str:
    """The name in the certificate that the server shows; *certificate* must be it."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(certificate))
    shown = writer.get_extra_info("ssl_object").getpeercert()
    writer.close()
    return str(dict(pair for group in shown["subject"] for pair in group)["commonName"])


async def test_the_whole_flow_works_over_https_and_every_url_begins_with_it(tmp_path: Path) -> None:
    async with https(tmp_path) as (url, certificate, _), client(url, certificate) as ann:
        assert url.startswith("https://127.0.0.1:")
        intent = await ann("POST", "/v1/files/upload-intent", {"filename": "large.bin", "size_bytes": len(LARGE)})
        assert intent.json["upload_url"].startswith(url)
        put = await ann("PUT", intent.json["upload_url"], data=LARGE, headers=intent.json.get("headers", {}))
        assert put.status == 201
        found = await ann("GET", f"/v1/files/{put.json['file']['id']}/content")
        assert found.content == LARGE
        small = await ann("PUT", "/v1/files/by-path/small.txt", data=b"small")
        assert small.headers["Location"].startswith(f"{url}/v1/files/")


async def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_EVERY", 0.0)
    async with https(tmp_path) as (url, certificate, key):
        port = int(url.rpartition(":")[2])
        assert await subject_at(port, certificate) == "localhost"
        make_certificate(tmp_path, "renewed")
        assert await subject_at(port, certificate) == "renewed"
        whole = certificate.read_bytes()
        certificate.write_bytes(whole[:100])
        key.unlink()
        good = tmp_path / "good.crt"
        good.write_bytes(whole)
        assert await subject_at(port, good) == "renewed"


async def test_who_does_not_speak_tls_is_let_go_and_others_are_served(tmp_path: Path) -> None:
    async with https(tmp_path) as (url, certificate, _):
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        reset = socket.create_connection(("127.0.0.1", port))
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reset.close()
        assert await subject_at(port, certificate) == "localhost"


async def test_silent_clients_count_as_connections_and_give_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godrive.http.wire.connection_limit.PATIENCE", 0.0)
    certificate, key = make_certificate(tmp_path)
    limit, made = ConnectionLimit(2), asyncio.Event()

    class Connected(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set()
            transport.close()

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    accepting = asyncio.create_task(accept_forever(listening, Certificate(certificate, key), limit, Connected))
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    assert await silent[0][0].read() == b""
    assert len(limit) == 2
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(certificate))
    await made.wait()
    assert await silent[1][0].read() == b""
    writer.close()
    accepting.cancel()
    await asyncio.wait([accepting])
    assert await silent[2][0].read() == b""
    await limit.wait_empty()
    for _, each in silent:
        each.close()


async def test_half_a_request_over_https_ends_without_a_warning(tmp_path: Path) -> None:
    async with https(tmp_path) as (url, certificate, _):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(url.rpartition(":")[2]), ssl=trusting(certificate)
        )
        writer.write(b"PUT /v1/files/by-path/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        assert b"201" not in await reader.read()


@pytest.mark.parametrize("broken", ["missing", "no certificate", "another key", "password"])
async def test_a_certificate_that_cannot_be_used_is_a_mistake(tmp_path: Path, broken: str) -> None:
    certificate, key = make_certificate(tmp_path)
    if broken == "missing":
        key.unlink()
    elif broken == "no certificate":
        certificate.write_text("nothing")
    elif broken == "another key":
        (tmp_path / "other").mkdir()
        key = make_certificate(tmp_path / "other")[1]
    else:
        plain = key.read_bytes()
        command = ["openssl", "pkey", "-aes128", "-passout", "pass:secret", "-out", str(key)]
        subprocess.run(command, input=plain, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        Certificate(certificate, key)
    assert str(certificate) in refused.value.detail


async def test_a_unix_socket_serves_a_proxy_and_replaces_what_a_kill_has_left(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    settings = {"host": f"unix:{path}", "public_url": "https://drive.example.org"}
    async with open_drive(server=settings) as drive:
        async with serve(drive) as (url,), aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert url == f"unix:{path}"
            ann = await Person(session, "http://drive.example.org").enter()
            intent = await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 1})
            assert intent.json["upload_url"].startswith("https://drive.example.org/")
            assert path.stat().st_mode & 0o777 == 0o660
            with pytest.raises(ConfigError, match="in use"):
                async with serve(drive):
                    pass
        assert not path.exists()
