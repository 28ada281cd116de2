"""``godrive backup`` beside a running server."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from anyio import fail_after, sleep

from tests.drive_server import PROGRAM, DriveServer, environment, run
from tests.e2e.client import Client

pytestmark = pytest.mark.anyio


def backup(server: DriveServer, *arguments: str | Path, code: int = 0) -> str:
    done = run("backup", *arguments, "--config", server.folder / "config.toml")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


async def test_a_drive_is_backed_up_while_it_runs_and_comes_back_with_its_sessions(
    server: DriveServer, client: Client, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    files = {f"{number}.bin": bytes([number]) * (number * 9000) for number in range(6)}
    for name, content in files.items():
        await client.upload(name, content)
    assert "6 blobs of 135000 bytes, 6 blobs of 135000 bytes added" in backup(server, "create", target)
    await client.upload("later.bin", b"later")
    (snapshot,) = json.loads(backup(server, "create", target, "--json"))
    assert (snapshot["added_blobs"], snapshot["added_bytes"], "keyring" in snapshot) == (1, 5, False)
    assert len(json.loads(backup(server, "list", target, "--json"))) == 2
    assert "0 problems" in backup(server, "verify", target)
    assert "Kept 1 snapshot; deleted 1 snapshot and 0 blobs" in backup(server, "prune", target)
    assert "There is a drive" in backup(server, "restore", target, code=2)
    server.stop()
    server.data.rename(server.folder / "lost")
    assert "Restored" in backup(server, "restore", target)
    server.start()
    listed = {file["name"]: file["id"] for file in await client.files()}
    assert listed.keys() == {*files, "later.bin"}
    assert await client.download(listed["5.bin"]) == files["5.bin"]
    damaged = max(
        (path for path in (target / "objects").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"???")
    assert "1 problem." in backup(server, "verify", target, code=1)
    assert "no backup" in backup(server, "list", tmp_path / "nothing", code=2)
    (tmp_path / "interrupted" / "objects").mkdir(parents=True)
    assert "no whole snapshot" in backup(server, "verify", tmp_path / "interrupted", code=2)


async def test_the_commands_of_the_documentation_with_a_passphrase_and_for_one_user(
    drive_server: DriveServer, tmp_path: Path
) -> None:
    target, secret = tmp_path / "backup", tmp_path / "passphrase"
    secret.write_text("correct horse battery\n")
    server = drive_server
    server.tables["backup"] = {"target": str(target), "passphrase_file": str(secret)}
    server.start()
    async with Client.connect(server.url) as client:
        await client.enter()
        await client.upload("plan.txt", b"the plan")
        backup(server, "create")
        (snapshot,) = json.loads(backup(server, "list", "--json"))
        assert "0 problems" in backup(server, "verify")
        backup(server, "prune", "--daily", "7", "--weekly", "5", "--monthly", "12")
        (file,) = await client.files()
        await client.request("DELETE", f"/v1/files/{file['id']}")
        only = ["--user", "ada@example.com", "--path", "plan.txt"]
        assert "1 file of 8 bytes. Already there: 0." in backup(
            server, "restore", target, *only, "--snapshot", snapshot["id"]
        )
        assert "0 files of 0 bytes. Already there: 1." in backup(server, "restore", *only)
        (file,) = await client.files()
        assert await client.download(file["id"]) == b"the plan"
        assert "No user has" in backup(server, "restore", "--user", "eve@example.com", code=1)
        changed = run("backup", "passphrase", "--config", server.folder / "config.toml", stdin="a new one\n")
        assert (changed.returncode, changed.stderr) == (0, "")
        assert "The old one does not open it any more" in changed.stdout
        secret.write_text("a new one\n")
        assert "0 problems" in backup(server, "verify")
        secret.write_text("another\n")
        wrong = backup(server, "list", code=2)
        assert wrong.splitlines() == [f"godrive: The passphrase is not that of the backup in {target}."]
        secret.unlink()
        assert "passphrase_file" in backup(server, "list", code=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_backup_that_is_stopped_leaves_nothing_behind(
    server: DriveServer, client: Client, tmp_path: Path, number: signal.Signals
) -> None:
    await client.upload("first.bin", bytes(20_000))  # there at once, while the others take seconds
    for each in range(7):
        await client.upload(f"{each}.bin", bytes([each]) * 1_500_000)
    command = [*PROGRAM, "backup", "create", str(tmp_path / "backup"), "--rate", "1M"]
    process = subprocess.Popen(
        [*command, "--config", str(server.folder / "config.toml")], env=environment(), stderr=subprocess.PIPE
    )
    with fail_after(30):
        while not list((tmp_path / "backup" / "objects").glob("0*/*")):
            assert process.poll() is None
            await sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, b"")
    assert list(server.data.glob("backup-*")) == []
    assert "8 blobs" in backup(server, "create", tmp_path / "backup")
