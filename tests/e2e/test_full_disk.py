"""A disk that is full: 507, reads go on, and uploads work again when there is room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from tests.drive_server import PROGRAM, DriveServer, environment, run
from tests.e2e.client import Client, Json, Refused

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
UNSHARE = ("unshare", "--map-root-user", "--mount")


def may_mount() -> bool:
    """Whether we may have a file system of our own, in a mount namespace of our own."""
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(probe, check=False, capture_output=True).returncode == 0
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[DriveServer]:
    """A server whose data folder is a file system of 24 MiB."""
    prefix: tuple[str, ...] = ()
    if may_mount():
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = f'mount -t tmpfs -o size=24m tmpfs {disk} && exec "$@"'
        prefix = (*UNSHARE, "sh", "-c", mount, "sh")
    elif shutil.disk_usage("/dev/shm").total <= 128 * MIB:  # as in most containers, which may not mount
        disk = Path("/dev/shm") / f"godrive-{os.getpid()}"
        disk.mkdir()
    else:
        pytest.skip("no small file system: unshare --mount is not permitted and /dev/shm is large")
    server = DriveServer(tmp_path / "drive", tables={"server": {"data_dir": str(disk / "data")}}, prefix=prefix)
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(disk)


def run_on(
    server: DriveServer, *arguments: str | Path, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of GoDrive that sees the disk of the server."""
    inside = ("nsenter", f"--target={server.pid}", "--user", "--mount", "--") if server.prefix else ()
    command = [*inside, *PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, env=environment() | env, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def fill(server: DriveServer, name: str = "filler") -> Path:
    """Take all the room there is, as seen by the server; the file to remove."""
    filler = Path(f"/proc/{server.pid}/root{server.data.parent}/{name}")
    with filler.open("wb", buffering=0) as file:
        piece = MIB
        while piece >= 1024:
            try:
                file.write(b"\0" * piece)
            except OSError:
                piece //= 2
    return filler


async def test_a_full_disk_refuses_uploads_serves_reads_and_recovers(small_disk: DriveServer) -> None:
    small_disk.start()
    async with Client.connect(small_disk.url) as client:
        await client.enter()
        content = os.urandom(2 * MIB)
        before = await client.upload("before.bin", content)
        announced = await client.intent("announced.bin", content)

        filler = fill(small_disk)
        with pytest.raises(Refused, match="storage_full") as refused:
            await client.put(announced, content)
        assert refused.value.status == 507
        with pytest.raises(Refused, match="storage_full"):
            await client.upload("during.bin", content)
        assert [file["name"] for file in await client.files()] == ["before.bin"]
        assert await client.download(before["id"]) == content
        assert (await client.request("GET", "/livez")) is not None

        filler.unlink()
        assert (await client.put(announced, content))["name"] == "announced.bin"
        after = await client.upload("after.bin", content)
        assert await client.download(after["id"]) == content
    small_disk.stop()
    assert small_disk.process is not None
    assert small_disk.process.status == 0


async def test_a_disk_that_is_full_of_its_own_log_ends_no_server(drive_server: DriveServer) -> None:
    drive_server.tables["log"]["level"] = "debug"
    drive_server.prefix = ("sh", "-c", 'exec "$@" > /dev/full', "sh")
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        file = await client.upload("a.bin", b"abc")
        assert await client.download(file["id"]) == b"abc"
    drive_server.stop()
    assert drive_server.process is not None
    assert drive_server.process.status == 0
    assert drive_server.log == ""


async def test_uploads_that_race_for_the_last_room_leave_whole_files_or_nothing(small_disk: DriveServer) -> None:
    small_disk.start()
    async with Client.connect(small_disk.url) as client:
        await client.enter()
        content = os.urandom(3 * MIB)
        kept: list[Json] = []
        statuses: set[int] = set()

        async def upload(number: int) -> None:
            try:
                kept.append(await client.upload(f"{number}.bin", content))
            except Refused as refused:
                statuses.add(refused.status)

        async with anyio.create_task_group() as uploads:
            for number in range(12):
                uploads.start_soon(upload, number)
        assert kept
        assert statuses == {507}
        assert {file["id"] for file in await client.files()} == {file["id"] for file in kept}
        for file in kept:
            assert await client.download(file["id"]) == content


async def test_uploads_that_were_announced_while_there_was_room_leave_the_reserve_to_the_catalog(
    small_disk: DriveServer,
) -> None:
    small_disk.tables["blobs"]["min_free_bytes"] = 8 * MIB
    small_disk.start()
    async with Client.connect(small_disk.url) as client:
        await client.enter()
        content = os.urandom(3 * MIB)
        intents = [await client.intent(f"{number}.bin", content) for number in range(12)]
        kept: list[Json] = []

        async def put(intent: Json) -> None:
            with suppress(Refused):
                kept.append(await client.put(intent, content))

        async with anyio.create_task_group() as puts:
            for intent in intents:
                puts.start_soon(put, intent)
        assert kept
        assert shutil.disk_usage(f"/proc/{small_disk.pid}/root{small_disk.data}").free > 6 * MIB  # less its own growth
        for file in kept:
            await client.request("DELETE", f"/v1/files/{file['id']}")


async def test_free_space_below_the_reserve_refuses_an_upload_at_its_intent_and_the_start_warns(
    drive_server: DriveServer,
) -> None:
    drive_server.folder.mkdir(parents=True, exist_ok=True)
    drive_server.tables["blobs"]["min_free_bytes"] = shutil.disk_usage(drive_server.folder).total
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        with pytest.raises(Refused) as refused:
            await client.intent("a.bin", 1)
        assert refused.value.code == "storage_full"
        assert await client.files() == []
    drive_server.stop()
    assert drive_server.log.count('"event":"little_free_space"') == 1


async def test_on_a_full_disk_people_log_in_and_make_room(small_disk: DriveServer) -> None:
    small_disk.tables["janitor"] = {"sweep_every": 0.2, "trash_grace": 0}
    small_disk.start()
    async with Client.connect(small_disk.url) as client:
        await client.enter()
        login = {"email": "ada@example.com", "password": "correct horse"}
        content = os.urandom(MIB)
        kept = [await client.upload(f"{number}.bin", content) for number in range(6)]
        fill(small_disk)

        with pytest.raises(Refused, match="storage_full"):  # until nothing more can be added
            for number in range(100_000):
                await client.intent(f"{number}", 0)
        with anyio.fail_after(30):  # the answer may be a second old
            while (readiness := await client.http.get(f"{small_disk.url}/readyz")).status == 200:
                await anyio.sleep(0.05)
        assert (readiness.status, (await readiness.json())["checks"]["catalog"]) == (503, "storage_full")
        with pytest.raises(Refused, match="storage_full"):
            await client.request("POST", "/v1/signup", {"email": "bob@example.com", "password": "correct horse"})
        for _ in range(20):
            tokens = await client.request("POST", "/v1/login", login)
            await client.request("POST", "/v1/token/refresh", {"refresh_token": tokens["refresh_token"]})
        fill(small_disk, "second")
        for file in kept:
            await client.request("DELETE", f"/v1/files/{file['id']}")

        with anyio.fail_after(30):  # the janitor purges them
            while (await client.http.get(f"{small_disk.url}/readyz")).status != 200:
                await anyio.sleep(0.05)
        await client.upload("after.bin", b"there is room")
    small_disk.stop()
    reasons = [line for line in small_disk.log.splitlines() if '"event":"storage_full"' in line]
    assert len(reasons) == 1, reasons
    assert "Make room" in reasons[0]


async def test_a_start_on_a_full_disk_ends_with_1_since_a_restart_may_cure_it(small_disk: DriveServer) -> None:
    fill_first = 'head -c 100m /dev/zero > "$0/filler" 2>/dev/null; exec "$@"'
    disk = small_disk.data.parent
    small_disk.prefix = (*small_disk.prefix, "sh", "-c", fill_first, str(disk))
    done = small_disk.run()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "No space left on device" in done.stderr or "full" in done.stderr


async def test_a_backup_whose_target_is_full_says_so_and_goes_on_when_there_is_room(
    small_disk: DriveServer, tmp_path: Path
) -> None:
    small_disk.start()
    target = str(small_disk.data.parent / "backup")

    def back_up(source: DriveServer) -> subprocess.CompletedProcess[str]:
        return run_on(small_disk, "backup", "create", target, "--config", source.folder / "config.toml")

    with DriveServer(tmp_path / "source") as source:
        async with Client.connect(source.url) as client:
            await client.enter()
            await client.upload("large.bin", os.urandom(2 * MIB))
        filler = fill(small_disk)
        with filler.open("r+b") as file:  # there is room for some of it
            file.truncate(filler.stat().st_size - MIB)
        done = back_up(source)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert f"no room in the backup {target}" in done.stderr
        filler.unlink()
        done = back_up(source)
        assert (done.returncode, done.stderr) == (0, "")


async def test_a_backup_that_has_no_room_for_a_new_passphrase_says_so_and_keeps_the_old_one(
    small_disk: DriveServer, tmp_path: Path
) -> None:
    small_disk.start()
    target = str(small_disk.data.parent / "backup")

    def backup(source: DriveServer, action: str, passphrase: str) -> subprocess.CompletedProcess[str]:
        arguments = ("backup", action, target, "--config", source.folder / "config.toml")
        return run_on(small_disk, *arguments, stdin="another staple\n", GODRIVE_BACKUP_PASSPHRASE=passphrase)

    with DriveServer(tmp_path / "source") as source:
        assert backup(source, "create", "correct horse").returncode == 0
        os.kill(small_disk.pid, signal.SIGSTOP)  # it would free some room now and then
        filler = fill(small_disk)
        done = backup(source, "passphrase", "correct horse")
        os.kill(small_disk.pid, signal.SIGCONT)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert f"no room in the backup {target}" in done.stderr
        filler.unlink()
        assert backup(source, "verify", "correct horse").returncode == 0
        assert backup(source, "passphrase", "correct horse").returncode == 0
        assert backup(source, "verify", "another staple").returncode == 0


@pytest.mark.parametrize("room", [16_384, 200_000, 760_000])
async def test_a_restore_onto_a_disk_without_room_says_so_and_goes_on_when_there_is_room(
    small_disk: DriveServer, tmp_path: Path, room: int
) -> None:
    small_disk.start()
    restored = str(small_disk.data.parent / "restored")

    def restore(source: DriveServer) -> subprocess.CompletedProcess[str]:
        arguments = ("backup", "restore", tmp_path / "backup", "--config", source.folder / "config.toml")
        return run_on(small_disk, *arguments, GODRIVE_SERVER_DATA_DIR=restored)

    with DriveServer(tmp_path / "source") as source:
        async with Client.connect(source.url) as client:
            await client.enter()
            await client.upload("large.bin", os.urandom(2 * MIB))
        made = run("backup", "create", tmp_path / "backup", "--config", source.folder / "config.toml")
        assert made.returncode == 0, made.stderr
        filler = fill(small_disk)
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - room)
        done = restore(source)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "Free space" in done.stderr or "Make room" in done.stderr
        filler.unlink()
        done = restore(source)
        assert (done.returncode, done.stderr) == (0, "")
