"""What docs/operations.md tells an operator to do, done."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path

import pytest

from godrive.configfile import load
from tests.conftest import require, require_program
from tests.drive_server import REPOSITORY, DriveServer
from tests.e2e.client import Client
from tests.e2e.conftest import Eventually
from tests.e2e.wire import Wire
from tests.proxies import Caddy, Nginx, block, caddy_site, nginx_server
from tests.servers import Server, free_port

pytestmark = pytest.mark.anyio

TEXT = (REPOSITORY / "docs" / "operations.md").read_text()
MIB = 1024 * 1024

StartProxy = Callable[[int, int], Server]
"""Of the port to listen on, and of the server behind it."""


@pytest.fixture(params=[(Nginx, nginx_server), (Caddy, caddy_site)], ids=["nginx", "caddy"])
def start_proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartProxy]:
    """Either proxy, configured as the page says but for TLS."""
    kind, configured = request.param
    require(kind)
    with ExitStack() as running:
        yield lambda port, behind: running.enter_context(kind(configured(port, behind), tmp_path / "proxy", port))


async def test_behind_a_proxy_uploads_stream_and_the_urls_lead_to_it(
    drive_server: DriveServer, start_proxy: StartProxy, eventually: Eventually
) -> None:
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    drive_server.tables["server"] |= {"public_url": public, "trusted_proxies": ["127.0.0.1"]}
    drive_server.start()
    start_proxy(port, drive_server.port)
    async with Client.connect(public) as client:
        await client.enter()
        content = os.urandom(8 * MIB)
        intent = await client.intent("through.bin", content)
        assert intent["upload_url"].startswith(public)
        async with Wire.open(public) as wire:
            await wire.put(intent["upload_url"], intent["headers"], len(content))
            await wire.send(content[: 4 * MIB])

            async def half_has_arrived() -> bool:
                upload = await client.request("GET", f"/v1/uploads/{intent['upload_id']}")
                return int(upload["received_bytes"]) > 2 * MIB

            assert await eventually(half_has_arrived)
            await wire.send(content[4 * MIB :])
            assert await wire.status() == 201
        (file,) = await client.files()
        assert await client.download(file["id"]) == content
        async with client.http.get(public + "/readyz", headers={"X-Forwarded-For": "203.0.113.7"}) as answer:
            assert answer.status == 200


async def test_a_copy_made_without_stopping_is_a_whole_drive(drive_server: DriveServer, tmp_path: Path) -> None:
    said = re.search(r"\. Copy the database: .*\n\d\. Copy ((?:`[\w./*]+`(?:, | and |\.))+)", TEXT)
    assert said is not None
    copy = tmp_path / "copy"
    copy.mkdir()
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        content = os.urandom(70_000)
        file = await client.upload("first.bin", content)
        small = await client.upload("small.bin", b"small")
        # What `sqlite3 godrive.db ".backup copy.db"` does.
        databases = (sqlite3.connect(folder / "godrive.db") for folder in (drive_server.data, copy))
        with closing(next(databases)) as source, closing(next(databases)) as target:
            source.backup(target)
        await client.upload("later.bin", b"later")
        for pattern in re.findall(r"`([^`]+)`", said[1]):
            for original in drive_server.data.glob(pattern):
                copied = copy / original.relative_to(drive_server.data)
                copied.parent.mkdir(parents=True, exist_ok=True)
                if original.is_dir():
                    shutil.copytree(original, copied)
                else:
                    shutil.copy2(original, copied)
        drive_server.stop()
        drive_server.tables["server"]["data_dir"] = str(copy)
        drive_server.start()
        assert await client.files() == [small, file]
        assert await client.download(file["id"]) == content
        assert await client.download(small["id"]) == b"small"


def test_every_configuration_on_the_page_is_one(tmp_path: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for number, text in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(re.sub(r'"/etc/godrive/([\w.-]+)"', rf'"{tmp_path}/\1"', text))
        for name in ("s3-access-key", "s3-secret-key", "dsn", "godrive.creds", "backup-passphrase"):
            (tmp_path / name).write_text("word")
        assert tomllib.loads(text).keys() <= set(load(path).__struct_fields__)


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    program = require_program("systemd-analyze", "systemd")
    unit = tmp_path / "godrive.service"
    shipped = (files("godrive.commands") / "godrive.service").read_text()
    assert block("ini") == shipped
    unit.write_text(shipped.replace("/opt/godrive/godrive", "/bin/true"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "godrive.service" not in done.stderr, done.stderr
