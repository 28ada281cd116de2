"""Bring a local folder into the drive of a user.

Theory of operation.  Folders are opened one name at a time, without following
links, and read while their files are still being stored.  A file is stored
before its row is written, as a small upload is, so a run that is killed leaves
blobs without rows, which the janitor sets aside, and no file that is not whole.
A later run finds what is there already by name, and compares size and time, or
digests.  Many files are stored at the same time, so the packs and the catalog
make them durable in groups.

A file that changes while it is read is read again, and reported if it keeps
changing.  Nothing is lost without being reported.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from godrive.blobs import SmallBlob, Taken, TakesFiles
from godrive.blobs.admission import check_admission
from godrive.blobs.sniffing import HEAD, sniff
from godrive.errors import (
    ConfigError,
    DeliveryError,
    DriveError,
    Invalid,
    NameTaken,
    NotFound,
    StoreUnavailable,
    TooDeep,
    TooLarge,
)
from godrive.exchange.crew import Crew
from godrive.exchange.local import OPEN_FOLDER, Found, OpenFolder, State, scan, state_of
from godrive.exchange.manifest import NAME, PARTIAL, Line, Manifest
from godrive.exchange.outcome import ImportCounts, ImportFault, ImportProblem
from godrive.exchange.source import Source, digest_of, exists, name_of, open_beginning, time_of
from godrive.messages.files import EnsureFolder, FindFile, UpdateFile
from godrive.messages.storage import DeleteBlob
from godrive.messages.uploads import CheckRoom, StoreFile
from godrive.model import (
    At,
    BlobInfo,
    File,
    FileKind,
    In,
    ObjectKey,
    OnConflict,
    Root,
    Spot,
    UploadId,
    VersionId,
    new_id,
)
from godrive.principal import HostUser
from godrive.rules.names import check_name

if TYPE_CHECKING:
    from godrive.drive import GoDrive

FILES_AT_ONCE = 48
FOLDERS_AT_ONCE = 8

ATTEMPTS = 3
"""How often a file that changes meanwhile is read."""

_PIECE = 1 << 20

_UNKNOWN = (DeliveryError, StoreUnavailable)
"""Errors after which the file may have been made."""


class Changed(Exception):
    """The file changed while it was read."""


class _Target(msgspec.Struct, frozen=True):
    """A folder of the drive.  *is_new*: it was created by this run, so nothing is in it."""

    where: Spot
    is_new: bool


class Importer:
    """Imports one folder for one user.

    *note* is called for each problem.  With *replace*, a file that differs gets
    a new version; otherwise it stays as it is.  With *link*, blobs are hard
    links where that is possible.  Folders for which *is_ours* holds, by device
    and inode, are left out.
    """

    def __init__(
        self,
        drive: GoDrive,
        by: HostUser,
        *,
        note: Callable[[ImportProblem], None],
        replace: bool = False,
        link: bool = False,
        is_ours: Callable[[int, int], bool] = lambda device, inode: False,
    ) -> None:
        self.counts = ImportCounts()
        self._drive = drive
        self._by = by
        self._tell = note
        self._replace = replace
        self._link = link
        self._is_ours = is_ours
        self._small = max(HEAD, drive.packing.pack_below if drive.packing is not None else 0)
        self._manifest: Manifest | None = None
        self._files = Crew(FILES_AT_ONCE)
        self._visits = Crew(FOLDERS_AT_ONCE)
        self._waiting: list[tuple[OpenFolder, str, _Target]] = []

    async def run(self, source: Path, into: tuple[str, ...] = (), manifest: Manifest | None = None) -> None:
        """Import the contents of *source* into the folder *into*, which is created.

        With *manifest*, the folder is an export: names, types and properties
        are those of the manifest.  What is imported stays if this raises; run
        it again to continue.  Raises ``ConfigError`` (the folder cannot be
        read), ``NotFound`` (the user), ``QuotaExceeded``, ``StorageFull``,
        ``StoreUnavailable``.
        """
        self._manifest = manifest
        target = _Target(Root(), is_new=False)
        if into:
            target = await self._ensure(_Target(At(path=into[:-1], parents=True), is_new=False), into[-1])
        try:
            top = OpenFolder(os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "")
        except OSError as error:
            raise ConfigError(f"{source} cannot be read: {error.strerror}.") from None
        try:
            await self._visit(top, target)
            while self._waiting or not self._visits.is_idle:
                if self._waiting:
                    parent, name, above = self._waiting.pop()
                    try:
                        await self._visits.start(self._enter(parent, name, above))
                    except BaseException:
                        parent.release()
                        raise
                else:
                    await self._visits.wait()
            await self._files.finish()
        except DriveError:
            await self._visits.cancel()
            await self._files.settle()  # what is in hand becomes whole files
            raise
        finally:
            await self._visits.cancel()
            await self._files.cancel()
            for parent, _, _ in self._waiting:
                parent.release()

    async def _enter(self, parent: OpenFolder, name: str, above: _Target) -> None:
        """Import the folder *name* of *parent*."""
        path = parent.below(name)
        try:
            folder = OpenFolder(await asyncio.to_thread(os.open, name, OPEN_FOLDER, dir_fd=parent.fd), path)
        except OSError as error:
            self._note(ImportFault.UNREADABLE, path, f"{error.strerror}.")
            return
        finally:
            parent.release()
        status = os.fstat(folder.fd)
        if self._is_ours(status.st_dev, status.st_ino):
            self._note(ImportFault.SKIPPED, path, "It is the folder of a drive.")
            folder.release()
            return
        line = self._line_of(path)
        try:
            target = await self._ensure(above, name_of(name, line))
            await self._describe_folder(target, state_of(folder.fd), line)
        except (Invalid, TooDeep, NameTaken) as error:
            folder.release()
            problem = ImportFault.DIFFERS if isinstance(error, NameTaken) else ImportFault.REFUSED
            self._note(problem, path, f"{error.detail} What is in it was left out.")
        except BaseException:
            folder.release()
            raise
        else:
            await self._visit(folder, target)

    async def _ensure(self, above: _Target, name: str) -> _Target:
        ensured = await self._drive.metadata.ask(EnsureFolder(self._by, above.where, name))
        self.counts.folders += ensured.created
        return _Target(In(folder_id=ensured.folder.id), ensured.created)

    async def _describe_folder(self, target: _Target, state: State, line: Line | None) -> None:
        """Give a new folder the time and the properties that it has here."""
        if target.is_new and isinstance(target.where, In):
            changed = UpdateFile(
                self._by,
                target.where.folder_id,
                modified_at=time_of(state, line),
                favorite=line.favorite if line else None,
                properties=dict(line.properties) if line else None,
            )
            await self._drive.metadata.ask(changed)

    async def _visit(self, folder: OpenFolder, target: _Target) -> None:
        """Import the files of a folder, and have its folders visited.  Releases it."""
        batches = scan(folder)
        try:
            while batch := await asyncio.to_thread(next, batches, None):
                for found in batch:
                    await self._dispatch(folder, target, found)
        except OSError as error:
            self._note(ImportFault.UNREADABLE, folder.path, f"{error.strerror}.")
        finally:
            folder.release()

    async def _dispatch(self, folder: OpenFolder, target: _Target, found: Found) -> None:
        path = folder.below(found.name)
        if self._manifest is not None and path in (NAME, PARTIAL):
            return
        if found.special:
            self._note(ImportFault.SKIPPED, path, f"It is {found.special}.")
        elif found.is_folder:
            self._waiting.append((folder.hold(), found.name, target))
        else:
            folder.hold()
            try:
                await self._files.start(self._import(folder, target, found.name))
            except BaseException:
                folder.release()
                raise

    async def _import(self, folder: OpenFolder, target: _Target, name: str) -> None:
        """Import one file, and note what prevents it.  Releases the folder."""
        path = folder.below(name)
        line = self._line_of(path)
        try:
            check_name(name_of(name, line))
            for attempt in range(ATTEMPTS):
                try:
                    await self._import_once(folder, target, name, line)
                    return
                except Changed:
                    if attempt == ATTEMPTS - 1:
                        self._note(ImportFault.CHANGED, path, "It changed each time it was read.")
        except (Invalid, TooDeep, TooLarge) as error:
            self._note(ImportFault.REFUSED, path, error.detail)
        except NameTaken:
            self._note(ImportFault.DIFFERS, path, "The drive has another entry of that name.")
        except OSError as error:
            self._note(ImportFault.UNREADABLE, path, f"{error.strerror}.")
        finally:
            folder.release()

    async def _import_once(self, folder: OpenFolder, target: _Target, name: str, line: Line | None) -> None:
        fd, head = await asyncio.to_thread(open_beginning, folder, name, self._small + 1)
        try:
            source = Source(folder, name, fd, head, state_of(fd), line)
            there = None if target.is_new else await self._find(target, source.wanted)
            if there is None:
                try:
                    await self._store(source, target)
                    return
                except NameTaken:  # by a name that is the same in another normal form, or by another process
                    there = await self._find(target, source.wanted)
            if there is None:
                raise Changed  # it has gone again
            await self._compare(source, target, there)
        finally:
            os.close(fd)

    async def _find(self, target: _Target, name: str) -> File | None:
        try:
            return await self._drive.metadata.ask(FindFile(self._by, target.where, name))
        except NotFound as error:
            if error.field is not None:
                raise  # the folder has gone
            return None

    async def _compare(self, source: Source, target: _Target, there: File) -> None:
        """Decide about a file that the drive has something for, by name."""
        if there.kind is FileKind.FOLDER:
            self._note(ImportFault.DIFFERS, source.path, "The drive has a folder of that name.")
            return
        if there.name != source.wanted and await asyncio.to_thread(exists, source.folder, there.name):
            self._note(
                ImportFault.REFUSED, source.path, "Another file of its folder has the same name in Unicode's NFC."
            )
            return
        if there.size_bytes == source.state.size:
            is_same = there.modified_at == source.modified_at
            if is_same or there.sha256 == await asyncio.to_thread(digest_of, source.fd):
                if state_of(source.fd) != source.state:
                    raise Changed
                self.counts.present += 1
                await self._describe(there, source.line)
                return
        if not self._replace:
            self._note(ImportFault.DIFFERS, source.path, "The drive has another content under that name.")
            return
        await self._store(source, target, there)

    async def _store(self, source: Source, target: _Target, replaces: File | None = None) -> None:
        """Store the file.  Raises :class:`Changed` if it changes meanwhile, and what ``StoreFile`` raises."""
        drive, by, size = self._drive, self._by, source.state.size
        is_version, on_conflict = False, OnConflict.FAIL
        if replaces is not None:
            is_version, on_conflict = True, OnConflict.REPLACE
        await check_admission(drive.blobs, drive.config.blobs, size)
        if not drive.known_room.take(by.user_id, size, replaces=is_version):
            room = await drive.metadata.ask(CheckRoom(by, size, on_conflict))
            drive.known_room.keep(by.user_id, room.size_bytes - size, room.rows - 1, replaces=is_version)
        name = source.wanted if replaces is None else replaces.name
        blob_id, version_id = new_id(), new_id()
        key, mime = ObjectKey(f"{blob_id[:8]}/{blob_id}"), "" if source.line is None else source.line.mime
        blob, taken = await self._put(key, source, None if mime else sniff(source.head[:HEAD], name))
        try:
            if not source.is_same(linked=taken is Taken.LINKED) or blob.size_bytes != size:
                raise Changed
            stored = StoreFile(
                by,
                target.where,
                name,
                mime,
                blob,
                UploadId(version_id),
                on_conflict=on_conflict,
                modified_at=source.modified_at,
                if_match=None if replaces is None else replaces.etag,
            )
            file = await drive.metadata.ask(stored)
        except (DriveError, Changed) as error:
            drive.known_room.forget(by.user_id)
            if not isinstance(error, _UNKNOWN):
                await drive.storage.ask(DeleteBlob(key))
            raise
        if file.version_id != VersionId(version_id):
            await drive.storage.ask(DeleteBlob(key))  # the file had the same bytes already
        self.counts.files += 1
        self.counts.bytes += size
        self.counts.shared += taken is Taken.SHARED
        self.counts.linked += taken is Taken.LINKED
        await self._describe(file, source.line)

    async def _put(self, key: ObjectKey, source: Source, mime: str | None) -> tuple[BlobInfo, Taken]:
        blobs, packing, size = self._drive.blobs, self._drive.packing, source.state.size
        if packing is not None and len(source.head) == size <= packing.pack_below:
            (stored,) = await packing.put_each([SmallBlob(key, source.head, mime)])
            if isinstance(stored, DriveError):
                raise stored
            return stored, Taken.COPIED
        if isinstance(blobs, TakesFiles):
            return await blobs.take(key, source.fd, mime=mime, link=self._link)
        return await blobs.put(key, _pieces(source.fd, size), size=size, mime=mime), Taken.COPIED

    async def _describe(self, file: File, line: Line | None) -> None:
        """Give the file what the manifest says of it besides its bytes."""
        if line is not None and (line.properties, line.favorite) != (file.properties, file.favorite):
            changed = UpdateFile(self._by, file.id, favorite=line.favorite, properties=dict(line.properties))
            await self._drive.metadata.ask(changed)

    def _line_of(self, path: str) -> Line | None:
        if self._manifest is None:
            return None
        try:
            return self._manifest.find(path)
        except UnicodeEncodeError:
            return None

    def _note(self, problem: ImportFault, path: str, detail: str) -> None:
        setattr(self.counts, problem.value, getattr(self.counts, problem.value) + 1)
        self._tell(ImportProblem(problem, path.encode(errors="backslashreplace").decode(), detail))


async def _pieces(fd: int, size: int) -> AsyncIterator[bytes]:
    offset = 0
    while offset < size and (
        piece := await asyncio.to_thread(partial(os.pread, fd, min(_PIECE, size - offset), offset))
    ):
        offset += len(piece)
        yield piece
