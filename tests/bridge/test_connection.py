"""The connection to NATS: who we say we are, and what happens when nobody answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import nkeys
import pytest
from msgspec.structs import replace
from nats.errors import FlushTimeoutError

from godrive.bridge.connection import NatsLink
from godrive.config import Nats
from godrive.errors import ConfigError, StoreUnavailable
from tests.conftest import require, require_program
from tests.servers import NatsServer, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(own_servers: None) -> Iterator[NatsServer]:
    require(NatsServer)
    with NatsServer() as server:
        yield server


async def works(settings: Nats) -> bool:
    link = NatsLink(settings)
    try:
        client = await link.client()
        await client.flush()
        return client.is_connected
    finally:
        await link.close()
        await link.close()


async def refused(settings: Nats) -> str:
    link = NatsLink(settings, patience=1.0)
    with pytest.raises(ConfigError) as refusal:
        await link.client()
    await link.close()
    return refusal.value.detail


@pytest.mark.servers
async def test_user_and_password(tmp_path: Path) -> None:
    require(NatsServer)
    with NatsServer(arguments=("--user", "drive", "--pass", "secret")) as server:
        settings = Nats(url=server.url, user="drive", password="secret")
        assert await works(settings)
        assert "refuses" in await refused(replace(settings, password="wrong"))
        assert "refuses" in await refused(Nats(url=server.url))


@pytest.mark.servers
async def test_token() -> None:
    require(NatsServer)
    with NatsServer(arguments=("--auth", "t0ken")) as server:
        assert await works(Nats(url=server.url, token="t0ken"))
        assert "refuses" in await refused(Nats(url=server.url, token="other"))


def configured(tmp_path: Path, text: str) -> NatsServer:
    path = tmp_path / "nats.conf"
    path.write_text(text)
    return NatsServer(arguments=("-c", str(path)))


def test_credentials_may_have_passed_through_an_editor(tmp_path: Path) -> None:
    plain = "-----BEGIN NATS USER JWT-----\nword\n------END NATS USER JWT------\n"
    path = tmp_path / "godrive.creds"
    for text, given in (
        (plain, str(path)),  # nats-py reads it, again at each reconnection
        ("\ufeff" + plain, plain),
        (plain.replace("\n", "\r\n"), plain),
    ):
        path.write_bytes(text.encode())
        assert NatsLink(Nats(url="nats://h", creds_file=str(path)))._options()["user_credentials"] == given


@pytest.mark.servers
async def test_nkey(tmp_path: Path) -> None:
    require(NatsServer)
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    seed_file = tmp_path / "user.nk"
    seed_file.write_bytes(seed)
    with configured(tmp_path, f"authorization {{ users = [ {{ nkey: {public} }} ] }}") as server:
        assert await works(Nats(url=server.url, nkey_file=str(seed_file)))
        for edited in (b"\xef\xbb\xbf" + seed + b"\r\n", seed + b"\r\n\r\n"):
            seed_file.write_bytes(edited)
            assert await works(Nats(url=server.url, nkey_file=str(seed_file)))
        assert "refuses" in await refused(Nats(url=server.url))


@pytest.mark.servers
async def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    require(NatsServer)
    openssl = require_program("openssl", "openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    config = f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{certificate}", verify: true }}'
    with configured(tmp_path, config) as server:
        settings = Nats(
            url=server.url,
            tls_ca_file=str(certificate),
            tls_cert_file=str(certificate),
            tls_key_file=str(key),
        )
        assert await works(settings)
        link = NatsLink(Nats(url=server.url.replace("nats://", "tls://")), patience=1.0)
        with pytest.raises(StoreUnavailable):
            await link.client()
        await link.close()


async def test_a_file_that_is_not_there_is_named() -> None:
    assert "/nonexistent/user.nk" in await refused(Nats(url="nats://127.0.0.1:1", nkey_file="/nonexistent/user.nk"))
    assert "TLS" in await refused(Nats(url="nats://127.0.0.1:1", tls_ca_file="/nonexistent/ca.pem"))
    assert "nats.url" in await refused(Nats())


async def test_where_nobody_answers_it_is_unavailable_soon() -> None:
    link = NatsLink(Nats(url=f"nats://127.0.0.1:{free_port()}"), patience=0.3)
    with anyio.fail_after(30), pytest.raises(StoreUnavailable):
        await link.client()
    await link.close()


async def test_it_comes_back_by_itself_and_says_so(server: NatsServer) -> None:
    link = NatsLink(Nats(url=server.url))
    client = await link.client()
    first = link.generation
    server.kill9()
    with pytest.raises(FlushTimeoutError):
        await client.flush(timeout=1)
    with pytest.raises(StoreUnavailable):
        await link.client()
    server.start()
    with anyio.fail_after(30):
        await link.newer_than(first)
    assert await link.client() is client
    await client.flush()
    await link.close()
