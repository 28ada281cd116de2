"""A drive and a model of it go through the same steps, in whatever order, and are compared after each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from godrive.errors import Conflict, Gone, NameTaken, NotFound, QuotaExceeded, UploadFinished
from godrive.messages.auth import GetUser
from godrive.messages.files import (
    EmptyTrash,
    ListFiles,
    ListTrash,
    OpenContent,
    PurgeFile,
    RestoreFile,
    TrashFile,
    UpdateFile,
)
from godrive.messages.ingest import CommitUpload, Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.system import UsageDrift
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload
from godrive.model import Anywhere, FileId, ObjectKey, Root, UploadId, UploadState, Usage
from godrive.rules import users
from godrive.testing import ManualClock, chunks, open_drive, sign_up
from tests.principals import SYSTEM, acting

T = TypeVar("T")

QUOTA = 1000
GRACE = 7200.0
NAMES = st.sampled_from(["a", "b", "ä", "a\N{COMBINING DIAERESIS}", "c"])


@dataclass(frozen=True)
class Item:
    """A file, live or in the trash."""

    name: str
    content: bytes
    key: ObjectKey
    purge_at: datetime | None = None


@dataclass(frozen=True)
class Pending:
    """An upload that may still become a file."""

    name: str
    content: bytes
    key: ObjectKey
    arrived: bool = False


def same(name: str) -> str:
    """What makes two of :data:`NAMES` one."""
    return name.replace("a\N{COMBINING DIAERESIS}", "ä")


class Lifecycle(RuleBasedStateMachine):
    """One user's drive."""

    uploads: Bundle[UploadId] = Bundle("uploads")
    files: Bundle[FileId] = Bundle("files")

    def __init__(self) -> None:
        super().__init__()
        self.pending: dict[UploadId, Pending] = {}
        self.committed: dict[UploadId, FileId] = {}
        self.live: dict[FileId, Item] = {}
        self.trash: dict[FileId, Item] = {}
        self.purging: dict[FileId, Item] = {}
        self.clock = ManualClock()
        self.stack = ExitStack()
        self.portal = self.stack.enter_context(start_blocking_portal())
        self.drive = self.stack.enter_context(
            self.portal.wrap_async_context_manager(open_drive(clock=self.clock, janitor={"trash_grace": GRACE}))
        )
        self.owner = self.do(sign_up, self.drive).id
        self.do(self.drive.catalog.write, lambda tx: users.set_quota(tx, self.owner, QUOTA))

    def teardown(self) -> None:
        self.stack.close()

    def do(self, call: Callable[..., Awaitable[T]], *values: Any) -> T:
        return self.portal.call(call, *values)

    def taken(self, name: str) -> bool:
        return same(name) in {same(item.name) for item in self.live.values()}

    @property
    def used(self) -> int:
        return sum(len(item.content) for group in self.held for item in group.values())

    @property
    def held(self) -> list[dict[Any, Any]]:
        return [self.live, self.trash, self.purging, self.pending]

    def expect(self, error: type[Exception] | None, call: Callable[..., Awaitable[T]], *values: Any) -> T | None:
        """The call's result, or ``None`` when it raised just what it had to."""
        if error is None:
            return self.do(call, *values)
        try:
            self.do(call, *values)
        except error as raised:
            assert type(raised) is error  # noqa: PT017 - a subclass would be another answer
            return None
        raise AssertionError(f"expected {error.__name__}")

    @rule(target=uploads, name=NAMES, size=st.integers(0, 400))
    def begin(self, name: str, size: int) -> Any:
        error = NameTaken if self.taken(name) else QuotaExceeded if self.used + size > QUOTA else None
        upload = self.expect(
            error, self.drive.metadata.ask, BeginUpload(acting(self.owner), Root(), name, "text/plain", size)
        )
        if upload is None:
            return multiple()
        self.pending[upload.id] = Pending(name, bytes([len(self.pending) % 256]) * size, upload.object_key)
        return upload.id

    @rule(upload_id=uploads)
    def put(self, upload_id: UploadId) -> None:
        upload = self.pending.get(upload_id)
        if upload is not None and not upload.arrived:
            self.do(self._put, upload)
            self.pending[upload_id] = replace(upload, arrived=True)

    async def _put(self, upload: Pending) -> None:
        await self.drive.blobs.put(upload.key, chunks(upload.content, 100), size=len(upload.content))

    @rule(target=files, upload_id=uploads)
    def commit(self, upload_id: UploadId) -> Any:
        ask, message = self.drive.ingest.ask, CommitUpload(acting(self.owner), upload_id)
        if upload_id in self.committed:
            again = self.committed[upload_id]
            gone = again not in self.live and again not in self.trash
            file = self.expect(Gone if gone else None, ask, message)
            assert file is None or file.id == again
            return multiple()
        upload = self.pending.get(upload_id)
        if upload is None:
            self.expect(Gone, ask, message)
            return multiple()
        file = self.expect(
            Conflict if not upload.arrived else NameTaken if self.taken(upload.name) else None, ask, message
        )
        return multiple() if file is None else self._published(upload_id, file.id)

    def _published(self, upload_id: UploadId, file_id: FileId) -> FileId:
        upload = self.pending.pop(upload_id)
        self.committed[upload_id] = file_id
        self.live[file_id] = Item(upload.name, upload.content, upload.key)
        return file_id

    @rule(upload_id=uploads)
    def abort(self, upload_id: UploadId) -> None:
        error = UploadFinished if upload_id in self.committed else None
        self.expect(error, self.drive.metadata.ask, AbortUpload(acting(self.owner), upload_id))
        self.pending.pop(upload_id, None)

    @rule(target=files)
    @precondition(lambda self: self.pending)
    def let_uploads_expire(self) -> Any:
        self.clock.advance(3700)
        self.do(self.drive.ingest.ask, Reconcile())
        new = []
        for upload_id, upload in list(self.pending.items()):
            row = self.do(self.drive.metadata.ask, GetUpload(SYSTEM, upload_id))
            if row.state is UploadState.COMMITTED:
                assert upload.arrived
                assert not self.taken(upload.name)
                assert row.file_id is not None
                new.append(self._published(upload_id, row.file_id))
        for upload_id, upload in list(self.pending.items()):
            row = self.do(self.drive.metadata.ask, GetUpload(SYSTEM, upload_id))
            assert row.state is (UploadState.FAILED if upload.arrived else UploadState.EXPIRED)
            assert not upload.arrived or self.taken(upload.name)
            del self.pending[upload_id]
        return multiple(*new)

    @rule(file_id=files, name=NAMES)
    def rename(self, file_id: FileId, name: str) -> None:
        item = self.live.get(file_id)
        others = {same(other.name) for id_, other in self.live.items() if id_ != file_id}
        error = NotFound if item is None else NameTaken if same(name) in others else None
        if (
            self.expect(error, self.drive.metadata.ask, UpdateFile(acting(self.owner), file_id, name))
            and item is not None
        ):
            self.live[file_id] = replace(item, name=name)

    @rule(file_id=files)
    def trash_file(self, file_id: FileId) -> None:
        known = file_id in self.live or file_id in self.trash
        tombstone = self.expect(
            None if known else NotFound, self.drive.metadata.ask, TrashFile(acting(self.owner), file_id)
        )
        if tombstone is None:
            return
        if file_id in self.live:
            purge_at = self.clock.now() + timedelta(seconds=GRACE)
            self.trash[file_id] = replace(self.live.pop(file_id), purge_at=purge_at)
        assert tombstone.purge_at == self.trash[file_id].purge_at

    @rule(file_id=files)
    def restore(self, file_id: FileId) -> None:
        item = self.trash.get(file_id)
        known = item is not None or file_id in self.live
        error = NameTaken if item is not None and self.taken(item.name) else None if known else NotFound
        if self.expect(error, self.drive.metadata.ask, RestoreFile(acting(self.owner), file_id)) and item is not None:
            self.live[file_id] = replace(self.trash.pop(file_id), purge_at=None)

    @rule(file_id=files)
    def purge(self, file_id: FileId) -> None:
        error = None if file_id in self.trash else NotFound
        self.expect(error, self.drive.metadata.ask, PurgeFile(acting(self.owner), file_id))
        if file_id in self.trash:
            self.purging[file_id] = self.trash.pop(file_id)

    @rule()
    def empty_trash(self) -> None:
        assert self.do(self.drive.metadata.ask, EmptyTrash(acting(self.owner))) == len(self.trash)
        self.purging |= self.trash
        self.trash.clear()

    @rule(seconds=st.sampled_from([0.0, 1.0, 3600.0, GRACE]))
    def sweep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        due = {id_ for id_, item in self.trash.items() if item.purge_at and item.purge_at <= self.clock.now()}
        swept = self.do(self.drive.janitor.ask, Sweep())
        assert swept.failed == 0
        assert swept.purged == len(due | self.purging.keys())
        assert self.do(self.drive.janitor.ask, Sweep()).purged == 0
        self.purging.clear()
        for file_id in due:
            del self.trash[file_id]

    @rule(file_id=consumes(files))
    def forget(self, file_id: FileId) -> None:
        """Keeps the bundle small; a file that is forgotten is still compared."""

    @invariant()
    def lists_are_those_of_the_model(self) -> None:
        self.do(self._compare)

    async def _compare(self) -> None:
        metadata = self.drive.metadata
        listed = await metadata.ask(ListFiles(acting(self.owner), Anywhere()))
        assert {file.id: file.name for file in listed.items} == {id_: item.name for id_, item in self.live.items()}
        trashed = await metadata.ask(ListTrash(acting(self.owner)))
        assert {file.id: file.purge_at for file in trashed.items} == {i: t.purge_at for i, t in self.trash.items()}
        for file_id, item in self.live.items():
            content = await metadata.ask(OpenContent(acting(self.owner), file_id))
            assert content.object_key == item.key
            assert b"".join([piece async for piece in self.drive.blobs.get(item.key)]) == item.content

    @invariant()
    def usage_is_what_the_rows_add_up_to(self) -> None:
        usage = self.do(self.drive.auth.ask, GetUser(acting(self.owner))).usage
        assert usage == Usage(
            live_bytes=sum(len(item.content) for item in self.live.values()),
            trash_bytes=sum(len(item.content) for group in (self.trash, self.purging) for item in group.values()),
            reserved_bytes=sum(len(upload.content) for upload in self.pending.values()),
        )
        assert not self.do(self.drive.metadata.ask, UsageDrift())


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
