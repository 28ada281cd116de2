"""The doctor: each thing that can be wrong is found, named, and comes with what to do."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace

from godrive.blobs.memory import MemoryBlobStore
from godrive.blobs.s3 import probe
from godrive.bridge.connection import NatsLink
from godrive.catalog import postgres
from godrive.catalog.postgres_pool import connect
from godrive.clock import SystemClock
from godrive.config import S3, Auth, Blobs, Catalog, Config, Ingest, Nats, Scrub, Server
from godrive.doctor import Finding, Report, Verdict, examine, messaging, urls
from godrive.drive import GoDrive
from godrive.http.wire.server import serve
from godrive.messages.auth import LogIn, SignUp
from godrive.messages.expected import BeginScrub, BlobFault, Fault, ForgetDamage, NoteScrub
from godrive.messages.janitor import Sweep
from godrive.model import BlobInfo, ObjectKey
from godrive.testing import ManualClock, sign_up, upload
from tests.conftest import require, require_program
from tests.drive_server import DriveServer, environment
from tests.servers import CephGateway, NatsServer, PostgresServer, free_port
from tests.topics import Sns

pytestmark = pytest.mark.anyio

MACHINE = {"clock", "server"}
"""What depends on where the tests run."""


def certify(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for this machine that nobody else vouches for."""
    openssl = require_program("openssl", "openssl")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    target.close()


async def findings(config: Config, clock: ManualClock | None = None, **options: bool) -> list[Finding]:
    report = Report()
    await examine(config, clock or SystemClock(), report, **options)
    return report.findings


def of(found: list[Finding], check: str) -> Finding:
    (finding,) = [finding for finding in found if finding.check == check]
    return finding


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(Config.embedded(tmp_path / "data"), server=Server(data_dir=str(tmp_path / "data"), port=free_port()))


@pytest.fixture
async def used(config: Config, anyio_backend: object) -> Config:
    """A data folder that has been served from."""
    async with GoDrive(config):
        return config


async def test_files_without_the_folder_of_their_bytes_are_a_failure(used: Config) -> None:
    async with GoDrive(used, serving=False) as drive:
        await upload(drive, (await sign_up(drive)).id, "a.txt", b"hello")
    shutil.rmtree(used.blobs_path)
    for _ in range(2):
        (finding,) = [finding for finding in await findings(used) if finding.check == "blob store"]
        assert finding.verdict is Verdict.FAILURE
        assert "is empty, and the catalog has files" in finding.detail
        assert not used.blobs_path.exists()


async def test_before_the_first_start_all_is_well_and_nothing_is_made(config: Config, tmp_path: Path) -> None:
    found = await findings(config)
    assert {finding.verdict for finding in found if finding.check not in MACHINE} == {Verdict.OK}
    assert list(tmp_path.iterdir()) == []


async def test_after_it_all_is_well_and_nothing_is_left_behind(used: Config) -> None:
    before = sorted(path for path in used.data_dir.rglob("*") if path.is_file())
    found = await findings(used)
    assert {finding.verdict for finding in found if finding.check not in MACHINE} == {Verdict.OK}
    assert [finding.check for finding in found] == [
        "configuration", "data folder", "secret", "free space", "clock", "catalog", "blob store", "packs", "server"
    ]  # fmt: skip
    assert sorted(path for path in used.data_dir.rglob("*") if path.is_file()) == before


async def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    config = Config(
        server=Server(data_dir=str(tmp_path / "data"), host="0.0.0.0", port=free_port()),
        auth=Auth(bcrypt_cost=4),
        blobs=Blobs(driver="memory", min_free_bytes=2**60),
    )
    found = await findings(config)
    bad = [finding for finding in found if finding.verdict is not Verdict.OK]
    assert len(bad) >= 4
    assert all(finding.hint for finding in bad)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"server": Server(host="0.0.0.0")}, "server.public_url"),
        ({"server": Server(public_url="http://files.example")}, "TLS"),
        ({"auth": Auth(bcrypt_cost=5)}, "Set it to 12"),
        ({"blobs": Blobs(driver="memory")}, "'disk' or 's3'"),
    ],
)
async def test_what_is_allowed_but_seldom_meant_is_a_warning(
    config: Config, changes: dict[str, Any], part: str
) -> None:
    if "server" in changes:
        changes = {"server": replace(changes["server"], data_dir=config.server.data_dir, port=config.server.port)}
    finding = of(await findings(replace(config, **changes)), "configuration")
    assert finding.verdict is Verdict.WARNING
    assert part in finding.hint


async def test_folder_that_others_look_into_is_a_warning(used: Config) -> None:
    used.data_dir.chmod(0o755)
    found = [finding for finding in await findings(used) if finding.check == "data folder"]
    assert found[-1].verdict is Verdict.WARNING
    assert found[-1].hint == f"chmod 700 {used.data_dir}"


async def test_folder_of_another_layout_is_a_failure(used: Config) -> None:
    used.layout_path.write_text("godrive 999\n")
    finding = of(await findings(used), "data folder")
    assert finding.verdict is Verdict.FAILURE
    assert "999" in finding.detail


async def test_folder_in_the_way_of_a_file_is_a_failure(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    other = replace(config, server=replace(config.server, data_dir=str(tmp_path / "file")))
    assert any(finding.verdict is Verdict.FAILURE for finding in await findings(other))


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "Free space on the disk."), (errno.EACCES, "See whether blobs.path is right.")]
)
async def test_folder_that_takes_no_file_is_named_with_its_setting(
    used: Config, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    make = tempfile.TemporaryFile

    def refuse(*, dir: Path) -> Any:  # noqa: A002 - the name of the parameter
        if dir == used.blobs_path:
            raise OSError(code, os.strerror(code))
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = [finding for finding in await findings(used) if finding.check == "data folder"][-1]
    assert finding.verdict is Verdict.FAILURE
    assert finding.detail == f"Nothing can be written in {used.blobs_path}: {os.strerror(code)}."
    assert finding.hint == hint


async def test_secret_that_others_can_read_is_a_failure(used: Config) -> None:
    used.secret_path.chmod(0o644)
    finding = of(await findings(used), "secret")
    assert (finding.verdict, finding.hint) == (Verdict.FAILURE, f"chmod o= {used.secret_path}")


async def test_secret_file_that_is_missing_is_a_failure_only_where_it_cannot_be_made(
    config: Config, tmp_path: Path
) -> None:
    for name, verdict in (("no", Verdict.OK), ("no/folder", Verdict.FAILURE)):
        finding = of(await findings(replace(config, auth=Auth(secret_file=str(tmp_path / name)))), "secret")
        assert finding.verdict is verdict
    assert not (tmp_path / "no").exists()


async def test_too_little_room_is_a_failure_and_little_a_warning(used: Config) -> None:
    room = os.statvfs(used.data_dir)
    free = room.f_bavail * room.f_frsize
    for least, verdict in ((free * 2, Verdict.FAILURE), (free // 2, Verdict.WARNING), (0, Verdict.OK)):
        finding = of(await findings(replace(used, blobs=Blobs(min_free_bytes=least))), "free space")
        if verdict is Verdict.OK and finding.verdict is Verdict.WARNING:
            continue  # the machine's own disk is nearly full
        assert finding.verdict is verdict


async def test_clock_behind_what_was_written_is_a_failure(used: Config) -> None:
    clock = ManualClock(SystemClock().now() - timedelta(days=1))
    finding = of(await findings(used, clock), "clock")
    assert finding.verdict is Verdict.FAILURE
    assert "Set the clock" in finding.hint


async def test_clock_that_has_jumped_is_a_warning_until_it_is_accepted(used: Config) -> None:
    clock = ManualClock(SystemClock().now() + timedelta(minutes=1))

    async def doubt(**options: Any) -> list[Finding]:
        return [finding for finding in await findings(used, clock, **options) if finding.check == "clock"][1:]

    async with GoDrive(used, clock=clock, serving=False) as drive:
        await drive.janitor.ask(Sweep())
    assert await doubt() == []
    clock.jump(2 * 86_400)
    (off,) = await doubt()
    assert (off.verdict, "no server was running" in off.detail) == (Verdict.WARNING, True)
    assert "godrive doctor --accept-clock" in off.hint
    async with GoDrive(used, clock=clock, serving=False) as drive:
        assert (await drive.janitor.ask(Sweep())).held
    (doubted,) = await doubt()
    assert (doubted.verdict, "for another 1 day" in doubted.detail) == (Verdict.WARNING, True)
    (accepted,) = await doubt(accept_clock=True)
    assert (accepted.verdict, "is accepted" in accepted.detail) == (Verdict.OK, True)
    assert await doubt() == []
    async with GoDrive(used, clock=clock, serving=False) as drive:
        assert not (await drive.janitor.ask(Sweep())).held


async def test_packs_that_an_operator_holds_are_a_warning(used: Config) -> None:
    hold = used.blobs_path / "packs" / "hold"
    hold.touch()
    finding = of([finding for finding in await findings(used) if finding.verdict is Verdict.WARNING], "packs")
    assert f"{hold} is there" in finding.detail
    hold.unlink()
    assert of(await findings(used), "packs").verdict is Verdict.OK


async def test_what_the_scrub_has_found_is_a_failure_and_a_slow_scrub_a_warning(used: Config) -> None:
    async def scrub(config: Config = used) -> list[Finding]:
        return [finding for finding in await findings(config) if finding.check == "scrub"]

    assert await scrub() == []
    async with GoDrive(used, serving=False) as drive:
        await drive.metadata.ask(BeginScrub())
        rot = [
            BlobFault(fault=Fault.DIGEST, object_key=ObjectKey(f"0123/{number}"), detail="rot") for number in range(7)
        ]
        await drive.metadata.ask(NoteScrub(ObjectKey(""), ObjectKey("0123/9"), 9, 9, rot))
    (damaged,) = await scrub()
    assert (damaged.verdict, damaged.detail[:36]) == (Verdict.FAILURE, "Damaged: 7 blobs, 0123/0 (digest), 0")
    assert "and 2 more" in damaged.detail
    async with GoDrive(used, serving=False) as drive:
        await drive.metadata.ask(ForgetDamage([each.object_key for each in rot]))
    assert await scrub() == []
    (slow,) = await scrub(replace(used, scrub=Scrub(every=1e-6)))
    assert (slow.verdict, "has read 9 blobs" in slow.detail) == (Verdict.WARNING, True)
    async with GoDrive(used, serving=False) as drive:
        await drive.metadata.ask(NoteScrub(ObjectKey("0123/9"), ObjectKey(""), 0, 0, []))
    (ended,) = await scrub()
    assert ended.verdict is Verdict.OK


async def test_the_release_of_sqlite_is_told(used: Config) -> None:
    assert of(await findings(used), "catalog").detail.startswith(f"SQLite {sqlite3.sqlite_version}: 0 users")


async def test_catalog_that_is_no_database_is_a_failure(used: Config) -> None:
    used.catalog_path.write_bytes(b"not a database" * 1000)
    assert of(await findings(used), "catalog").verdict is Verdict.FAILURE


async def test_catalog_of_a_newer_release_is_a_failure(used: Config) -> None:
    with closing(sqlite3.connect(used.catalog_path)) as connection, connection:
        connection.execute("INSERT INTO schema_versions (version, name, digest) VALUES (999, 'later', '')")
    finding = of(await findings(used), "catalog")
    assert finding.verdict is Verdict.FAILURE
    assert "999" in finding.detail


async def test_catalog_of_an_older_release_is_a_warning_and_left_as_it_is(used: Config) -> None:
    with closing(sqlite3.connect(used.catalog_path)) as connection, connection:
        connection.execute("DELETE FROM schema_versions")
    assert of(await findings(used), "catalog").verdict is Verdict.WARNING
    with closing(sqlite3.connect(used.catalog_path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM schema_versions").fetchone() == (0,)


async def test_proxy_that_is_not_trusted_is_a_warning_until_it_is(used: Config) -> None:
    async with GoDrive(replace(used, auth=Auth(bcrypt_cost=4)), serving=False) as drive:
        for number in range(3):
            email, password = f"user{number}@example.org", "correct horse"
            await drive.auth.ask(SignUp(email, password))
            await drive.auth.ask(LogIn(email, password, address="10.0.0.1", forwarded=True))
    (finding,) = [finding for finding in await findings(used) if finding.check == "proxies"]
    assert finding.verdict is Verdict.WARNING
    assert "3 accounts log in from 10.0.0.1 " in finding.detail
    assert "server.trusted_proxies" in finding.hint
    trusting = replace(used, server=replace(used.server, trusted_proxies=["10.0.0.0/8"]))
    assert all(finding.check != "proxies" for finding in await findings(trusting))


async def test_store_that_does_not_answer_is_a_failure(config: Config) -> None:
    s3 = S3(endpoint=f"http://127.0.0.1:{free_port()}", access_key="a", secret_key="s")
    found = await findings(replace(config, blobs=Blobs(driver="s3", s3=s3)))
    assert of(found, "blob store").verdict is Verdict.FAILURE


# With a real PostgreSQL


async def test_database_that_answers_is_well(config: Config, postgres_server: PostgresServer) -> None:
    dsn = postgres_server.create_database()
    finding = of(await findings(replace(config, catalog=Catalog(driver="postgres", dsn=dsn))), "catalog")
    assert finding.verdict is Verdict.OK
    assert finding.detail.startswith("PostgreSQL: 0 users")


async def test_database_of_an_older_release_is_a_warning_and_left_as_it_is(
    config: Config, postgres_server: PostgresServer
) -> None:
    dsn = postgres_server.create_database()
    config = replace(config, catalog=Catalog(driver="postgres", dsn=dsn))
    await findings(config)
    connection = await connect(dsn)
    await connection.execute("DELETE FROM schema_versions")
    finding = of(await findings(config), "catalog")
    assert (finding.verdict, finding.detail) == (Verdict.WARNING, "The database was written by an older release.")
    assert await connection.fetchval("SELECT COUNT(*) FROM schema_versions") == 0
    await connection.close()


@pytest.mark.slow
async def test_database_that_does_not_answer_is_a_failure(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE", 0.5)
    dsn = f"postgresql://u:hush@127.0.0.1:{free_port()}/d"
    finding = of(await findings(replace(config, catalog=Catalog(driver="postgres", dsn=dsn))), "catalog")
    assert finding.verdict is Verdict.FAILURE
    assert "hush" not in finding.detail + finding.hint


# With a real NATS


async def test_nats_that_answers_is_well(config: Config, nats_server: NatsServer) -> None:
    ingest = Ingest(events="jetstream", subject=f"doctor.{os.urandom(6).hex()}")
    found = await findings(replace(config, nats=Nats(url=nats_server.url), ingest=ingest))
    assert {of(found, check).verdict for check in ("NATS", "JetStream")} == {Verdict.OK}


async def test_events_that_do_not_come_are_a_warning_and_those_that_do_are_active(
    config: Config, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "WITHIN", 0.3)
    ingest = Ingest(events="nats", subject=f"doctor.{os.urandom(6).hex()}")
    config = replace(config, nats=Nats(url=nats_server.url), ingest=ingest, blobs=Blobs(driver="memory"))
    finding = of(await findings(config), "events")
    assert (finding.verdict, finding.detail.split(":")[0]) == (Verdict.WARNING, "absent")

    class Telling(MemoryBlobStore):
        async def put(self, key: ObjectKey, *arguments: Any, **options: Any) -> BlobInfo:
            info = await super().put(key, *arguments, **options)
            link = NatsLink(config.nats)
            await (await link.client()).publish(ingest.subject, json.dumps({"Key": f"bucket/{key}"}).encode())
            await link.close()
            return info

    monkeypatch.setattr(messaging, "make_blobs", lambda config, clock: Telling(clock=clock))
    monkeypatch.setattr(messaging, "WITHIN", 10.0)
    finding = of(await findings(config), "events")
    assert (finding.verdict, finding.detail.split(":")[0]) == (Verdict.OK, "active")


@pytest.mark.servers
async def test_nats_without_jetstream_is_a_failure(config: Config, tmp_path: Path) -> None:
    require(NatsServer)
    with NatsServer(tmp_path / "nats", jetstream=False) as server:
        found = await findings(replace(config, nats=Nats(url=server.url), ingest=Ingest(events="jetstream")))
    finding = of(found, "JetStream")
    assert (finding.verdict, finding.hint) == (Verdict.FAILURE, "Start nats-server with -js.")


@pytest.mark.parametrize(("publishes", "verdicts"), [(True, [Verdict.FAILURE]), (False, [])])
@pytest.mark.servers
async def test_jetstream_is_needed_for_what_is_published_too(
    config: Config, tmp_path: Path, publishes: bool, verdicts: list[Verdict]
) -> None:
    require(NatsServer)
    with NatsServer(tmp_path / "nats", jetstream=False) as server:
        found = await findings(replace(config, nats=Nats(url=server.url, publish_events=publishes)))
    assert [finding.verdict for finding in found if finding.check == "JetStream"] == verdicts


async def test_stream_that_keeps_other_subjects_is_a_failure(config: Config, nats_server: NatsServer) -> None:
    name = f"doctor{os.urandom(6).hex()}"
    link = NatsLink(Nats(url=nats_server.url))
    await (await link.client()).jetstream().add_stream(name=name, subjects=[f"{name}.other"])
    await link.close()
    ingest = Ingest(events="jetstream", stream=name, subject=f"{name}.uploaded")
    finding = of(await findings(replace(config, nats=Nats(url=nats_server.url), ingest=ingest)), "JetStream")
    assert finding.verdict is Verdict.FAILURE
    assert f"{name}.uploaded" in finding.hint


@pytest.mark.slow
async def test_nats_that_does_not_answer_is_a_failure(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godrive.bridge.connection.NatsLink", partial(NatsLink, patience=0.5))
    found = await findings(replace(config, nats=Nats(url=f"nats://127.0.0.1:{free_port()}")))
    finding = of(found, "NATS")
    assert (finding.verdict, finding.hint) == (Verdict.FAILURE, "Start it, or correct nats.url.")


async def test_events_of_a_folder_are_not_waited_for_and_no_folder_is_made(
    config: Config, nats_server: NatsServer, tmp_path: Path
) -> None:
    ingest = Ingest(events="nats", subject=f"doctor.{os.urandom(6).hex()}")
    finding = of(await findings(replace(config, nats=Nats(url=nats_server.url), ingest=ingest)), "events")
    assert (finding.verdict, finding.hint) == (Verdict.WARNING, "Set ingest.events to 'none'.")
    assert list(tmp_path.iterdir()) == []


# Beside a server


@pytest.mark.slow
def test_command_beside_a_running_server_finds_it(tmp_path: Path) -> None:
    def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "godrive",
            "doctor",
            "--config",
            str(server.folder / "config.toml"),
            *arguments,
        ]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)

    server = DriveServer(tmp_path / "drive")
    with server:
        done = doctor("--json")
        assert (done.returncode, done.stderr) == (0, "")
        answer = json.loads(done.stdout)
        assert answer["ok"] is True
        assert [f["verdict"] for f in answer["findings"] if f["check"] == "server"] == ["ok"]
        text = doctor()
        assert text.returncode == 0
        assert "ok       server         It answers at http://127.0.0.1:" in text.stdout
    server.tables["server"]["public_url"] = f"http://127.0.0.1:{free_port()}"
    server.tables["auth"]["bcrypt_cost"] = 40
    server.command()
    done = doctor("--json")
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["check"], finding["verdict"]) == ("configuration", "failure")
    assert "auth.bcrypt_cost" in finding["detail"]


# With a real S3 store


@pytest.fixture
def s3(ceph_gateway: CephGateway) -> S3:
    return S3(
        endpoint=ceph_gateway.endpoint,
        access_key=ceph_gateway.access_key,
        secret_key=ceph_gateway.secret_key,
        region=ceph_gateway.region,
        bucket=f"doctor-{os.urandom(6).hex()}",
    )


async def test_store_whose_urls_work_is_well(config: Config, s3: S3) -> None:
    found = await findings(replace(config, blobs=Blobs(driver="s3", s3=s3)))
    assert {of(found, check).verdict for check in ("blob store", "store clock", "signed URLs", "CORS")} == {Verdict.OK}


async def test_browser_that_the_bucket_refuses_is_a_failure_until_the_rules_are_set(config: Config, s3: S3) -> None:
    server = replace(config.server, cors_origins=["https://app.example"])
    config = replace(config, server=server, blobs=Blobs(driver="s3", s3=s3))
    finding = of(await findings(config), "CORS")
    assert finding.verdict is Verdict.FAILURE
    assert "--set-cors" in finding.hint
    assert "https://app.example" in finding.hint
    assert of(await findings(config, set_cors=True), "CORS").verdict is Verdict.OK
    assert of(await findings(config), "CORS").verdict is Verdict.OK


async def test_public_endpoint_that_nobody_reaches_is_a_failure(config: Config, s3: S3) -> None:
    s3 = replace(s3, public_endpoint=f"http://127.0.0.1:{free_port()}")
    found = await findings(replace(config, blobs=Blobs(driver="s3", s3=s3)))
    assert of(found, "blob store").verdict is Verdict.OK
    finding = of(found, "signed URLs")
    assert finding.verdict is Verdict.FAILURE
    assert "blobs.s3.public_endpoint" in finding.hint


@pytest.mark.parametrize("said", [None, b"HTTP/1.1 200 OK\r\nDate: never\r\nContent-Length: 2\r\n\r\nhi"])
async def test_public_endpoint_that_is_no_store_is_a_failure(
    config: Config, s3: S3, monkeypatch: pytest.MonkeyPatch, said: bytes | None
) -> None:
    """Silence, and the page of something else."""
    monkeypatch.setattr(urls, "WITHIN", 0.3)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said and await reader.read(65_536):
            writer.write(said)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        s3 = replace(s3, public_endpoint=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finding = of(await findings(replace(config, blobs=Blobs(driver="s3", s3=s3))), "signed URLs")
    assert finding.verdict is Verdict.FAILURE
    assert "blobs.s3.public_endpoint" in finding.hint


async def test_store_with_a_certificate_that_only_ca_file_vouches_for_is_well(
    config: Config, s3: S3, tmp_path: Path
) -> None:
    key, certificate = certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    place = urlsplit(s3.endpoint)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(place.hostname, place.port)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(pump(reader, far_writer))
            pumps.create_task(pump(far_reader, writer))

    config = replace(config, server=replace(config.server, cors_origins=["https://app.example"]))
    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        endpoint = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for settings in (
            replace(s3, endpoint=endpoint, ca_file=str(certificate)),
            replace(s3, public_endpoint=endpoint, ca_file=str(certificate)),
        ):
            found = await findings(replace(config, blobs=Blobs(driver="s3", s3=settings)), set_cors=True)
            assert {of(found, check).verdict for check in ("blob store", "signed URLs", "CORS")} == {Verdict.OK}


async def test_store_that_lets_a_client_copy_is_a_failure_where_nothing_keeps_it_from_that(
    config: Config, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_COPY_CONDITIONS", ())
    finding = of(await findings(replace(config, blobs=Blobs(driver="s3", s3=s3))), "signed URLs")
    assert finding.verdict is Verdict.FAILURE
    assert "copy" in finding.detail
    assert finding.hint


async def test_events_that_the_store_posts_are_active_when_they_get_to_the_server(
    config: Config, s3: S3, ceph_gateway: CephGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messaging, "WITHIN", 0.3)
    config = replace(config, blobs=Blobs(driver="s3", s3=s3), ingest=Ingest(webhook_token="a-token-of-some-length"))
    assert of(await findings(config), "events").detail.startswith("Unknown")
    async with GoDrive(config) as drive, serve(drive, "127.0.0.1", config.server.port) as (url,):
        assert of(await findings(config), "events").detail.startswith("absent")
        await Sns(ceph_gateway).push(s3.bucket, f"{url}/v1/events/bucket?token=a-token-of-some-length")
        assert of(await findings(config), "events").detail.startswith("active")


async def test_store_clock_that_is_far_from_ours_is_a_failure(config: Config, s3: S3) -> None:
    clock = ManualClock(SystemClock().now() + timedelta(minutes=3))
    found = await findings(replace(config, blobs=Blobs(driver="s3", s3=s3)), clock)
    assert of(found, "store clock").verdict is Verdict.WARNING
