"""``godrive fsck`` beside a running server and on its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.drive_server import DriveServer, run
from tests.e2e.client import Client

pytestmark = pytest.mark.anyio


def fsck(server: DriveServer, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return run("fsck", "--config", server.folder / "config.toml", *options)


async def test_faults_are_shown_planned_and_set_aside_and_nothing_is_destroyed(
    drive_server: DriveServer, tmp_path: Path
) -> None:
    drive_server.tables["blobs"]["pack_below"] = 0
    drive_server.tables.setdefault("janitor", {})["orphan_age"] = 0.0
    drive_server.tables["janitor"]["sweep_every"] = 3600.0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        for number in range(5):
            await client.upload(f"{number}.bin", bytes([number]) * 1000)
        assert fsck(drive_server, "--digests").returncode == 0
        damaged, lost, *_ = sorted(drive_server.blobs("objects"))
        damaged.write_bytes(b"?" * 1000)
        bytes_lost = lost.read_bytes()
        lost.unlink()
        stray = damaged.with_name(damaged.name[:-4] + "beef")
        stray.write_bytes(b"stray")
        quick = fsck(drive_server)
        assert (quick.returncode, "2 faults" in quick.stdout) == (1, True), quick.stdout
        plan = tmp_path / "plan"
        done = fsck(drive_server, "--digests", "--plan", plan)
        assert done.returncode == 1
        found = {json.loads(line)["fault"] for line in plan.read_text().splitlines()}
        assert found == {"missing", "digest", "orphan"}
        assert drive_server.blobs("quarantine") == []
        plan.write_text("".join(line for line in plan.read_text().splitlines(keepends=True) if '"orphan"' in line))
        repaired = fsck(drive_server, "--repair", "--plan", plan)
        assert "Moved 1 blob to quarantine" in repaired.stdout
        assert [path.read_bytes() for path in drive_server.blobs("quarantine")] == [b"stray"]
        result: dict[str, Any] = json.loads(fsck(drive_server, "--digests", "--repair", "--json").stdout)
        assert result["quarantined"] == 1
        assert {path.read_bytes() for path in drive_server.blobs("quarantine")} == {b"stray", b"?" * 1000}
        for path, content in ((lost, bytes_lost), (damaged, bytes([0]) * 1000)):
            path.write_bytes(content)
        assert fsck(drive_server, "--digests").returncode == 0


def test_without_a_drive_or_with_a_broken_plan_it_is_a_mistake(server: DriveServer, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("no plan\n")
    assert fsck(server, "--repair", "--plan", plan).returncode == 2
    assert run("fsck", "--data-dir", tmp_path / "nothing").returncode == 2


async def test_a_plan_that_cannot_be_written_is_one_clear_line_and_no_finding_is_lost(
    drive_server: DriveServer, tmp_path: Path
) -> None:
    drive_server.tables["blobs"]["pack_below"] = 0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        await client.upload("a.bin", b"abc")
    (blob,) = drive_server.blobs("objects")
    blob.unlink()
    done = fsck(drive_server, "--plan", tmp_path / "no" / "plan")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no/plan cannot be written: No such file" in done.stderr
    done = fsck(drive_server, "--plan", "/dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "missing" in done.stdout
    assert "/dev/full cannot be written: No space left" in done.stderr


async def test_no_command_beside_a_server_checkpoints_the_log_of_its_databases(
    drive_server: DriveServer, tmp_path: Path
) -> None:
    """A checkpoint copies the log into the database, so the bytes of its file show one."""
    drive_server.tables.setdefault("janitor", {})["sweep_every"] = 3600.0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        await client.upload("a.bin", b"abc")
        databases = drive_server.data / "godrive.db", drive_server.data / "blobs" / "packs" / "index.db"
        logs = [path.with_name(f"{path.name}-wal") for path in databases]
        before, lengths = [path.read_bytes() for path in databases], [log.stat().st_size for log in logs]
        assert all(lengths)
        for command in (
            ["fsck", "--digests"],
            ["fsck", "--repair"],
            ["sweep"],
            ["sweep", "--unpack"],
            ["sweep", "--pack"],
            ["recount"],
            ["user", "list"],
            ["user", "disable", "ada@example.com"],
            ["user", "enable", "ada@example.com"],
            ["doctor", "--accept-clock"],
            ["backup", "create", str(tmp_path / "backup")],
        ):
            done = run(*command, "--config", drive_server.folder / "config.toml")
            assert done.returncode in (0, 1), done.stderr
            assert [path.read_bytes() for path in databases] == before, command
        assert all(log.stat().st_size > length for log, length in zip(logs, lengths, strict=True))
