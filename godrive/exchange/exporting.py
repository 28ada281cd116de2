"""Write the drive of a user to a local folder: names, times and bytes, and a manifest of what files cannot hold.

Theory of operation.  The export reads one folder of the drive after another,
and writes below folders that it holds open, without following links, so nothing
leads out of the target.  A file is written under a name of its own, compared
with its digest, given its time, and then linked under its name, which fails if
there is something already.  So the target has whole files only, and never loses
what it had.

A run that is repeated skips what is there with the same size and time.  What an
earlier run wrote is in its manifest; only that is replaced when the drive has
something else now.  What the drive does not have any more stays.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from godrive.blobs import BlobDamaged
from godrive.errors import ConfigError, DriveError, NotFound, StorageFull, StoreUnavailable
from godrive.exchange.crew import Crew
from godrive.exchange.local import OpenFolder, nanoseconds, open_file
from godrive.exchange.manifest import NAME, PARTIAL, Line, Manifest, ManifestWriter, file_name, mapped, reading
from godrive.exchange.source import digest_of
from godrive.exchange.writing import REFUSED_NAMES, Parts, Seen, look, make_folder, seal, write
from godrive.messages.files import ListContents, OpenContent
from godrive.messages.storage import CheckStore
from godrive.model import Content, File, FileKind, In, Root, Spot
from godrive.paths import make_path
from godrive.principal import HostUser
from godrive.rules.names import search_key

if TYPE_CHECKING:
    from godrive.drive import GoDrive

FILES_AT_ONCE = 8

_PAGE = 500
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Trouble(StrEnum):
    """Why something of the drive is not in the folder."""

    IN_THE_WAY = "in_the_way"
    """The folder has something under that name that no export wrote."""
    DAMAGED = "damaged"
    """Its bytes are missing, or are not those that were stored."""
    FAILED = "failed"
    """It could not be written."""


class ExportProblem(msgspec.Struct, frozen=True):
    """One trouble with the entry at *path* in the drive."""

    problem: Trouble
    path: str
    detail: str


class Exported(msgspec.Struct):
    """How far an export is.  *present* files were there already, *mapped* entries have another name there."""

    files: int = 0
    folders: int = 0
    bytes: int = 0
    present: int = 0
    mapped: int = 0
    in_the_way: int = 0
    damaged: int = 0
    failed: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything of the drive is there."""
        return not (self.in_the_way or self.damaged or self.failed)


class Exporter:
    """Exports the drive of one user.  *note* is called for each trouble."""

    def __init__(self, drive: GoDrive, by: HostUser, *, note: Callable[[ExportProblem], None]) -> None:
        self.counts = Exported()
        self._drive = drive
        self._by = by
        self._tell = note
        self._crew = Crew(FILES_AT_ONCE)
        self._waiting: list[_Waiting] = []
        self._parts: Parts
        self._before: Manifest
        self._manifest: ManifestWriter

    async def run(self, target: Path, user: str) -> None:
        """Export to the folder *target*, which is created if absent.  *user* is for the manifest.

        Raises ``ConfigError`` (the folder cannot be used), ``NotFound`` (the
        user), ``StorageFull``, ``StoreUnavailable``; run it again to continue.
        """
        try:
            await asyncio.to_thread(make_path, target, 0o777)
            top = OpenFolder(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "")
        except OSError as error:
            raise ConfigError(f"{target} cannot be used: {error.strerror}.") from None
        try:
            with reading(target / NAME, target / PARTIAL) as self._before:
                await self._run(top, user)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull(f"The disk of {target} is full.", hint="Free space, then run it again.") from None
            raise ConfigError(f"{target} cannot be written: {error.strerror}.") from None
        finally:
            top.release()

    async def _run(self, top: OpenFolder, user: str) -> None:
        self._manifest = ManifestWriter(top.fd, user, self._drive.clock.now())
        try:
            self._parts = Parts(top)
            try:
                await self._visit(top, Root(), "")
                while self._waiting:
                    await self._enter(self._waiting.pop())
            except DriveError:
                await self._crew.settle()  # what is in hand becomes whole files
                raise
            except BaseException:
                await self._crew.cancel()
                raise
            finally:
                self._parts.close()
            await asyncio.to_thread(self._manifest.complete)
        finally:
            self._manifest.close()
            for waiting in self._waiting:
                waiting.parent.release()

    async def _enter(self, at: _Waiting) -> None:
        """Export what is in a folder of the target that was made.  Releases its parent."""
        try:
            folder = await asyncio.to_thread(make_folder, at.parent, at.name, at.parent.below(at.name))
        finally:
            at.parent.release()
        try:
            await self._visit(folder, In(folder_id=at.file.id), at.path)
            kept = await asyncio.to_thread(seal, folder, nanoseconds(at.file.modified_at))
            self._list(at.file, at.path, folder.path, kept)
        except NotFound:
            return  # it was trashed meanwhile
        finally:
            folder.release()

    async def _visit(self, folder: OpenFolder, where: Spot, path: str) -> None:
        """Export the files of a folder, and make its folders."""
        page, last = None, ""
        while True:
            found = await self._drive.metadata.ask(ListContents(self._by, where, _PAGE, page))
            for content in found.items:
                key = search_key(content.file.name)
                is_taken, last = self._parts.folds and key == last, key
                await self._dispatch(folder, path, content, is_taken=is_taken)
            page = found.next_page
            if page is None:
                break
        await self._crew.finish()

    async def _dispatch(self, folder: OpenFolder, above: str, content: Content, *, is_taken: bool) -> None:
        file = content.file
        path = f"{above}/{file.name}" if above else file.name
        name = mapped(file.name) if is_taken else file_name(file.name, top=not above)
        if file.kind is FileKind.FOLDER:
            await self._make(folder, file, name, path)
        else:
            await self._crew.start(self._export(folder, content, name, path))

    async def _make(self, parent: OpenFolder, file: File, name: str, path: str) -> None:
        """Make a folder, and have it visited."""
        try:
            seen = await asyncio.to_thread(look, parent, name)
            if seen is not None and not seen.is_folder:
                self._note(Trouble.IN_THE_WAY, path, "Something else has the name. What is in it was left out.")
                return
            (await asyncio.to_thread(make_folder, parent, name, path)).release()
        except OSError as error:
            if error.errno in _FULL:
                raise
            if error.errno in REFUSED_NAMES and name == file.name:
                await self._make(parent, file, mapped(name), path)
            else:
                self._note(Trouble.FAILED, path, f"{error.strerror}. What is in it was left out.")
            return
        self.counts.folders += 1
        self._waiting.append(_Waiting(parent.hold(), name, path, file))

    async def _export(self, folder: OpenFolder, content: Content, name: str, path: str) -> None:
        """Export one file, and note what prevents it."""
        try:
            await self._export_as(folder, content, name, path)
        except NotFound:
            pass  # it was trashed meanwhile
        except FileExistsError:
            self._note(Trouble.IN_THE_WAY, path, "Something has the name that no export wrote.")
        except BlobDamaged as error:
            self._note(Trouble.DAMAGED, path, error.detail)
        except StoreUnavailable as error:
            await self._drive.storage.ask(CheckStore())  # raises if the store is down, which is no fault of this file
            self._note(Trouble.DAMAGED, path, error.detail)
        except OSError as error:
            if error.errno in _FULL:
                raise
            self._note(Trouble.FAILED, path, f"{error.strerror}.")

    async def _export_as(self, folder: OpenFolder, content: Content, name: str, path: str) -> None:
        file, place = content.file, folder.below(name)
        try:
            seen, before = await asyncio.to_thread(look, folder, name), self._before.find(place)
        except OSError as error:
            if error.errno not in REFUSED_NAMES or name != file.name:
                raise
            await self._export_as(folder, content, mapped(name), path)
            return
        replaces = seen is not None and seen.is_regular and before is not None and _state(before) == seen[2:]
        if seen is not None:
            if seen.is_regular and await self._is_there(folder, name, seen, file, before):
                self.counts.present += 1
                self._list(file, path, place, seen.mtime_ns)
                return
            if not replaces:
                raise FileExistsError
        try:
            await self._write(folder, content, name, path, replaces=replaces)
        except OSError as error:
            if error.errno not in REFUSED_NAMES or name != file.name:
                raise
            await self._export_as(folder, content, mapped(name), path)

    async def _is_there(self, folder: OpenFolder, name: str, seen: Seen, file: File, before: Line | None) -> bool:
        """Whether the file of that name has the bytes of the entry: by size and time, or by its digest."""
        if seen.size != file.size_bytes:
            return False
        if before is not None and _state(before) == seen[2:]:
            return before.sha256 == file.sha256
        if before is None and seen.mtime_ns == nanoseconds(file.modified_at):
            return True
        fd = await asyncio.to_thread(open_file, folder, name)
        try:
            return await asyncio.to_thread(digest_of, fd) == file.sha256
        finally:
            os.close(fd)

    async def _write(self, folder: OpenFolder, content: Content, name: str, path: str, *, replaces: bool) -> None:
        part, fd = await asyncio.to_thread(self._parts.create)
        try:
            file = await self._fill(fd, content)
            kept = await asyncio.to_thread(
                self._parts.finish, part, fd, folder, name, mtime_ns=nanoseconds(file.modified_at), replace=replaces
            )
        except BaseException:
            self._parts.discard(part)
            raise
        finally:
            os.close(fd)
        self.counts.files += 1
        self.counts.bytes += file.size_bytes
        self._list(file, path, folder.below(name), kept)

    async def _fill(self, fd: int, content: Content) -> File:
        """Write the bytes of the file, and return it as it is now.  Raises ``BlobDamaged``, ``NotFound``."""
        while True:
            digest, size, file = hashlib.sha256(), 0, content.file
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            try:
                async for piece in self._drive.blobs.get(content.object_key):
                    size += len(piece)
                    digest.update(piece)
                    await asyncio.to_thread(write, fd, piece)
            except NotFound:
                now = await self._drive.metadata.ask(OpenContent(self._by, file.id))
                if now.object_key == content.object_key:
                    raise BlobDamaged("The store does not have its bytes.", hint="Run godrive fsck.") from None
                content = now  # its bytes were replaced meanwhile
                continue
            if size != file.size_bytes or file.sha256 not in (None, digest.hexdigest()):
                raise BlobDamaged("The bytes are not those that were stored.", hint="Run godrive fsck --digests.")
            return file

    def _list(self, file: File, path: str, place: str, kept_ns: int) -> None:
        """Write the line of the manifest."""
        self.counts.mapped += path.rpartition("/")[2] != place.rpartition("/")[2]
        line = Line(
            path=path,
            kind=file.kind,
            modified_at=file.modified_at,
            size=file.size_bytes,
            sha256=file.sha256,
            mime=file.mime,
            properties=file.properties,
            favorite=file.favorite,
            file=None if place == path else place,
            kept_ns=None if kept_ns == nanoseconds(file.modified_at) else kept_ns,
        )
        self._manifest.add(line)

    def _note(self, problem: Trouble, path: str, detail: str) -> None:
        setattr(self.counts, problem.value, getattr(self.counts, problem.value) + 1)
        self._tell(ExportProblem(problem, path, detail))


def _state(line: Line) -> tuple[int, int]:
    """The size and the time of the file that an earlier run wrote."""
    return line.size, line.file_ns


class _Waiting(NamedTuple):
    """A folder to export: its place in the target, and its path and entry in the drive."""

    parent: OpenFolder
    name: str
    path: str
    file: File
