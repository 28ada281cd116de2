"""The drive of one user, by path, for applications that embed GoDrive: no messages, no ids.

::

    files = drive.files(user)
    await files.write("reports/2026/May.txt", b"...")
    async for name, entry in files.walk("reports"): ...

Paths are relative to the root of the drive, with ``/`` between the names.
Every method raises the errors of the message that it sends, such as
``NotFound``; an error never leaves half of a change.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING

from godrive import transfer
from godrive.arriving import Pieces
from godrive.errors import Invalid, NameTaken
from godrive.messages.changes import Change, ListChanges
from godrive.messages.files import (
    GetFile,
    ListFiles,
    MakeFolder,
    RestoreFile,
    TrashFile,
    UpdateFile,
)
from godrive.model import (
    At,
    File,
    FileId,
    FileKind,
    In,
    OnConflict,
    Place,
    Root,
    Sort,
    Spot,
    Tombstone,
    UserId,
)
from godrive.principal import HostUser
from godrive.watch import Woken

if TYPE_CHECKING:
    from godrive.drive import GoDrive


_LONGEST_WAIT = 3600.0


class Files:
    """The files and folders of one user.  It holds no state, so it may be kept or made again."""

    def __init__(self, drive: GoDrive, user_id: UserId) -> None:
        self._drive = drive
        self._by = HostUser(user_id=user_id)

    async def write(
        self,
        path: str,
        data: bytes | Pieces,
        *,
        mime: str = "",
        modified_at: datetime | None = None,
        on_conflict: OnConflict = OnConflict.REPLACE,
    ) -> File:
        """Store *data* as the file at *path*.  It is durable when this returns.

        Folders that are missing are created.  A file that is there gets a new
        version, unless *on_conflict* says otherwise.
        """
        *above, name = names(path)
        return await transfer.receive(
            self._drive,
            self._by,
            At(path=tuple(above), parents=True),
            name,
            _one(data) if isinstance(data, bytes) else data,
            size=len(data) if isinstance(data, bytes) else None,
            mime=mime,
            modified_at=modified_at,
            on_conflict=on_conflict,
        )

    async def read(self, path: str) -> bytes:
        """Return the bytes of a file.  For large files, use :meth:`stream`."""
        return b"".join([piece async for piece in self.stream(path)])

    def stream(self, path: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file from *start* to before *end*."""
        return transfer.read(self._drive, self._by, _at(path), start=start, end=end)

    async def get(self, path: str) -> File:
        """Return the file or folder at *path*."""
        return await self._drive.metadata.ask(GetFile(self._by, _at(path)))

    async def list(self, path: str = "") -> AsyncIterator[File]:
        """Yield the entries of a folder by name."""
        async for entry in self._entries(_folder(path)):
            yield entry

    async def walk(self, path: str = "") -> AsyncIterator[tuple[str, File]]:
        """Yield everything below a folder with its path, a folder before its contents."""
        prefix = "/".join(names(path)) if path else ""
        folders: list[tuple[str, Spot]] = [(prefix, _folder(path))]
        while folders:
            above, where = folders.pop()
            inner: list[tuple[str, Spot]] = []
            async for entry in self._entries(where):
                below = f"{above}/{entry.name}" if above else entry.name
                yield below, entry
                if entry.kind is FileKind.FOLDER:
                    inner.append((below, In(folder_id=entry.id)))
            folders += reversed(inner)

    async def make_folder(self, path: str) -> File:
        """Create the folder at *path* and those above it.  Returns the one that is there already."""
        *above, name = names(path)
        try:
            return await self._drive.metadata.ask(MakeFolder(self._by, At(path=tuple(above), parents=True), name))
        except NameTaken:
            found = await self.get(path)
            if found.kind is not FileKind.FOLDER:
                raise
            return found

    async def move(self, path: str, to: str, *, on_conflict: OnConflict = OnConflict.FAIL) -> File:
        """Move or rename an entry, with its contents, to the path *to*.  Folders that are missing are created."""
        *above, name = names(to)
        return await self._drive.metadata.ask(
            UpdateFile(self._by, _at(path), name, At(path=tuple(above), parents=True), on_conflict)
        )

    async def trash(self, path: str) -> Tombstone:
        """Move an entry, with its contents, to the trash."""
        return await self._drive.metadata.ask(TrashFile(self._by, _at(path)))

    async def restore(self, file_id: FileId, *, on_conflict: OnConflict = OnConflict.FAIL) -> File:
        """Restore what was trashed."""
        return await self._drive.metadata.ask(RestoreFile(self._by, file_id, on_conflict))

    async def changes(self, cursor: str | None = None) -> AsyncGenerator[Change, None]:
        """Yield the changes of the drive as they are committed, oldest first, until the user is disabled.

        They begin after *cursor*, the ``cursor`` of a change, or by default with
        the first step of the iteration.  Raises ``CursorReset`` if the log does
        not reach back to the cursor: read the whole drive again.
        """
        with self._drive.watch.watch(self._by) as watch:
            while True:
                page = await self._drive.metadata.ask(ListChanges(self._by, cursor))
                for change in page.changes:
                    yield change
                cursor = page.cursor
                watch.seen = max(watch.seen, page.number)
                woken = Woken.CHANGED if page.has_more else Woken.TIME
                while woken is Woken.TIME:
                    woken = await watch.wait(_LONGEST_WAIT)
                if woken is not Woken.CHANGED:
                    return

    async def _entries(self, where: Place) -> AsyncIterator[File]:
        page: str | None = None
        while True:
            found = await self._drive.metadata.ask(ListFiles(self._by, where, 1000, page, Sort.NAME))
            for entry in found.items:
                yield entry
            page = found.next_page
            if page is None:
                return


def names(path: str) -> list[str]:
    """Return the names of a path.  Raises ``Invalid`` if it has none, or an empty one."""
    found = path.removeprefix("/").removesuffix("/").split("/")
    if not all(found):
        raise Invalid("A path is names with one slash between them.", field="path")
    return found


def _at(path: str) -> At:
    return At(path=tuple(names(path)))


def _folder(path: str) -> Spot:
    return At(path=tuple(names(path))) if path.strip("/") else Root()


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
