"""Data folders as a release has left them, which every later release must be able to open.

``scripts/golden`` makes one with the release that is checked out, and packs it into
``tests/fixtures/golden``.  It is made once for each release, and never again:
``tests/test_golden.py`` opens all of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from godrive import __version__, resumable
from godrive.checker import Checked, check_blobs
from godrive.drive import GoDrive
from godrive.messages.auth import LogIn, Refresh
from godrive.messages.changes import ListChanges
from godrive.messages.files import GetFile, ListTrash, MakeFolder, RestoreFile, SearchFiles, TrashFile, UpdateFile
from godrive.messages.janitor import Sweep
from godrive.messages.system import IndexNames, UsageDrift
from godrive.messages.uploads import GetUpload
from godrive.messages.users import FindUser, RemoveUser, SetQuota
from godrive.messages.versions import ListVersions, RestoreVersion
from godrive.messages.webhooks import AddWebhook, ListWebhooks
from godrive.model import FileId, In, OnConflict, Root, Spot, UploadId, UserId, UserState
from godrive.opening import make_catalog
from godrive.principal import HostUser, System
from godrive.testing import ManualClock, chunks, open_drive, quick_config, sign_up, upload
from godrive.transfer import read

ARCHIVES = Path(__file__).parent / "fixtures" / "golden"

MADE_AT = datetime(2026, 11, 29, 12, tzinfo=UTC)
PASSWORD = "correct horse"
OPERATOR = System(part="operator")
EXPECTED = "expected.json"
"""What the folder has, as the release that made it says."""

_TABLES: dict[str, Any] = {"blobs": {"driver": "disk", "pack_below": 16_384}}


def _bytes(seed: int, size: int) -> bytes:
    """Bytes that compress well, so that the archive stays small, and differ by *seed*."""
    return (random.Random(seed).randbytes(64) * (size // 64 + 1))[:size]


async def make(folder: Path) -> None:
    """Make a data folder with something of everything, and note what it has."""
    clock = ManualClock(MADE_AT)
    async with open_drive(data_dir=folder, clock=clock, **_TABLES) as drive:
        expected = await _fill(drive, clock)
        await drive.janitor.ask(Sweep())
        while await drive.metadata.ask(IndexNames(1000)):
            pass
    for name in ("lock", "blobs/blobs.lock"):
        (folder / name).unlink(missing_ok=True)
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")


async def _fill(drive: GoDrive, clock: ManualClock) -> dict[str, Any]:
    ann, bob = (await sign_up(drive)).id, (await sign_up(drive, "bob@example.org")).id
    left = await sign_up(drive, "left@example.org")
    await upload(drive, left.id, "of a user who leaves", _bytes(1, 100))
    await drive.auth.ask(RemoveUser(OPERATOR, left.id, 86_400.0))
    by = HostUser(user_id=ann)
    await drive.auth.ask(SetQuota(OPERATOR, bob, 1_000_000))
    session = await drive.auth.ask(LogIn("ann@example.org", PASSWORD, "203.0.113.9", "golden"))
    cursor = (await drive.metadata.ask(ListChanges(by))).cursor
    folder = await drive.metadata.ask(MakeFolder(by, Root(), "Folder \u00e9"))
    deeper = await drive.metadata.ask(MakeFolder(by, In(folder_id=folder.id), "deeper"))
    files: dict[str, FileId] = {}
    places: list[tuple[str, int, Spot]] = [
        ("packed.txt", 900, Root()),
        ("empty", 0, Root()),
        ("loose.bin", 40_000, In(folder_id=deeper.id)),
    ]
    for number, (name, size, place) in enumerate(places, 2):
        files[name] = (await upload(drive, ann, name, _bytes(number, size), where=place)).id
    for number in range(10, 13):
        clock.advance(60)
        content = _bytes(number, 20_000 * (number - 9))
        files["versioned"] = (await upload(drive, ann, "versioned", content, on_conflict=OnConflict.REPLACE)).id
    await drive.metadata.ask(
        UpdateFile(by, files["loose.bin"], favorite=True, properties={"rating": 5, "by": "Ann"}, modified_at=MADE_AT)
    )
    trashed = await drive.metadata.ask(MakeFolder(by, Root(), "trashed"))
    await upload(drive, ann, "in the trash", _bytes(20, 700), where=In(folder_id=trashed.id))
    await drive.metadata.ask(TrashFile(by, trashed.id))
    await upload(drive, bob, "of bob", _bytes(30, 5_000))
    begun = await resumable.begin(drive, by, Root(), "unfinished", size=50_000)
    await resumable.append(drive, by, begun.id, 0, chunks(_bytes(40, 30_000)))
    await drive.metadata.ask(AddWebhook(by, "https://example.org/hook", "whsec_" + "A" * 32))
    return {
        "release": __version__,
        "ann": ann,
        "bob": bob,
        "left": left.id,
        "refresh_token": session.refresh_token,
        "cursor": cursor,
        "changes": len((await drive.metadata.ask(ListChanges(by, cursor, 1000))).changes),
        "files": await _digests(drive, ann) | await _digests(drive, bob),
        "versioned": files["versioned"],
        "described": files["loose.bin"],
        "versions": [hashlib.sha256(_bytes(number, 20_000 * (number - 9))).hexdigest() for number in (12, 11, 10)],
        "trashed": trashed.id,
        "upload": begun.id,
    }


async def _digests(drive: GoDrive, owner: UserId) -> dict[str, str]:
    """The digest of the bytes of each file, by path."""
    files = drive.files(owner)
    return {
        path: hashlib.sha256(await files.read(path)).hexdigest()
        async for path, entry in files.walk()
        if entry.kind == "file"
    }


async def check(folder: Path) -> None:
    """Open a data folder that :func:`make` has made, with this release, and find everything in it.

    It works as it did: what was begun can be finished, and what was trashed restored.
    """
    expected = json.loads((folder / EXPECTED).read_text())
    clock = ManualClock(MADE_AT + timedelta(hours=1))
    catalog = make_catalog(quick_config(folder, **_TABLES))  # as a server opens it, which migrates it
    await catalog.open()
    await catalog.close()
    async with open_drive(data_dir=folder, clock=clock, **_TABLES) as drive:
        ann, bob = UserId(expected["ann"]), UserId(expected["bob"])
        by = HostUser(user_id=ann)
        assert await _digests(drive, ann) | await _digests(drive, bob) == expected["files"]
        await _check_accounts(drive, expected)
        await _check_files(drive, by, expected)
        await _check_upload(drive, by, UploadId(expected["upload"]))
        faults = [fault async for fault in check_blobs(drive, digests=True, orphans_before=MADE_AT, checked=Checked())]
        assert faults == []
        assert not await drive.metadata.ask(UsageDrift())
        assert (await drive.janitor.ask(Sweep())).failed == 0
        await upload(drive, bob, "new", b"written by this release")
        clock.advance(2 * 86_400)
        assert (await drive.janitor.ask(Sweep(trust_clock=True))).accounts == 1, "the user who left is deleted"


async def _check_accounts(drive: GoDrive, expected: dict[str, Any]) -> None:
    assert (await drive.auth.ask(FindUser(OPERATOR, "BOB@example.org"))).quota_bytes == 1_000_000
    left = await drive.auth.ask(FindUser(OPERATOR, "left@example.org"))
    assert (left.state, left.delete_at is not None) == (UserState.DISABLED, True)
    assert (await drive.auth.ask(LogIn("bob@example.org", PASSWORD))).token
    refreshed = await drive.auth.ask(Refresh(expected["refresh_token"], "203.0.113.9", "golden"))
    assert refreshed.refresh_token != expected["refresh_token"], "sessions go on"


async def _check_files(drive: GoDrive, by: HostUser, expected: dict[str, Any]) -> None:
    described = await drive.metadata.ask(GetFile(by, FileId(expected["described"])))
    assert (described.favorite, described.properties) == (True, {"rating": 5, "by": "Ann"})
    assert described.modified_at == MADE_AT
    file_id = FileId(expected["versioned"])
    versions = (await drive.metadata.ask(ListVersions(by, file_id))).items
    assert [version.sha256 for version in versions] == expected["versions"]
    restored = await drive.metadata.ask(RestoreVersion(by, file_id, versions[-1].id))
    content = b"".join([piece async for piece in read(drive, by, file_id)])
    assert hashlib.sha256(content).hexdigest() == restored.sha256 == expected["versions"][-1]
    found = (await drive.metadata.ask(SearchFiles(by, Root(), "LOOSE"))).items
    assert [entry.name for entry in found] == ["loose.bin"]
    page = await drive.metadata.ask(ListChanges(by, expected["cursor"], 1000))
    assert len(page.changes) == expected["changes"] + 1, "the cursor of a client goes on"
    assert [hook.url for hook in await drive.metadata.ask(ListWebhooks(by))] == ["https://example.org/hook"]
    assert [entry.id for entry in (await drive.metadata.ask(ListTrash(by))).items] == [expected["trashed"]]
    await drive.metadata.ask(RestoreFile(by, FileId(expected["trashed"])))
    assert await drive.files(by.user_id).read("trashed/in the trash") == _bytes(20, 700)


async def _check_upload(drive: GoDrive, by: HostUser, upload_id: UploadId) -> None:
    assert (await drive.metadata.ask(GetUpload(by, upload_id))).received_bytes == 30_000
    finished = await resumable.append(drive, by, upload_id, 30_000, chunks(_bytes(40, 50_000)[30_000:]))
    assert finished.file_id is not None
    content = b"".join([piece async for piece in read(drive, by, finished.file_id)])
    assert content == _bytes(40, 50_000)


def pack(folder: Path, archive: Path) -> None:
    """Pack the folder; the same folder gives the same bytes."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(MADE_AT.timestamp())
        return member

    with tarfile.open(archive, "w:xz", preset=9) as packed:
        packed.add(folder, arcname=".", filter=plain)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a folder, in which files get their holes back."""
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):  # Debian 12 has Python 3.11.2, which has no filters and needs none
            packed.extraction_filter = tarfile.data_filter
        packed.extractall(folder)


def main() -> int:
    """Make the folder of the release that is checked out, unless it was made before."""
    archive = ARCHIVES / f"{__version__}.tar.xz"
    if archive.exists():
        sys.stderr.write(f"{archive} exists: a folder is made once for each release.\n")
        return 1
    with TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder)))
        archive.parent.mkdir(parents=True, exist_ok=True)
        pack(Path(folder), archive)
    sys.stdout.write(f"{archive}: {archive.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
