"""A catalog, a clock, and the sentences that tests are made of."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec.structs import replace

from godrive.catalog import Catalog, Tx
from godrive.config import Blobs, Config, Janitor
from godrive.messages.files import (
    CopyFile,
    GetFile,
    ListFiles,
    ListTrash,
    MakeFolder,
    PurgeFile,
    RestoreFile,
    SearchFiles,
    TrashFile,
    UpdateFile,
)
from godrive.messages.metadata import Metadata
from godrive.messages.system import (
    CheckNames,
    ClaimPurges,
    FinishPurge,
    IndexNames,
    Purge,
    SettleTrash,
    UsageDrift,
)
from godrive.messages.uploads import BeginUpload, PublishUpload
from godrive.model import (
    Anywhere,
    BlobInfo,
    ETag,
    File,
    FileId,
    In,
    Page,
    Place,
    Root,
    Spot,
    Tombstone,
    Upload,
    Usage,
    UserId,
)
from godrive.principal import HostUser, Principal, System
from godrive.rules import (  # noqa: F401 - register rules
    batches,
    feed,
    files,
    folders,
    housekeeping,
    idempotency,
    joining,
    lists,
    log_chores,
    name_index,
    outbox,
    purges,
    resumable,
    search,
    trash,
    tree_copies,
    upload_ends,
    uploads,
    users,
    version_chores,
    versions,
    webhooks,
)
from godrive.rules.page_tokens import PageTokens
from godrive.rules.registry import Env, perform
from godrive.runtime import Ask
from godrive.testing import ManualClock

P = ParamSpec("P")
T = TypeVar("T")

Rule = Callable[Concatenate[Tx, P], Awaitable[T]]

TTL = 3600.0
GRACE = 86_400.0
RETENTION = 100.0

ROOT = Root()
ANYWHERE = Anywhere()
SERVER = System(part="test")
"""The server itself, as a principal."""


def host(owner: UserId) -> HostUser:
    """The user as a principal."""
    return HostUser(user_id=owner)


def inside(folder: File) -> In:
    """The folder as a place."""
    return In(folder_id=folder.id)


class Rig:
    """Runs rules on a catalog, now."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.clock = ManualClock()
        self.tokens = PageTokens([b"k" * 32])
        self.config = Config(
            blobs=Blobs(upload_ttl=TTL, resume_ttl=TTL), janitor=Janitor(trash_grace=GRACE, upload_retention=RETENTION)
        )
        self._numbers = itertools.count()

    def configure(self, table: str, **values: object) -> None:
        """Change keys of one table of the configuration."""
        self.config = replace(self.config, **{table: replace(getattr(self.config, table), **values)})

    @property
    def env(self) -> Env:
        """What a rule that runs now knows beside its message."""
        return Env(self.clock.now(), self.config, self.tokens)

    async def ask(self, message: Ask[Metadata, T]) -> T:
        """Run the rule of the message."""
        return await perform(self.catalog, message, self.env)

    async def read(self, rule: Rule[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a function that has no message."""
        return await self.catalog.read(lambda tx: rule(tx, *args, **options))

    async def write(self, rule: Rule[P, T], *args: P.args, **options: P.kwargs) -> T:
        """As :meth:`read`, where it changes something."""
        return await self.catalog.write(lambda tx: rule(tx, *args, **options))

    async def run(self, sql: str, *values: object) -> int:
        """A statement of the test's own."""
        return await self.catalog.write(lambda tx: tx.run(sql, *values))

    async def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query of the test's own."""
        return [tuple(row) for row in await self.catalog.read(lambda tx: tx.all(sql, *values))]

    @property
    def now(self) -> datetime:
        return self.clock.now()

    async def user(self, email: str | None = None, *, quota: int | None = None) -> UserId:
        email = f"user{next(self._numbers)}@example.org" if email is None else email
        user = await self.write(users.add, email=email, password_hash="hash", now=self.now, quota_bytes=quota)
        return user.id

    async def begin(
        self,
        owner: UserId,
        name: str = "a.txt",
        *,
        size: int = 10,
        mime: str = "text/plain",
        where: Spot = ROOT,
        **options: Any,
    ) -> Upload:
        return await self.ask(
            BeginUpload(by=host(owner), where=where, name=name, mime=mime, size_bytes=size, **options)
        )

    def blob(self, upload: Upload, *, size: int | None = None, sha256: str | None = None) -> BlobInfo:
        """What a store would say of the upload's bytes."""
        return BlobInfo(
            key=upload.object_key,
            size_bytes=upload.size_bytes if size is None else size,
            etag=ETag("x"),
            modified_at=self.now,
            sha256=sha256,
        )

    async def publish(self, upload: Upload, **options: Any) -> File:
        return await self.ask(PublishUpload(SERVER, upload.id, self.blob(upload, **options), upload))

    async def file(self, owner: UserId, name: str = "a.txt", *, size: int = 10, **options: Any) -> File:
        return await self.publish(await self.begin(owner, name, size=size, **options))

    async def folder(self, owner: UserId, name: str = "folder", *, where: Spot = ROOT) -> File:
        return await self.ask(MakeFolder(by=host(owner), where=where, name=name))

    async def get(self, owner: UserId, file_id: FileId) -> File:
        return await self.ask(GetFile(by=host(owner), file_id=file_id))

    async def rename(self, file: File, name: str, **options: Any) -> File:
        return await self.ask(UpdateFile(by=host(file.owner_id), file_id=file.id, name=name, **options))

    async def copy(self, file: File, **options: Any) -> File:
        return await self.ask(CopyFile(by=host(file.owner_id), file_id=file.id, **options))

    async def trash(self, file: File, **options: Any) -> Tombstone:
        return await self.ask(TrashFile(by=host(file.owner_id), file_id=file.id, **options))

    async def restore(self, file: File, **options: Any) -> File:
        return await self.ask(RestoreFile(by=host(file.owner_id), file_id=file.id, **options))

    async def purge(self, file: File, **options: Any) -> None:
        await self.ask(PurgeFile(by=host(file.owner_id), file_id=file.id, **options))

    async def settle(self, limit: int = 1000) -> None:
        """Let the lists of the whole drive follow to the end."""
        while await self.ask(SettleTrash(limit=limit)):
            pass

    async def search(self, by: Principal | UserId, text: str | None = None, **options: Any) -> list[File]:
        """Every entry that a search finds, by way of as many pages as it takes."""
        who = host(by) if isinstance(by, str) else by
        ask: dict[str, Any] = {"by": who, "where": ROOT, "text": text, **options}
        page = await self.ask(SearchFiles(**ask))
        found = page.items
        while page.next_page is not None:
            page = await self.ask(SearchFiles(**ask, page=page.next_page))
            found = found + page.items
        return found

    async def index(self, limit: int = 100) -> None:
        """Let the index of names follow to the end, and compare it with the entries."""
        while await self.ask(IndexNames(limit=limit)):
            pass
        checked = await self.ask(CheckNames())
        assert checked.wrong == []
        if type(self.catalog).__name__ == "SqliteCatalog":
            await self.run("INSERT INTO names_fts (names_fts, rank) VALUES ('integrity-check', 1)")

    async def page(self, owner: UserId, *, where: Place = ANYWHERE, **options: Any) -> Page[File]:
        return await self.ask(ListFiles(by=host(owner), where=where, **options))

    async def names(self, owner: UserId, **options: Any) -> list[str]:
        """Every live name, by way of as many pages as it takes."""
        return [file.name for file in await self.files(owner, **options)]

    async def files(self, owner: UserId, **options: Any) -> list[File]:
        """Every entry that the list shows, by way of as many pages as it takes."""
        page = await self.page(owner, **options)
        found = page.items
        while page.next_page is not None:
            page = await self.page(owner, page=page.next_page, **options)
            found = found + page.items
        return found

    async def binned(self, owner: UserId, *, limit: int = 100) -> list[File]:
        """Every entry that the trash lists."""
        page = await self.ask(ListTrash(by=host(owner), limit=limit))
        found = page.items
        while page.next_page is not None:
            page = await self.ask(ListTrash(by=host(owner), limit=limit, page=page.next_page))
            found = found + page.items
        return found

    async def usage(self, owner: UserId) -> Usage:
        return (await self.read(users.get, owner)).usage

    async def drift(self) -> int:
        drift = await self.ask(UsageDrift())
        return drift.bytes + drift.rows

    async def purge_all(self, limit: int = 1000) -> list[Purge]:
        """What sweeps do until nothing more is due, with a store that deletes at once."""
        purged: list[Purge] = []
        while claimed := await self.ask(ClaimPurges(limit=limit)):
            for purge in claimed:
                await self.ask(FinishPurge(purge.file_id, purge.revision))
            purged += claimed
        return purged
