"""``godrive import`` and ``godrive export`` beside a running server, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.ceph import own_bucket
from tests.drive_server import PROGRAM, DriveServer, environment, run
from tests.e2e.client import Client
from tests.exchange.test_filebrowser import exported, hashed
from tests.servers import CephGateway, PostgresServer

pytestmark = pytest.mark.anyio

ADA = "ada@example.com"
CONTENTS = {"one.txt": b"one", "folder/two.bin": os.urandom(100_000), "folder/deeper/three": b"", "Aux": b"device"}


def command(server: DriveServer, *arguments: str | Path, code: int = 0) -> str:
    done = run(*arguments, "--config", server.folder / "config.toml")
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def make(folder: Path) -> Path:
    for name, content in CONTENTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
    return folder


def read(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


async def test_a_folder_goes_in_and_comes_out_while_the_server_runs(
    server: DriveServer, client: Client, tmp_path: Path
) -> None:
    source = make(tmp_path / "source")
    (source / "link").symlink_to("one.txt")
    cursor = (await client.request("GET", "/v1/changes"))["cursor"]
    told = command(server, "import", source, "--user", ADA, "--into", "from/nas")
    assert "Imported 4 files of 100009 bytes" in told
    assert "skipped    link: It is a symbolic link." in told
    changes = (await client.request("GET", f"/v1/changes?cursor={cursor}"))["changes"]
    assert {change["entry"]["name"] for change in changes} >= {"one.txt", "two.bin", "nas", "deeper"}
    entry = await client.request("GET", "/v1/files/by-path/from/nas/folder/two.bin")
    assert (entry["modified_at"], await client.download(entry["id"])) == (
        "2001-09-09T01:46:40Z",
        CONTENTS["folder/two.bin"],
    )
    again = [
        json.loads(line)
        for line in command(server, "import", source, "--user", ADA, "--into", "from/nas", "--json").splitlines()
    ]
    assert again[0] == {"problem": "skipped", "path": "link", "detail": "It is a symbolic link."}
    assert (again[-1]["files"], again[-1]["present"]) == (0, 4)
    (source / "one.txt").write_bytes(b"another")
    (source / "esc\x1b[2J").write_bytes(b"")
    told = command(server, "import", source, "--user", ADA, "--into", "from/nas", code=1)
    assert "differs    one.txt" in told
    assert "refused    esc\\x1b[2J" in told
    target = tmp_path / "export"
    assert "Exported 4 files of 100009 bytes" in command(server, "export", target, "--user", ADA)
    files = read(target / "from" / "nas")
    assert {content for name, content in files.items() if name.startswith("Aux~")} == {b"device"}
    assert {name: content for name, content in files.items() if not name.startswith("Aux~")} == {
        name: content for name, content in CONTENTS.items() if name != "Aux"
    }
    assert (target / "from/nas/folder/two.bin").stat().st_mtime == 1e9
    (target / "from/nas/one.txt").write_bytes(b"changed by hand")
    counts = json.loads(command(server, "export", target, "--user", ADA, "--json", code=1).splitlines()[-1])
    assert (counts["files"], counts["present"], counts["in_the_way"]) == (0, 3, 1)
    assert (target / "from/nas/one.txt").read_bytes() == b"changed by hand"
    assert "0 faults" in command(server, "fsck", "--digests")


async def test_an_import_that_is_killed_is_continued(drive_server: DriveServer, tmp_path: Path) -> None:
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        source = tmp_path / "source"
        source.mkdir()
        for number in range(1500):
            (source / f"{number:04}").write_bytes(b"%d" % number * 50)
        arguments: list[Any] = [
            *PROGRAM,
            "import",
            source,
            "--user",
            ADA,
            "--config",
            drive_server.folder / "config.toml",
        ]
        with subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not await client.files():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        there = len(await client.files())
        counts = json.loads(command(drive_server, "import", source, "--user", ADA, "--json").splitlines()[-1])
        assert 0 < there <= counts["present"] < 1500
        assert counts["files"] + counts["present"] == 1500
        assert (await client.request("GET", "/v1/me"))["usage"]["live_bytes"] == sum(
            len(b"%d" % number) * 50 for number in range(1500)
        )


def test_the_drive_may_lie_in_the_folder_and_hard_links_come_with_a_warning(server: DriveServer) -> None:
    assert "nobody@example.com" in command(server, "import", server.folder, "--user", "nobody@example.com", code=1)
    run("user", "add", ADA, "--config", server.folder / "config.toml", stdin="correct horse\n").check_returncode()
    (server.folder / "one").write_bytes(b"1" * 20_000)
    told = command(server, "import", server.folder, "--user", ADA, "--hard-links")
    assert "now changes it in the drive" in told
    assert "skipped    data: It is the folder of a drive." in told
    assert "hard links: 1)" in told
    assert "cannot be used" in command(server, "export", server.folder / "one", "--user", ADA, code=2)


async def test_accounts_of_file_browser_log_in(server: DriveServer, tmp_path: Path) -> None:
    path, secret = tmp_path / "users.json", hashed("what she typed there")
    path.write_text(json.dumps([exported("ann", secret), exported("bo b", hashed("what he typed"))]))
    told = command(server, "import", "filebrowser", path, "--domain", "example.org", code=1)
    assert "added    ann as ann@example.org" in told
    assert "godrive import ann --user ann@example.org" in told
    assert "refused  bo b" in told
    assert secret not in told + server.log
    async with Client.connect(server.url) as client:
        body = {"email": "ann@example.org", "password": "what she typed there"}
        assert (await client.request("POST", "/v1/login", body))["token"]
    assert (
        json.loads(
            command(server, "import", "filebrowser", path, "--domain", "example.org", "--json", code=1).splitlines()[0]
        )["outcome"]
        == "present"
    )


@pytest.mark.servers
async def test_a_folder_goes_into_postgresql_and_s3_and_comes_out(
    drive_server: DriveServer, postgres_server: PostgresServer, ceph_gateway: CephGateway, tmp_path: Path
) -> None:
    settings = own_bucket(ceph_gateway)
    names = ("endpoint", "bucket", "access_key", "secret_key", "region")
    drive_server.tables["catalog"] = {"driver": "postgres", "dsn": postgres_server.create_database()}
    drive_server.tables["blobs"] |= {"driver": "s3", "s3": {name: getattr(settings, name) for name in names}}
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        source, target = make(tmp_path / "source"), tmp_path / "target"
        assert "Imported 4 files" in command(drive_server, "import", source, "--user", ADA)
        assert "Exported 4 files" in command(drive_server, "export", target, "--user", ADA)
        assert (target / "folder/two.bin").read_bytes() == CONTENTS["folder/two.bin"]
        await client.enter("bob@example.com")
        assert "Imported 4 files" in command(drive_server, "import", target, "--user", "bob@example.com")
        assert {file["name"] for file in await client.files()} == {"one.txt", "two.bin", "three", "Aux"}
