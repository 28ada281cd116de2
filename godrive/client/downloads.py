"""Copy files and folders of a server to this machine.

A file is written beside its target and renamed when its length and digest are
right, so a target is never half a file.  What has arrived of a large file stays
if the command ends, and the next one continues there: it asks for the rest of
the same version, whose bytes never change.  If the file has another version by
then, the download starts again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, TYPE_CHECKING

import anyio
from anyio import to_thread

from godrive.client.connection import NOT_NOW
from godrive.client.digests import digest_of, read_digest
from godrive.client.remote import Entry, Remote
from godrive.client.transfers import TWICE, Job, Moved, Progress, is_dated, reason, run
from godrive.client.unfinished import CopyNote, Unfinished
from godrive.errors import DigestMismatch, DriveError, Gone, Invalid, LengthMismatch, NotFound
from godrive.paths import is_folder

if TYPE_CHECKING:
    from hashlib import _Hash

LARGE = 8 << 20
"""Bytes from which a file goes on after the command was killed."""
_LONGEST = 200
"""The most bytes of a name that the name of its draft contains."""
_BEGINNINGS = 3
"""How often a download begins, if the file changes meanwhile or what was kept of it is damaged."""


async def download(remote: Remote, sources: list[str], target: str, progress: Progress, *, at_once: int) -> None:
    """Copy files and folders of the server to *target* on this machine.

    They go into *target* if it is a folder, ends in a slash, or there are several
    of them.  Files that are there already are skipped.
    """
    top = Path(target)
    goes_inside = target.endswith("/") or len(sources) > 1 or await to_thread.run_sync(is_folder, top)
    if target.endswith("/") and not await _make_folder(top, progress):
        return
    unfinished = Unfinished("downloads")
    await to_thread.run_sync(unfinished.sweep)

    async def jobs() -> AsyncIterator[Job]:
        names: set[str] = set()
        for source in sources:
            try:
                entry = await remote.get(source)
                name = local_name(entry.name) if entry.id != "root" else "drive"
            except DriveError as error:
                progress.failed(source, error.detail)
                continue
            if name in names:
                progress.failed(source, TWICE)
                continue
            names.add(name)
            folders = [(entry, top / name if goes_inside else top)]
            while folders:
                found, local = folders.pop()
                if not found.is_folder:
                    yield _Fetching(remote, found, local, progress, unfinished).run
                    continue
                if not await _make_folder(local, progress):
                    continue
                async for child in remote.children(found.id):
                    try:
                        below = local / local_name(child.name)
                    except Invalid as error:
                        progress.failed(f"{local}/{child.name}", error.detail)
                        continue
                    if child.is_folder:
                        folders.append((child, below))
                    else:
                        yield _Fetching(remote, child, below, progress, unfinished).run

    await run(jobs(), at_once)


async def _make_folder(path: Path, progress: Progress) -> bool:
    """Make a folder and those above it, if they are missing.  Reports a failure, and returns whether it is there."""
    try:
        await to_thread.run_sync(partial(path.mkdir, parents=True, exist_ok=True))
    except OSError as error:
        progress.failed(str(path), reason(error))
        return False
    return True


async def fetch_to(
    remote: Remote, entry: Entry, write: Callable[[bytes], object], *, digest: _Hash | None = None, start: int = 0
) -> None:
    """Write the bytes of a file from *start* on in order.  After an interruption, continue where it was.

    *digest* is that of the bytes before *start*.  Raises ``StoreUnavailable``,
    ``NotFound`` (the version is gone), ``LengthMismatch``, ``DigestMismatch``, ``OSError``.
    """
    digest, received, patience = digest or hashlib.sha256(), start, remote.patience()
    if received > entry.size_bytes:
        raise LengthMismatch(f"{received} of {entry.size_bytes} bytes are there.")
    while received < entry.size_bytes:
        try:
            async with remote.content(entry, received) as pieces:
                async for piece in pieces:
                    received += len(piece)
                    if received > entry.size_bytes:
                        raise LengthMismatch(f"More than its {entry.size_bytes} bytes arrived.")
                    digest.update(piece)
                    patience.progressed()
                    await to_thread.run_sync(write, piece)
            break
        except NOT_NOW as error:
            await patience.wait(error)
    if received != entry.size_bytes:
        raise LengthMismatch(f"{received} of {entry.size_bytes} bytes arrived.")
    if entry.sha256 is not None and digest.hexdigest() != entry.sha256:
        raise DigestMismatch("The bytes that arrived have another SHA-256 than the file.")


def local_name(name: str) -> str:
    """Return the name of an entry as a file name of this system.  Raises ``Invalid`` if it cannot be one.

    No server has a name with a backslash: such names are for drafts.
    """
    if not name or name in (os.curdir, os.pardir) or any(char in name for char in (os.sep, "/", "\\", "\0")):
        raise Invalid("This system cannot have a file of that name.")
    return name


class _Fetching:
    """One file on its way to *local*."""

    def __init__(self, remote: Remote, entry: Entry, local: Path, progress: Progress, unfinished: Unfinished) -> None:
        self._remote = remote
        self._entry = entry
        self._local = local
        self._progress = progress
        self._moved = Moved(progress)
        self._unfinished = unfinished

    async def run(self) -> None:
        """Fetch the file, unless it is there."""
        size = self._entry.size_bytes
        self._progress.found(size)
        try:
            if await self._is_same():
                self._moved.to(size)
                self._progress.skipped(str(self._local), size)
                return
            await self._fetch()
        except (OSError, DriveError) as error:
            self._progress.failed(str(self._local), reason(error))
        else:
            self._progress.done(str(self._local), self._entry.size_bytes)

    async def _is_same(self) -> bool:
        """Whether these bytes are there: size and time are equal, or size and digest; then set the time.

        Raises ``Invalid`` if a device or a pipe is there, which a file must not replace.
        """
        try:
            status = await to_thread.run_sync(self._local.stat)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not S_ISREG(status.st_mode) and not S_ISDIR(status.st_mode):
            raise Invalid("A device or a pipe is there. Write to it with the target -, and the redirection of a shell.")
        if status.st_size != self._entry.size_bytes or not S_ISREG(status.st_mode):
            return False
        if is_dated(self._entry, status):
            return True
        if self._entry.sha256 is None or await digest_of(self._local) != self._entry.sha256:
            return False
        await to_thread.run_sync(_date, self._local, self._entry)
        return True

    async def _fetch(self) -> None:
        for _ in range(_BEGINNINGS - 1):
            try:
                await self._fetch_once()
                return
            except (NotFound, Gone, _DamagedDraft):
                found = await self._remote.get_by_id(self._entry.id)
                self._moved.to(0)
                self._progress.found(found.size_bytes - self._entry.size_bytes)
                self._entry = found
        await self._fetch_once()

    async def _fetch_once(self) -> None:
        if self._entry.size_bytes < LARGE:
            draft = self._draft(str(os.getpid()))
            try:
                with await to_thread.run_sync(partial(_open, draft, keep=False)) as file:
                    await self._fill(file, hashlib.sha256(), 0)
                await to_thread.run_sync(self._put_in_place, draft)
            finally:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(partial(draft.unlink, missing_ok=True))
            return
        note = await to_thread.run_sync(
            partial(self._unfinished.open, server=self._remote.url, target=os.fsencode(self._local.absolute()))
        )
        with closing(note):
            await self._go_on(note)

    async def _go_on(self, note: CopyNote) -> None:
        draft, version = self._draft("godrive"), str(self._entry.version_id)
        is_kept = note.read() == version
        file = await to_thread.run_sync(partial(_open, draft, keep=is_kept))
        try:
            with file:
                if not is_kept:
                    await to_thread.run_sync(note.write, version)
                digest = await read_digest(file)
                start = file.tell()
                await self._fill(file, digest, start)
        except (NotFound, Gone, DigestMismatch, LengthMismatch) as error:
            note.clear()
            await to_thread.run_sync(draft.unlink)
            if is_kept and isinstance(error, DigestMismatch | LengthMismatch):
                raise _DamagedDraft from None
            raise
        await to_thread.run_sync(self._put_in_place, draft)
        note.clear()

    async def _fill(self, file: IO[bytes], digest: _Hash, start: int) -> None:
        at = start
        self._moved.to(at)

        def write(piece: bytes) -> None:
            nonlocal at
            file.write(piece)
            at += len(piece)
            self._moved.to(at)

        await fetch_to(self._remote, self._entry, write, digest=digest, start=start)

    def _put_in_place(self, draft: Path) -> None:
        _date(draft, self._entry)
        draft.replace(self._local)

    def _draft(self, mark: str) -> Path:
        """Return the path beside the target.  Names have at most 255 bytes.

        No other target has it, because no entry has a name with a backslash:
        otherwise a draft that was copied to a server would replace the draft
        of its file on the way back, and would be renamed in its place.
        """
        name = os.fsencode(self._local.name)
        if len(name) > _LONGEST:
            name = (
                name[:_LONGEST].decode(errors="ignore").encode() + b"~" + hashlib.sha256(name).hexdigest()[:12].encode()
            )
        return self._local.with_name(f".{os.fsdecode(name)}.{mark}\\part")


class _DamagedDraft(Exception):
    """What was kept of an earlier download is not what the file begins with."""


def _open(draft: Path, *, keep: bool) -> IO[bytes]:
    """Open the file for reading and writing, at its start, and empty unless *keep*."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if keep else os.O_TRUNC)
    return os.fdopen(os.open(draft, flags, 0o666), "r+b")


def _date(path: Path, entry: Entry) -> None:
    """Give a file the time of modification of the entry."""
    if entry.modified_at is not None:
        seconds = int(entry.modified_at.replace(microsecond=0).timestamp())
        at = seconds * 1_000_000_000 + entry.modified_at.microsecond * 1000
        os.utime(path, ns=(at, at))
