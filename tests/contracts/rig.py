"""A catalog, a clock, and the sentences that tests are made of."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from godrive.catalog import Catalog, Tx
from godrive.model import BlobInfo, ETag, File, FileId, Page, Tombstone, Upload, Usage, UserId, new_id
from godrive.rules import files, housekeeping, trash, uploads, users
from godrive.rules.page_tokens import PageTokens
from godrive.testing import ManualClock

P = ParamSpec("P")
T = TypeVar("T")

Rule = Callable[Concatenate[Tx, P], Awaitable[T]]

TTL = 3600.0
GRACE = 86_400.0


class Rig:
    """Runs rules on a catalog, now."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.clock = ManualClock()
        self.tokens = PageTokens([b"k" * 32])
        self._numbers = itertools.count()

    async def read(self, rule: Rule[P, T], *args: P.args, **options: P.kwargs) -> T:
        return await self.catalog.read(lambda tx: rule(tx, *args, **options))

    async def write(self, rule: Rule[P, T], *args: P.args, **options: P.kwargs) -> T:
        return await self.catalog.write(lambda tx: rule(tx, *args, **options))

    @property
    def now(self) -> Any:
        return self.clock.now()

    async def user(self, email: str | None = None, *, quota: int | None = None) -> UserId:
        email = f"user{next(self._numbers)}@example.org" if email is None else email
        user = await self.write(users.add, email=email, password_hash="hash", now=self.now, quota_bytes=quota)
        return user.id

    async def begin(self, owner: UserId, name: str = "a.txt", *, size: int = 10, **options: Any) -> Upload:
        return await self.write(
            uploads.begin, owner, name=name, mime="text/plain", size_bytes=size, now=self.now, ttl=TTL, **options
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
        return await self.write(uploads.publish, upload.id, self.blob(upload, **options), now=self.now)

    async def file(self, owner: UserId, name: str = "a.txt", *, size: int = 10, **options: Any) -> File:
        return await self.publish(await self.begin(owner, name, size=size, **options))

    async def folder(self, owner: UserId, name: str = "folder") -> FileId:
        """An empty folder: the schema has them, and no rule makes one yet."""
        folder_id = FileId(new_id())
        await self.run(
            "INSERT INTO entries (id, owner_id, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
            "created_at, updated_at, revision, state) "
            "VALUES ($1, $2, '', 'folder', $3, $3, $3, '', 0, 0, 0, 1, 'live')",
            folder_id,
            owner,
            name,
        )
        return folder_id

    async def set_state(self, entry_id: FileId, state: str) -> None:
        """What a rule that trashes a folder will do."""
        await self.run("UPDATE entries SET state = $2 WHERE id = $1", entry_id, state)

    async def run(self, sql: str, *values: object) -> int:
        """A statement of the test's own."""
        return await self.catalog.write(lambda tx: tx.run(sql, *values))

    async def trash(self, file: File, **options: Any) -> Tombstone:
        return await self.write(trash.put, file.owner_id, file.id, now=self.now, grace=GRACE, **options)

    async def restore(self, file: File, **options: Any) -> File:
        return await self.write(trash.restore, file.owner_id, file.id, now=self.now, **options)

    async def page(self, owner: UserId, **options: Any) -> Page[File]:
        return await self.read(files.list_page, owner, tokens=self.tokens, **options)

    async def names(self, owner: UserId, **options: Any) -> list[str]:
        """Every live name, by way of as many pages as it takes."""
        page = await self.page(owner, **options)
        found = [file.name for file in page.items]
        while page.next_page is not None:
            page = await self.page(owner, page=page.next_page, **options)
            found += [file.name for file in page.items]
        return found

    async def usage(self, owner: UserId) -> Usage:
        return (await self.read(users.get, owner)).usage

    async def drift(self) -> int:
        return await self.catalog.read(housekeeping.usage_drift)

    async def purge_all(self) -> list[Any]:
        """What a sweep does, with a store that deletes at once."""
        claimed = await self.write(trash.claim_purges, limit=1000, now=self.now)
        for purge in claimed:
            await self.write(trash.finish_purge, purge.file_id, now=self.now)
        return claimed
