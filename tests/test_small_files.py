"""Small bodies become files in groups, and none of a group depends on another."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from godrive.blobs import SmallBlob
from godrive.blobs.disk import DiskBlobStore
from godrive.drive import GoDrive
from godrive.errors import AskTimeout, DigestMismatch, DriveError, MailboxFull, NameTaken, StoreUnavailable
from godrive.messages.files import ListFiles
from godrive.messages.metadata import Metadata
from godrive.messages.system import RecountUsage
from godrive.messages.uploads import BeginUpload, MakeFiles, StoreFile
from godrive.model import BlobInfo, ETag, File, ObjectKey, Root, UploadId, UserId, new_id
from godrive.principal import HostUser
from godrive.runtime import Ask, Ref
from godrive.small_files import MOST, SmallFiles
from godrive.small_transfer import receive_small, store_small
from godrive.testing import open_drive, sign_up
from godrive.transfer import NO_TURN

pytestmark = pytest.mark.anyio


class Held(DiskBlobStore):
    """A store that stores each group when it is let go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.groups: list[int] = []
        self.may = asyncio.Event()
        self.came = asyncio.Event()
        self.failure: DriveError | None = None

    async def put_each(self, blobs: Sequence[SmallBlob]) -> list[BlobInfo | DriveError]:
        self.groups.append(len(blobs))
        self.came.set()
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        return await super().put_each(blobs)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[GoDrive, HostUser, Held]]:
    store = Held(path / "blobs")
    with anyio.fail_after(30):
        async with open_drive(blob_store=store) as drive:
            yield drive, HostUser(user_id=(await sign_up(drive)).id), store


def begin(drive: GoDrive, by: HostUser, name: str, **options: Any) -> asyncio.Task[tuple[File, bool]]:
    return asyncio.create_task(store_small(drive, by, Root(), name, name.encode(), **options))


async def names(drive: GoDrive, by: HostUser) -> set[str]:
    return {file.name for file in (await drive.metadata.ask(ListFiles(by, Root(), limit=100))).items}


async def blobs(store: DiskBlobStore) -> int:
    return len([blob async for blob in store.list()])


async def waiting(drive: GoDrive, count: int) -> None:
    """Return when so many bodies wait for the next group."""
    assert drive.small_files is not None
    while len(drive.small_files._waiting) != count:
        await asyncio.sleep(0)


async def test_bodies_that_come_while_others_are_stored_are_one_group(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        first = begin(drive, by, "first")
        await store.came.wait()
        upload = await drive.metadata.ask(BeginUpload(by, Root(), "announced", "text/plain", 4))
        rest = [begin(drive, by, f"{number}") for number in range(10)]
        announced = asyncio.create_task(receive_small(drive, by, upload, b"1234", turn=NO_TURN))
        await waiting(drive, 11)
        store.may.set()
        files = [file for file, is_current in await asyncio.gather(first, *rest) if is_current]
        assert (await announced).sha256 == hashlib.sha256(b"1234").hexdigest()
        assert store.groups == [1, 11]
        assert {file.name for file in files} | {"announced"} == await names(drive, by)
        assert await blobs(store) == 12


async def test_one_that_is_refused_changes_nothing_for_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        first = begin(drive, by, "same")
        await store.came.wait()
        damaged, taken, whole = begin(drive, by, "a", sha256="0" * 64), begin(drive, by, "same"), begin(drive, by, "b")
        announced = await drive.metadata.ask(BeginUpload(by, Root(), "c", "text/plain", 4, sha256="0" * 64))
        wrong = asyncio.create_task(receive_small(drive, by, announced, b"1234", turn=NO_TURN))
        await waiting(drive, 4)
        store.may.set()
        with pytest.raises(DigestMismatch):
            await damaged
        with pytest.raises(DigestMismatch):
            await wrong
        with pytest.raises(NameTaken):
            await taken
        await asyncio.gather(first, whole)
        assert await names(drive, by) == {"same", "b"}
        assert await blobs(store) == 2
        assert await drive.metadata.ask(RecountUsage()) == 0


async def test_a_store_that_fails_fails_each_of_a_group_and_not_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        first = begin(drive, by, "first")
        await store.came.wait()
        second = [begin(drive, by, f"{number}") for number in range(3)]
        await waiting(drive, 3)
        store.failure = StoreUnavailable("The disk is away.")
        store.may.set()
        failures = await asyncio.gather(first, *second, return_exceptions=True)
        assert [type(failure) for failure in failures] == [StoreUnavailable] * 4
        assert len(set(map(id, failures))) == 4, "each has an error of its own"
        store.failure = None
        await begin(drive, by, "later")
        assert await names(drive, by) == {"later"}


async def test_a_body_whose_caller_leaves_before_its_group_is_not_stored(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        first = begin(drive, by, "first")
        await store.came.wait()
        left, stays = begin(drive, by, "left"), begin(drive, by, "stays")
        await waiting(drive, 2)
        left.cancel()
        await waiting(drive, 1)
        store.may.set()
        await asyncio.gather(first, stays)
        assert left.cancelled()
        assert await names(drive, by) == {"first", "stays"}
        assert await blobs(store) == 2


async def test_a_body_whose_caller_leaves_within_its_group_is_a_file_before_the_caller_has_left(tmp_path: Path) -> None:
    """So it is never published later, when its client may have sent it again."""
    async with opened(tmp_path) as (drive, by, store):
        left = begin(drive, by, "left")
        await store.came.wait()
        left.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not left.done()
        store.may.set()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert await names(drive, by) == {"left"}
        assert await blobs(store) == 1


async def test_a_caller_who_leaves_in_the_turn_in_which_its_group_ends_has_left(tmp_path: Path) -> None:
    """Nobody would end its wait later: neither the group, which has ended, nor a second cancellation."""
    async with opened(tmp_path) as (drive, by, store):
        left = begin(drive, by, "left")
        await store.came.wait()
        store.failure = StoreUnavailable("The disk is away.")
        store.may.set()
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(left), 5)
        assert await blobs(store) == 0


class Rows:
    """Answers for the metadata actor when it is let go on, and makes no file."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def ask(self, message: MakeFiles) -> list[File | None]:
        await self.may.wait()
        return [None] * len(message.stored)


class Bytes:
    """Stores every group at once, and notes its size."""

    pack_below = 1

    def __init__(self) -> None:
        self.groups: list[int] = []

    async def put_each(self, blobs: Sequence[SmallBlob]) -> list[BlobInfo]:
        self.groups.append(len(blobs))
        now = datetime.now(UTC)
        return [BlobInfo(key=each.key, size_bytes=1, etag=ETag("e"), modified_at=now) for each in blobs]


class Bodies:
    """Small bodies whose rows are held."""

    def __init__(self) -> None:
        self.bytes, self.rows = Bytes(), Rows()
        self.small_files = SmallFiles(cast("Any", self.bytes), cast("Any", self.rows), rows_together=True)
        self.tasks: list[asyncio.Task[File | None]] = []

    async def come(self, count: int) -> list[int]:
        """Let so many come at once.  Returns the sizes of the groups of which the bytes are stored then."""
        for _ in range(count):
            blob = SmallBlob(ObjectKey(new_id()), b"1")
            self.tasks.append(asyncio.create_task(self.small_files.make(blob, self._command)))
        await anyio.wait_all_tasks_blocked()
        return self.bytes.groups

    @staticmethod
    def _command(blob: BlobInfo) -> StoreFile:
        return StoreFile(HostUser(user_id=UserId(new_id())), Root(), "a", "", blob, UploadId(new_id()))


@asynccontextmanager
async def held() -> AsyncIterator[Bodies]:
    """Bodies whose rows are let go on in the end."""
    bodies = Bodies()
    try:
        yield bodies
    finally:
        bodies.rows.may.set()
        await asyncio.gather(*bodies.tasks)


async def test_bytes_are_stored_beside_rows_once_they_are_a_group_as_large() -> None:
    async with held() as bodies:
        assert await bodies.come(2) == [2]
        assert await bodies.come(1) == [2]
        assert await bodies.come(1) == [2, 2]


async def test_a_smaller_group_follows_the_rows() -> None:
    async with held() as bodies:
        assert await bodies.come(2) == [2]
        assert await bodies.come(1) == [2]
    assert bodies.bytes.groups == [2, 1]


async def test_no_more_than_a_full_group_are_waited_for() -> None:
    async with held() as bodies:
        assert await bodies.come(MOST) == [MOST]
        assert await bodies.come(MOST) == [MOST, MOST]
        assert await bodies.come(MOST) == [MOST, MOST, MOST]


async def test_a_drive_closes_after_its_groups(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        last = begin(drive, by, "last")
        await store.came.wait()
        store.may.set()
    assert (await last)[0].name == "last"


class Unsure:
    """Metadata that has nobody know whether a file was made, and then cannot be reached."""

    def __init__(self, metadata: Ref[Metadata], *errors: DriveError) -> None:
        self._metadata = metadata
        self._errors = list(errors)

    async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
        if isinstance(message, MakeFiles | StoreFile) and self._errors:
            raise self._errors.pop(0)
        return await self._metadata.ask(message, timeout=timeout)


@pytest.mark.parametrize(
    "errors",
    [(AskTimeout(), StoreUnavailable(), StoreUnavailable()), (MailboxFull(), StoreUnavailable(), AskTimeout())],
)
async def test_a_file_that_may_have_been_made_is_unknown_whatever_fails_besides(
    tmp_path: Path, errors: tuple[DriveError, ...]
) -> None:
    """A client that is told of a failure repeats the request, and could make a second file."""
    async with opened(tmp_path) as (drive, by, store):
        assert drive.small_files is not None
        store.may.set()
        unsure: Any = Unsure(drive.metadata, *errors)
        drive.metadata = drive.small_files._metadata = unsure
        with pytest.raises(AskTimeout):
            await begin(drive, by, "unsure")
        assert await blobs(store) == 1, "the file may need them"


async def test_an_upload_that_may_have_been_published_is_published_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (drive, by, store):
        assert drive.small_files is not None
        store.may.set()
        upload = await drive.metadata.ask(BeginUpload(by, Root(), "announced", "text/plain", 4))
        unsure: Any = Unsure(drive.metadata, AskTimeout())
        drive.small_files._metadata = unsure
        assert (await receive_small(drive, by, upload, b"1234", turn=NO_TURN)).name == "announced"
