"""Copy files and folders of this machine to a server.

A small file is one request.  A larger one is an upload in several requests,
which survives whatever ends one of them: the line, the server, this process.
Only the server knows how many bytes it has, so after each failure it is asked.
The digest of the whole file is declared at the start.  Therefore bytes of two
states of a file never become one on the server.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from os import stat_result
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import IO

from anyio import to_thread

from godrive.client.connection import NOT_NOW, BodyRefused, NotGoDrive
from godrive.client.digests import digest_of
from godrive.client.remote import Entry, PartialUpload, Remote
from godrive.client.transfers import TWICE, Job, Moved, Progress, is_dated, is_folder, modified_at, reason, run
from godrive.client.unfinished import CopyNote, Unfinished
from godrive.errors import DigestMismatch, DriveError, Gone, Invalid, NotFound, OffsetMismatch, UploadTakenOver

_PIECE = 1 << 20
SMALL = 8 << 20
"""Bytes up to which a file is one request."""
_LARGEST, _SMALLEST = 64 << 20, 512 << 10
"""Bytes of a request of a larger file: below 100 MB and below 1 MB, which are common limits of proxies."""

_NEITHER = "It is neither a file nor a folder."
_TRIES = 4
"""How often a file is sent in one request that gets no answer, which is how some proxies refuse a large one."""
_BEGINNINGS = 3
"""How often an upload that the server has lost is started again."""


async def upload(
    remote: Remote, sources: list[Path], target: str, progress: Progress, *, at_once: int, on_conflict: str
) -> None:
    """Copy files and folders to *target* on the server.

    They go into *target* if it is a folder, ends in a slash, or there are several
    of them.  Files that are there already are skipped, others with the same name
    are treated as *on_conflict* says, folders are merged.  Symbolic links are not
    followed.
    """
    goes_inside = target.endswith("/") or len(sources) > 1 or await is_folder(remote, target)
    unfinished = Unfinished("uploads")
    await to_thread.run_sync(unfinished.sweep)

    async def jobs() -> AsyncIterator[Job]:
        names: set[str] = set()
        for source in sources:
            name = source.resolve().name
            if not _add(names, name):
                progress.failed(str(source), TWICE)
                continue
            top = f"{target.rstrip('/')}/{name}" if goes_inside else target
            there: dict[str, Entry] | None = None
            for local, path in _walk(source, top, progress):
                if local is not None:
                    yield _Sending(
                        remote=remote,
                        local=local,
                        path=path,
                        there=there,
                        progress=progress,
                        on_conflict=on_conflict,
                        unfinished=unfinished,
                    ).run
                    continue
                there = {}
                try:
                    folder = await remote.make_folder(path, parents=True)
                    there = {_key(entry.name): entry async for entry in remote.children(folder.id)}
                except DriveError as error:
                    progress.failed(path, error.detail)

    await run(jobs(), at_once)


@dataclass(kw_only=True)
class _Sending:
    """One file on its way to *path*.  *there* has the entries of its folder, if they are known."""

    remote: Remote
    local: Path
    path: str
    there: dict[str, Entry] | None
    progress: Progress
    on_conflict: str
    unfinished: Unfinished
    moved: Moved = field(init=False)

    def __post_init__(self) -> None:
        self.moved = Moved(self.progress)

    async def run(self) -> None:
        """Send the file, unless it is there."""
        try:
            status = await to_thread.run_sync(self.local.stat)
            self.progress.found(status.st_size)
            found = await self._find()
            if found is not None and await self._is_same(found, status):
                self.moved.to(status.st_size)
                self.progress.skipped(self._name(found), status.st_size)
                return
            entry = await self._send(status)
        except (OSError, DriveError) as error:
            self.progress.failed(str(self.local), reason(error))
        else:
            self.progress.done(self._name(entry), status.st_size)

    def _name(self, entry: Entry) -> str:
        return entry.name if entry.name != self.local.name else self.path.lstrip("/")

    async def _find(self) -> Entry | None:
        if self.there is not None:
            return self.there.get(_key(self.local.name))
        try:
            return await self.remote.get(self.path)
        except NotFound:
            return None

    async def _is_same(self, found: Entry, status: stat_result) -> bool:
        """Whether the server has these bytes: size and time are equal, or size and digest; then set the time."""
        if found.is_folder or found.size_bytes != status.st_size:
            return False
        if is_dated(found, status):
            return True
        if found.sha256 is None or await digest_of(self.local) != found.sha256:
            return False
        await self.remote.date(found, modified_at(status))
        return True

    async def _send_whole(self, status: stat_result) -> Entry | None:
        """Send the file in one request.  Return ``None`` if it has to be smaller ones: a proxy may have a limit."""
        can_be_smaller = status.st_size > _SMALLEST
        body = _Slice(self.local, 0, status.st_size, self.moved)
        try:
            return await self.remote.put(
                self.path,
                body,
                status.st_size,
                modified_at=modified_at(status),
                on_conflict=self.on_conflict,
                tries=_TRIES if can_be_smaller else 0,
            )
        except BodyRefused:
            if not can_be_smaller:
                raise
        except NOT_NOW:
            if not can_be_smaller:
                raise
            self.there = None
            found = await self._find()  # only the answers may have been lost
            if found is not None and await self._is_same(found, status):
                return found
        finally:
            body.close()
        self.moved.to(0)
        return None

    async def _send(self, status: stat_result) -> Entry:
        if status.st_size <= SMALL and (entry := await self._send_whole(status)) is not None:
            return entry
        note = await to_thread.run_sync(
            partial(
                self.unfinished.open,
                server=self.remote.url,
                account=self.remote.email,
                source=os.fsencode(self.local.resolve()),
                size=status.st_size,
                modified=status.st_mtime_ns,
                target=self.path,
                on_conflict=self.on_conflict,
            )
        )
        with closing(note):
            return await _Parts(self, status, note).send()


class _Parts:
    """A file that is sent in several requests."""

    def __init__(self, sending: _Sending, status: stat_result, note: CopyNote) -> None:
        self._sending = sending
        self._remote = sending.remote
        self._moved = sending.moved
        self._status = status
        self._note = note
        self._most = _LARGEST

    async def send(self) -> Entry:
        """Send what the server does not have, until it has the file or there was no progress for too long."""
        patience, begun, reached = self._remote.patience(), 0, 0
        upload_id = self._note.read()
        state: PartialUpload | None = None  # not known: the server is asked
        while True:
            try:
                if upload_id is None:
                    begun += 1
                    state = await self._begin()
                    upload_id = state.id
                elif state is None:
                    state = await self._remote.upload_state(upload_id)
                self._moved.to(state.received_bytes)
                if state.received_bytes > reached:
                    reached = state.received_bytes
                    patience.progressed()
                if state.file_id is not None:
                    self._note.clear()
                    return await self._remote.get_by_id(state.file_id)
                state = await self._append(state)
            except (NotFound, Gone):
                if upload_id is None or begun == _BEGINNINGS:
                    raise
                upload_id, state, reached = None, None, 0
                self._moved.to(0)
            except BodyRefused:
                if self._most == _SMALLEST:
                    raise
                state = None
                self._most = max(self._most // 8, _SMALLEST)
            except (*NOT_NOW, OffsetMismatch, UploadTakenOver) as error:
                state = None
                if patience.failures:  # a proxy that refuses a large request may cut the line instead of saying so
                    self._most = max(self._most // 4, _SMALLEST)
                await patience.wait(error)
            except DigestMismatch:
                self._note.clear()
                raise Invalid("The file changed while it was sent.") from None

    async def _begin(self) -> PartialUpload:
        folder = self._sending.path.rstrip("/").rpartition("/")[0]
        if folder.strip("/"):
            await self._remote.make_folder(folder, parents=True)
        state = await self._remote.begin_upload(
            self._sending.path,
            self._status.st_size,
            sha256=await digest_of(self._sending.local),
            modified_at=modified_at(self._status),
            on_conflict=self._sending.on_conflict,
        )
        await to_thread.run_sync(self._note.write, state.id)
        return state

    async def _append(self, state: PartialUpload) -> PartialUpload:
        start = state.received_bytes
        if not 0 <= start <= self._status.st_size:
            raise NotGoDrive
        size = min(self._most, self._status.st_size - start)
        body = _Slice(self._sending.local, start, size, self._moved)
        try:
            return await self._remote.append(state.id, start, body, size)
        except NOT_NOW:
            body.check()
            raise
        finally:
            body.close()


class _Slice:
    """*size* bytes of a file from *start* on, from the start as often as they are asked for."""

    def __init__(self, local: Path, start: int, size: int, moved: Moved) -> None:
        self._local = local
        self._start = start
        self._size = size
        self._moved = moved
        self._file: IO[bytes] | None = None
        self._failed: Exception | None = None

    def __call__(self) -> AsyncIterator[bytes]:
        self.check()
        return self._read()

    def check(self) -> None:
        """Raise the error that ended the last attempt; aiohttp reports it as a lost connection."""
        if self._failed is not None:
            raise self._failed

    async def _read(self) -> AsyncIterator[bytes]:
        self.close()
        at, end = self._start, self._start + self._size
        self._moved.to(at)
        try:
            self._file = file = await to_thread.run_sync(self._local.open, "rb")
            await to_thread.run_sync(file.seek, at)
            while at < end:
                piece = await to_thread.run_sync(file.read, min(_PIECE, end - at))
                if not piece:
                    raise Invalid("The file became shorter while it was sent.")
                yield piece
                at += len(piece)
                self._moved.to(at)
        except (OSError, Invalid) as error:
            self._failed = error
            raise

    def close(self) -> None:
        """Close the file: a request that ends early does not read its body to the end."""
        if self._file is not None:
            self._file.close()


def _walk(source: Path, top: str, progress: Progress) -> Iterator[tuple[Path | None, str]]:
    """Yield each folder below *source* as ``(None, path)`` and then its files, each with its path on the server.

    A symbolic link is followed only if it is *source* itself.
    """
    try:
        mode = source.stat().st_mode
    except OSError as error:
        progress.failed(str(source), reason(error))
        return
    if not S_ISDIR(mode):
        if S_ISREG(mode):
            yield source, top
        else:  # a device has no length, and a pipe may have no writer
            progress.failed(str(source), _NEITHER)
        return
    waiting = [(source, top)]
    while waiting:
        folder, above = waiting.pop()
        folders: list[tuple[Path, str]] = []
        yield None, above
        yield from _files(folder, above, folders, progress)
        waiting += reversed(folders)


def _files(folder: Path, above: str, folders: list[tuple[Path, str]], progress: Progress) -> Iterator[tuple[Path, str]]:
    """Yield the files of a folder, and add its folders to *folders*."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        progress.failed(str(folder), reason(error))
        return
    names: set[str] = set()
    for path in found:
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            progress.failed(str(path), reason(error))
            continue
        if any("\ud800" <= char <= "\udfff" for char in path.name):
            progress.failed(str(path), "Its name is not UTF-8.")
        elif S_ISLNK(mode):
            progress.failed(str(path), "It is a symbolic link.")
        elif not (S_ISDIR(mode) or S_ISREG(mode)):
            progress.failed(str(path), _NEITHER)
        elif not _add(names, path.name):  # on the server one would replace the other
            progress.failed(str(path), "Another entry of its folder has the same name in Unicode's NFC.")
        elif S_ISDIR(mode):
            folders.append((path, f"{above}/{path.name}"))
        else:
            yield path, f"{above}/{path.name}"


def _add(names: set[str], name: str) -> bool:
    """Add a name, and return whether it is new."""
    key = _key(name)
    is_new = key not in names
    names.add(key)
    return is_new


def _key(name: str) -> str:
    """Return what names are compared by."""
    return unicodedata.normalize("NFC", name)
