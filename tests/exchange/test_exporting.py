"""A drive in a local folder: everything is there, nothing that was there is lost, and it comes back equal."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from godrive.blobs.disk import DiskBlobStore
from godrive.drive import GoDrive
from godrive.errors import ConfigError, NotFound, StoreUnavailable
from godrive.exchange.exporting import Exported, Exporter, ExportProblem, Trouble
from godrive.exchange.importing import Importer
from godrive.exchange.manifest import NAME, PARTIAL, file_name, mapped, reading
from godrive.exchange.outcome import ImportCounts, ImportProblem
from godrive.messages.files import OpenContent, UpdateFile
from godrive.model import BlobInfo, File, FileKind, ObjectKey, UserId
from godrive.principal import HostUser
from godrive.testing import open_drive, sign_up
from tests.cases import each

pytestmark = pytest.mark.anyio

THEN = datetime(2001, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
LONG = "\u6f22" * 255  # 765 bytes, and a file name has 255
CONTENTS = {
    "a.txt": b"hello\n",
    "empty": b"",
    "folder/b.bin": bytes(range(256)) * 300,
    "folder/deep/c.csv": b"x,y\n",
    "folder/e\u0301.txt": b"decomposed",
    "CON": b"a device elsewhere",
    "folder/aux.tar.gz": b"another",
    "ends in a dot.": b"not everywhere",
    f"{LONG[:250]}.txt": b"long",
    f"{LONG}/{LONG}": b"longer",
    NAME: b"no manifest",
    f"{NAME}.partial": b"none either",
    mapped("CON"): b"what CON would become",
    "half \ud83d".encode("utf-8", "surrogatepass").decode("utf-8", "replace"): b"text",
    'line\u2028 separator \U0001f600?*:<>|"': b"unusual",
}


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[GoDrive]:
    async with open_drive(data_dir=tmp_path / "data", blobs={"driver": "disk"}) as drive:
        yield drive


async def fill(drive: GoDrive, owner: UserId) -> None:
    files, by = drive.files(owner), HostUser(user_id=owner)
    for path, content in CONTENTS.items():
        await files.write(path, content, modified_at=THEN, mime="text/x-odd" if path == "empty" else "")
    await files.make_folder("nothing/in it")
    marked = await files.get("folder/b.bin")
    await drive.metadata.ask(UpdateFile(by, marked.id, favorite=True, properties={"rating": 5, "by": "Ann"}))
    for path, at in (
        ("nothing", THEN),
        ("folder/deep", datetime(3000, 1, 1, tzinfo=UTC)),
        ("a.txt", THEN.replace(year=1)),
    ):
        entry = await files.get(path)
        await drive.metadata.ask(UpdateFile(by, entry.id, modified_at=at))
    marked = await files.get("folder/deep")
    await drive.metadata.ask(UpdateFile(by, marked.id, properties={"color": "red"}))
    await files.write("folder/trashed", b"gone")
    await files.trash("folder/trashed")


async def export(drive: GoDrive, owner: UserId, target: Path) -> tuple[Exported, list[ExportProblem]]:
    reports: list[ExportProblem] = []
    exporter = Exporter(drive, HostUser(user_id=owner), note=reports.append)
    await exporter.run(target, "ann@example.org")
    return exporter.counts, reports


async def import_back(drive: GoDrive, owner: UserId, source: Path) -> tuple[ImportCounts, list[ImportProblem]]:
    notes: list[ImportProblem] = []
    importer = Importer(drive, HostUser(user_id=owner), note=notes.append)
    with reading(source / NAME) as manifest:
        await importer.run(source, manifest=manifest)
    return importer.counts, notes


def described(file: File) -> tuple[Any, ...]:
    return file.kind, file.size_bytes, file.sha256, file.mime, file.modified_at, file.properties, file.favorite


async def entries(drive: GoDrive, owner: UserId) -> dict[str, tuple[Any, ...]]:
    return {path: described(file) async for path, file in drive.files(owner).walk()}


def lines(target: Path) -> dict[str, dict[str, Any]]:
    head, *rest = (target / NAME).read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(head)["godrive_export"] == 1
    return {line["path"]: line for line in map(json.loads, rest)}


async def test_what_was_exported_comes_back_equal(drive: GoDrive, tmp_path: Path) -> None:
    ann, bob = (await sign_up(drive)).id, (await sign_up(drive, "bob@example.org")).id
    await fill(drive, ann)
    target = tmp_path / "export" / "ann"
    counts, reports = await export(drive, ann, target)
    assert (counts.files, counts.is_complete, reports) == (len(CONTENTS), True, [])
    listed = lines(target)
    assert listed.keys() == (await entries(drive, ann)).keys()
    for path, content in CONTENTS.items():
        file = target / listed[path].get("file", path)
        assert file.read_bytes() == content
        assert listed[path]["sha256"] == hashlib.sha256(content).hexdigest()
        if path != "a.txt":  # of the year 1, which no file can have
            assert file.stat().st_mtime_ns == int(THEN.timestamp()) * 10**9 + 789_012_000
    assert (target / "a.txt").exists(), "names that every system can hold are as they were"
    assert counts.mapped == sum(
        "file" in line and Path(line["file"]).name != Path(path).name for path, line in listed.items()
    )
    back, notes = await import_back(drive, bob, target)
    assert (back.files, notes) == (len(CONTENTS), [])
    assert await entries(drive, bob) == await entries(drive, ann)


async def test_a_second_export_writes_nothing_and_a_later_one_what_is_new(drive: GoDrive, tmp_path: Path) -> None:
    owner, target = (await sign_up(drive)).id, tmp_path / "export"
    await fill(drive, owner)
    await export(drive, owner, target)
    before = {path: path.stat().st_ino for path in target.rglob("*") if path.name != NAME}
    first = (target / NAME).read_bytes().split(b"\n", 1)[1]
    counts, reports = await export(drive, owner, target)
    assert (counts.files, counts.present, reports) == (0, len(CONTENTS), [])
    assert {path: path.stat().st_ino for path in target.rglob("*") if path.name != NAME} == before
    assert sorted((target / NAME).read_bytes().split(b"\n", 1)[1].split(b"\n")) == sorted(first.split(b"\n"))
    files = drive.files(owner)
    await files.write("a.txt", b"second version")
    await files.write("folder/new", b"new")
    counts, reports = await export(drive, owner, target)
    assert (counts.files, counts.present, reports) == (2, len(CONTENTS) - 1, [])
    assert (target / "a.txt").read_bytes() == b"second version"
    assert lines(target)["folder/new"]["size"] == 3


async def test_what_no_export_wrote_is_never_overwritten(drive: GoDrive, tmp_path: Path) -> None:
    owner, target, outside = (await sign_up(drive)).id, tmp_path / "export", tmp_path / "outside"
    await fill(drive, owner)
    outside.mkdir()
    target.mkdir()
    (target / "a.txt").write_text("foreign")
    (target / "empty").symlink_to(outside / "planted")
    (target / "nothing").symlink_to(outside)
    (target / "folder").mkdir()
    (target / "folder" / "deep").write_text("a file")
    (target / "folder" / "b.bin").mkdir()
    counts, reports = await export(drive, owner, target)
    assert {report.path: report.problem for report in reports} == dict.fromkeys(
        ["a.txt", "empty", "nothing", "folder/deep", "folder/b.bin"], Trouble.IN_THE_WAY
    )
    assert not counts.is_complete
    assert (target / "a.txt").read_text() == "foreign"
    assert list(outside.iterdir()) == [], "nothing was written through a link"
    assert "a.txt" not in lines(target)
    await export(drive, owner, other := tmp_path / "other")
    (other / "a.txt").write_bytes(b"edited")  # by somebody, after the export wrote it
    await drive.files(owner).write("a.txt", b"edited too")
    _, reports = await export(drive, owner, other)
    assert [(report.path, report.problem) for report in reports] == [("a.txt", Trouble.IN_THE_WAY)]
    assert (other / "a.txt").read_bytes() == b"edited"


class Failing(DiskBlobStore):
    """A disk store that is gone after some reads."""

    left = 1000

    def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self.left -= 1
        self._check()
        return super().get(key, start=start, end=end)

    async def head(self, key: ObjectKey) -> BlobInfo:
        self._check()
        return await super().head(key)

    def _check(self) -> None:
        if self.left < 0:
            raise StoreUnavailable("The disk has gone.")


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[tuple[GoDrive, Failing]]:
    store = Failing(tmp_path / "blobs")
    async with open_drive(data_dir=tmp_path / "data", blob_store=store) as drive:
        yield drive, store


async def test_an_export_that_was_cut_short_is_continued(failing: tuple[GoDrive, Failing], tmp_path: Path) -> None:
    drive, store = failing
    owner, target = (await sign_up(drive)).id, tmp_path / "export"
    await fill(drive, owner)
    store.left = 4
    with pytest.raises(StoreUnavailable):
        await export(drive, owner, target)
    store.left = 1000
    assert not (target / NAME).exists()
    with (target / PARTIAL).open("ab") as file:
        file.write(b'{"path":"cut')  # by a kill
    (target / f"{NAME}.parts").mkdir(exist_ok=True)
    (target / f"{NAME}.parts" / "left").write_bytes(b"half")
    counts, reports = await export(drive, owner, target)
    assert (counts.files + counts.present, reports) == (len(CONTENTS), [])
    assert counts.present > 0
    assert lines(target).keys() == (await entries(drive, owner)).keys()
    assert not (target / PARTIAL).exists()
    assert not (target / f"{NAME}.parts").exists()


async def test_damaged_bytes_are_reported_and_never_exported(drive: GoDrive, tmp_path: Path) -> None:
    owner, target = (await sign_up(drive)).id, tmp_path / "export"
    by, files = HostUser(user_id=owner), drive.files(owner)
    for name in ("flipped", "cut", "lost", "whole"):
        await files.write(name, name.encode() * 20_000)
        content = await drive.metadata.ask(OpenContent(by, (await files.get(name)).id))
        blob = tmp_path / "data" / "blobs" / "objects" / content.object_key
        data = blob.read_bytes()
        match name:
            case "flipped":
                blob.write_bytes(data[:-1] + b"?")
            case "cut":
                blob.write_bytes(data[:-1])
            case "lost":
                blob.unlink()
    counts, reports = await export(drive, owner, target)
    assert {report.path: report.problem for report in reports} == dict.fromkeys(
        ["flipped", "cut", "lost"], Trouble.DAMAGED
    )
    assert (counts.files, counts.damaged) == (1, 3)
    assert sorted(path.name for path in target.iterdir()) == [NAME, "whole"]


async def test_a_folder_that_cannot_be_used_is_a_mistake(drive: GoDrive, tmp_path: Path) -> None:
    owner = (await sign_up(drive)).id
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / NAME).write_text("{}\n")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / NAME).write_text('{"godrive_export":2,"user":"","exported_at":"2026-01-01T00:00:00Z"}\n')
    for name, text in (("file", "cannot be used"), ("foreign", "is not the manifest"), ("newer", "the format 2")):
        with pytest.raises(ConfigError, match=text):
            await export(drive, owner, tmp_path / name)
    with pytest.raises(NotFound):
        await export(drive, UserId("nobody"), tmp_path / "nobody")


@each("name", ["a", "a.txt", ".hidden", "\u00e9", "com10", "nul-like", "x" * 255, "a~b", "console", " leading"])
def test_a_name_that_every_system_can_hold_stays(name: str) -> None:
    assert file_name(name, top=True) == name


@each("name", ["con", "Con.txt", "LPT1", "aux.tar.gz", "a.", "a ", "\u6f22" * 86, NAME, NAME.upper(), mapped("x.txt")])
def test_any_other_name_becomes_one_that_no_other_name_becomes(name: str) -> None:
    made = file_name(name, top=True)
    assert made != name
    assert len(made.encode()) <= 255
    assert file_name(made, top=True) != made, "a name like a made one is made too"
    assert made == file_name(name, top=True)
    assert os.path.basename(made) == made  # noqa: PTH119 - of a name, not of a path
    assert (file_name(NAME, top=False), FileKind.FILE) == (NAME, "file")
