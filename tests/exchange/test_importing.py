"""A local folder in a drive: everything in it arrives or is reported, once, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godrive.blobs import Taken
from godrive.blobs.disk import DiskBlobStore
from godrive.drive import GoDrive
from godrive.errors import ConfigError, DriveError, NotFound, QuotaExceeded, StorageFull
from godrive.exchange.importing import Importer
from godrive.exchange.outcome import ImportCounts, ImportFault, ImportProblem
from godrive.messages.storage import ListBlobs
from godrive.messages.system import UsageDrift
from godrive.messages.users import SetQuota
from godrive.model import BlobInfo, ObjectKey, UserId
from godrive.principal import HostUser
from godrive.rules.names import MOST_DEPTH
from godrive.testing import open_drive, sign_up
from tests.cases import each
from tests.principals import SYSTEM

pytestmark = pytest.mark.anyio

CONTENTS = {
    "a.txt": b"hello\n",
    "empty": b"",
    "folder/b.bin": os.urandom(70_000),
    "folder/deep/c.csv": b"x,y\n1,2\n",
    "folder/e\u0301.txt": b"decomposed",
}
SECONDS = 1_000_000_000.25


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    for name, content in CONTENTS.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (SECONDS, SECONDS))
    (top / "nothing").mkdir()
    os.utime(top / "nothing", (SECONDS, SECONDS))
    return top


@pytest.fixture(params=["disk", "memory"])
async def drive(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GoDrive]:
    async with open_drive(data_dir=tmp_path / "data", blobs={"driver": request.param}) as drive:
        yield drive


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[GoDrive]:
    async with open_drive(data_dir=tmp_path / "data", blobs={"driver": "disk"}) as drive:
        yield drive


async def import_into(
    drive: GoDrive, owner: UserId, source: Path, into: tuple[str, ...] = (), **options: Any
) -> tuple[ImportCounts, list[ImportProblem]]:
    notes: list[ImportProblem] = []
    importer = Importer(drive, HostUser(user_id=owner), note=notes.append, **options)
    await importer.run(source, into)
    return importer.counts, notes


async def contents(drive: GoDrive, owner: UserId) -> dict[str, bytes]:
    files = drive.files(owner)
    return {path: await files.read(path) async for path, entry in files.walk() if entry.kind == "file"}


async def blobs_of(drive: GoDrive) -> int:
    return len((await drive.storage.ask(ListBlobs(1000, ""))).items)


async def test_a_tree_arrives_with_names_times_digests_types_and_empty_folders(drive: GoDrive, source: Path) -> None:
    owner = (await sign_up(drive)).id
    counts, notes = await import_into(drive, owner, source, ("from", "nas"))
    assert (counts.files, counts.folders, counts.is_complete, notes) == (5, 4, True, [])
    assert counts.bytes == sum(map(len, CONTENTS.values()))
    assert await contents(drive, owner) == {f"from/nas/{name}": content for name, content in CONTENTS.items()}
    files = drive.files(owner)
    for name, content in CONTENTS.items():
        entry = await files.get(f"from/nas/{name}")
        assert entry.modified_at.timestamp() == SECONDS
        assert entry.sha256 == hashlib.sha256(content).hexdigest()
        assert entry.name == name.rpartition("/")[2]
    assert (await files.get("from/nas/folder/deep/c.csv")).mime == "text/csv"
    nothing = await files.get("from/nas/nothing")
    assert (nothing.kind, nothing.modified_at.timestamp()) == ("folder", SECONDS)
    assert not await drive.metadata.ask(UsageDrift())


async def test_a_second_run_stores_nothing_and_finds_what_differs(drive: GoDrive, source: Path) -> None:
    owner = (await sign_up(drive)).id
    await import_into(drive, owner, source)
    before = await blobs_of(drive)
    counts, notes = await import_into(drive, owner, source)
    assert (counts.files, counts.folders, counts.present, notes) == (0, 0, 5, [])
    os.utime(source / "a.txt")  # other times, same bytes
    (source / "folder/b.bin").write_bytes(os.urandom(70_000))
    (source / "empty").write_bytes(b"longer now")
    counts, notes = await import_into(drive, owner, source)
    assert (counts.files, counts.present, counts.differs) == (0, 3, 2)
    assert {note.path for note in notes if note.problem is ImportFault.DIFFERS} == {"folder/b.bin", "empty"}
    assert await contents(drive, owner) == CONTENTS
    assert await blobs_of(drive) == before
    counts, notes = await import_into(drive, owner, source, replace=True)
    assert (counts.files, counts.present, notes) == (2, 3, [])
    now = await contents(drive, owner)
    assert now["empty"] == b"longer now"
    assert now["folder/b.bin"] == (source / "folder/b.bin").read_bytes()
    assert await blobs_of(drive) == before + 2, "the versions before stay"


async def test_what_cannot_be_in_a_drive_is_reported_and_nothing_follows_a_link(disk: GoDrive, source: Path) -> None:
    owner = (await sign_up(disk)).id
    outside = source.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (source / "link").symlink_to(outside / "secret")
    (source / "folder link").symlink_to(outside)
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
    (source / "back\\slash").write_text("1")
    (source / "line\nbreak").write_text("2")
    Path(os.fsdecode(os.fsencode(source) + b"/latin\xe9")).write_text("3")
    (source / "folder/\u00e9.txt").write_bytes(b"composed")
    (source / "bad\x7ffolder").mkdir()
    (source / "bad\x7ffolder" / "inside").write_text("4")
    counts, notes = await import_into(disk, owner, source)
    told = {note.path: note.problem for note in notes}
    one_of_two = told.keys() & {"folder/\u00e9.txt", "folder/e\u0301.txt"}
    assert len(one_of_two) == 1, "one of two files whose names are the same in NFC arrives, the other is reported"
    assert {path: told[path] for path in told.keys() - one_of_two} == {
        **dict.fromkeys(["link", "folder link", "pipe", "socket"], ImportFault.SKIPPED),
        **dict.fromkeys(["back\\slash", "line\nbreak", "latin\\udce9", "bad\x7ffolder"], ImportFault.REFUSED),
    }
    assert (counts.skipped, counts.refused, counts.files, counts.is_complete) == (4, 5, 5, False)
    assert b"secret" not in (await contents(disk, owner)).values()
    counts, _ = await import_into(disk, owner, source)
    assert (counts.files, counts.present, counts.refused) == (0, 5, 5), "and a second run says the same"


async def test_a_folder_of_which_only_links_are_left_is_opened_without_following(disk: GoDrive, source: Path) -> None:
    owner = (await sign_up(disk)).id
    with pytest.raises(ConfigError, match="cannot be read"):
        await import_into(disk, owner, source / "absent")
    with pytest.raises(ConfigError, match="cannot be read"):
        await import_into(disk, owner, source / "a.txt")
    with pytest.raises(NotFound):
        await import_into(disk, UserId("nobody"), source)


async def test_the_folder_of_a_drive_is_left_out(disk: GoDrive, source: Path) -> None:
    owner = (await sign_up(disk)).id
    own = (source / "folder").stat()
    counts, notes = await import_into(disk, owner, source, is_ours=lambda *at: at == (own.st_dev, own.st_ino))
    assert [note.path for note in notes] == ["folder"]
    assert set(await contents(disk, owner)) == {"a.txt", "empty"}
    assert counts.skipped == 1


class Meddling(DiskBlobStore):
    """A disk store during whose work somebody changes the file of that descriptor, some times."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path)
        self.times = times
        self.victim = Path()

    async def take(
        self, key: ObjectKey, source: int, *, mime: str | None = None, link: bool = False
    ) -> tuple[BlobInfo, Taken]:
        if self.times:
            self.times -= 1
            with self.victim.open("r+b") as file:
                file.write(b"%06d" % self.times)
            os.utime(self.victim, ns=(time.time_ns(), time.time_ns()))
        return await super().take(key, source, mime=mime, link=link)


@each("times, files", [(1, 1), (9, 0)])
async def test_a_file_that_changes_while_it_is_read_is_read_again_or_reported(
    tmp_path: Path, times: int, files: int
) -> None:
    top = tmp_path / str(times)
    (top / "source").mkdir(parents=True)
    store = Meddling(top / "blobs", times)
    store.victim = top / "source" / "log"
    store.victim.write_bytes(bytes(70_000))
    async with open_drive(data_dir=top / "data", blob_store=store) as drive:
        owner = (await sign_up(drive)).id
        counts, notes = await import_into(drive, owner, top / "source")
        assert (counts.files, counts.changed) == (files, 1 - files)
        assert [note.problem for note in notes] == [ImportFault.CHANGED] * (1 - files)
        assert await blobs_of(drive) == files, "no torn copy stays"
        if files:
            assert await contents(drive, owner) == {"log": store.victim.read_bytes()}


async def test_a_file_that_grows_as_fast_as_it_is_read_ends_no_import_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    log = source / "log"
    log.write_bytes(bytes(3 << 20))
    inode, pread, grown = log.stat().st_ino, os.pread, 0

    def read_and_grow(fd: int, size: int, offset: int) -> bytes:
        nonlocal grown
        piece = pread(fd, size, offset)
        if os.fstat(fd).st_ino == inode and grown < 100:
            grown += 1
            with log.open("ab") as file:
                file.write(bytes(1 << 20))
        return piece

    monkeypatch.setattr(os, "pread", read_and_grow)
    async with open_drive(data_dir=tmp_path / "data", blobs={"driver": "disk"}) as drive:
        counts, notes = await import_into(drive, (await sign_up(drive)).id, source)
        assert (counts.files, [note.problem for note in notes]) == (0, [ImportFault.CHANGED])
        assert await blobs_of(drive) == 0
    assert grown < 100


class Filling(DiskBlobStore):
    """A disk store that is full after some blobs."""

    left = 3

    async def put_each(self, *arguments: Any, **options: Any) -> list[BlobInfo | DriveError]:
        self.left -= 1
        if self.left < 0:
            raise StorageFull("The disk of the blobs is full.")
        return await super().put_each(*arguments, **options)


async def test_a_run_that_was_cut_short_is_continued(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number}.txt").write_text(f"{number}")
    store = Filling(tmp_path / "blobs")
    async with open_drive(data_dir=tmp_path / "data", blob_store=store) as drive:
        owner = (await sign_up(drive)).id
        with pytest.raises(StorageFull):
            await import_into(drive, owner, source)
        there = await contents(drive, owner)
        assert 0 < len(there) <= 3
        store.left = 1000
        counts, _ = await import_into(drive, owner, source)
        assert (counts.files, counts.present) == (60 - len(there), len(there))
        assert await contents(drive, owner) == {f"{number}.txt": str(number).encode() for number in range(60)}
        assert await blobs_of(drive) == 60
        assert not await drive.metadata.ask(UsageDrift())


async def test_the_quota_ends_an_import_and_what_fits_stays(drive: GoDrive, source: Path) -> None:
    owner = (await sign_up(drive)).id
    await drive.auth.ask(SetQuota(SYSTEM, owner, 1000))
    with pytest.raises(QuotaExceeded):
        await import_into(drive, owner, source)
    assert "folder/b.bin" not in await contents(drive, owner)
    assert await blobs_of(drive) == len(await contents(drive, owner)), "nothing is stored for nobody"
    await drive.auth.ask(SetQuota(SYSTEM, owner, None))
    assert (await import_into(drive, owner, source))[0].is_complete
    assert await contents(drive, owner) == CONTENTS


async def test_a_hard_link_is_made_only_on_request(disk: GoDrive, source: Path) -> None:
    ann, bob = (await sign_up(disk)).id, (await sign_up(disk, "bob@example.org")).id
    counts, _ = await import_into(disk, ann, source)
    assert (counts.linked, (source / "folder/b.bin").stat().st_nlink) == (0, 1)
    counts, _ = await import_into(disk, bob, source, link=True)
    assert (counts.linked, (source / "folder/b.bin").stat().st_nlink) == (1, 2)
    assert await contents(disk, bob) == CONTENTS
    (source / "folder/b.bin").write_bytes(b"?" * 70_000)
    assert (await contents(disk, ann))["folder/b.bin"] == CONTENTS["folder/b.bin"]
    assert (await contents(disk, bob))["folder/b.bin"] == b"?" * 70_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_what_root_imports_belongs_to_the_owner_of_the_drive(disk: GoDrive, source: Path, tmp_path: Path) -> None:
    owner = (await sign_up(disk)).id
    blobs = tmp_path / "data" / "blobs"
    for folder in (blobs / "objects", blobs / "staging"):
        os.chown(folder, 12345, 12345)
    (source / "folder/b.bin").chmod(0o600)
    counts, _ = await import_into(disk, owner, source, link=True)
    assert (counts.files, counts.linked) == (5, 0), "the server could not read a link to a file of root alone"
    (blob,) = [path for path in (blobs / "objects").rglob("*") if path.is_file()]
    assert (blob.stat().st_uid, blob.parent.stat().st_uid) == (12345, 12345)
    (source / "folder/b.bin").chmod(0o644)
    other = (await sign_up(disk, "bob@example.org")).id
    assert (await import_into(disk, other, source, link=True))[0].linked == 1


async def test_a_folder_where_the_drive_has_a_file_is_reported_with_what_is_in_it(disk: GoDrive, source: Path) -> None:
    owner = (await sign_up(disk)).id
    await disk.files(owner).write("folder", b"a file")
    await disk.files(owner).make_folder("a.txt")
    counts, notes = await import_into(disk, owner, source)
    assert {note.path: note.problem for note in notes} == {"folder": ImportFault.DIFFERS, "a.txt": ImportFault.DIFFERS}
    assert "left out" in next(note.detail for note in notes if note.path == "folder")
    assert (counts.files, counts.is_complete) == (1, False)


async def test_a_file_over_the_limit_is_refused_and_the_others_arrive(source: Path, tmp_path: Path) -> None:
    limits = {"driver": "disk", "max_upload_bytes": 50_000}
    async with open_drive(data_dir=tmp_path / "data", blobs=limits) as drive:
        owner = (await sign_up(drive)).id
        counts, notes = await import_into(drive, owner, source)
        assert (counts.files, [(note.problem, note.path) for note in notes]) == (
            4,
            [(ImportFault.REFUSED, "folder/b.bin")],
        )


async def test_a_folder_too_deep_is_reported(disk: GoDrive, tmp_path: Path) -> None:
    owner = (await sign_up(disk)).id
    (tmp_path / "source/x/y/z").mkdir(parents=True)
    (tmp_path / "source/x/file").write_text("deepest")
    counts, (note,) = await import_into(disk, owner, tmp_path / "source", ("d",) * (MOST_DEPTH - 2))
    assert (note.problem, note.path) == (ImportFault.REFUSED, "x/y/z")
    assert str(MOST_DEPTH) in note.detail
    assert (counts.files, counts.is_complete) == (1, False)
