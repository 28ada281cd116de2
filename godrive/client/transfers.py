"""Copy files and folders between this machine and a server, several at a time.

A file that is downloaded is written beside its target and renamed when its
length and digest are right, so a target is never half a file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import IO, Protocol

import anyio
from anyio import to_thread

from godrive.backoff import Backoff
from godrive.client.remote import Entry, Remote
from godrive.errors import DigestMismatch, DriveError, Invalid, LengthMismatch, NameTaken, NotFound, StoreUnavailable
from godrive.paths import is_folder

_PIECE = 1 << 20
_MOST_LOST = 6
"""Interruptions without a byte in between after which a download is given up."""
_BACKOFF = Backoff(0.5, 15.0)

Job = Callable[[], Awaitable[None]]


class Progress(Protocol):
    """Is told what happens to each file."""

    def found(self, size: int) -> None:
        """*size* more bytes are to be copied."""

    def moved(self, size: int) -> None:
        """*size* bytes were copied.  Negative if they have to be copied again."""

    def done(self, name: str, size: int) -> None:
        """A file is complete."""

    def failed(self, name: str, reason: str) -> None:
        """A file or folder was not copied."""


async def upload(
    remote: Remote, sources: list[Path], target: str, progress: Progress, *, at_once: int, on_conflict: str
) -> None:
    """Copy files and folders to *target* on the server.

    They go into *target* if it is a folder, ends in a slash, or there are several
    of them.  Files with the same name are treated as *on_conflict* says; folders
    are merged.  Symbolic links are not followed.
    """
    goes_inside = target.endswith("/") or len(sources) > 1 or await _is_folder(remote, target)

    async def jobs() -> AsyncIterator[Job]:
        for source in sources:
            top = f"{target.rstrip('/')}/{source.resolve().name}" if goes_inside else target
            for local, path in _walk(source, top, progress):
                if local is None:
                    try:
                        await remote.make_folder(path, parents=True)
                    except DriveError as error:
                        progress.failed(path, error.detail)
                else:
                    yield partial(_send, remote, local, path, progress, on_conflict)

    await _run(jobs(), at_once)


async def download(remote: Remote, sources: list[str], target: Path, progress: Progress, *, at_once: int) -> None:
    """Copy files and folders of the server to *target* on this machine.

    They go into *target* if it is a folder or there are several of them.
    """
    goes_inside = len(sources) > 1 or await to_thread.run_sync(is_folder, target)

    async def jobs() -> AsyncIterator[Job]:
        for source in sources:
            try:
                entry = await remote.get(source)
            except DriveError as error:
                progress.failed(source, error.detail)
                continue
            name = local_name(entry.name) if entry.id != "root" else "drive"
            folders = [(entry, target / name if goes_inside else target)]
            while folders:
                found, local = folders.pop()
                if not found.is_folder:
                    yield partial(_fetch, remote, found, local, progress)
                    continue
                try:
                    await to_thread.run_sync(partial(local.mkdir, parents=True, exist_ok=True))
                except OSError as error:
                    progress.failed(str(local), _reason(error))
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
                        yield partial(_fetch, remote, child, below, progress)

    await _run(jobs(), at_once)


async def fetch_to(remote: Remote, entry: Entry, write: Callable[[bytes], object]) -> None:
    """Write the bytes of a file in order.  After an interruption, continue where it was.

    Raises ``StoreUnavailable``, ``LengthMismatch``, ``DigestMismatch``, ``OSError``."""
    digest, received, lost = hashlib.sha256(), 0, 0
    while received < entry.size_bytes:
        before = received
        try:
            async with remote.content(entry, received) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    received += len(piece)
                    await to_thread.run_sync(write, piece)
            break
        except StoreUnavailable:
            lost = 1 if received > before else lost + 1
            if lost > _MOST_LOST:
                raise
            await anyio.sleep(_BACKOFF.jittered(lost))
    if received != entry.size_bytes:
        raise LengthMismatch(f"{received} of {entry.size_bytes} bytes arrived.")
    if entry.sha256 is not None and digest.hexdigest() != entry.sha256:
        raise DigestMismatch("The bytes that arrived have another SHA-256 than the file.")


def local_name(name: str) -> str:
    """Return the name of an entry as a file name of this system.  Raises ``Invalid`` if it cannot be one."""
    if not name or name in (os.curdir, os.pardir) or any(char in name for char in (os.sep, os.altsep or "/", "\0")):
        raise Invalid("This system cannot have a file of that name.")
    return name


async def _run(jobs: AsyncIterator[Job], at_once: int) -> None:
    """Run the jobs, at most *at_once* concurrently, and keep no others in memory."""
    send, receive = anyio.create_memory_object_stream[Job](0)

    async def work() -> None:
        async with receive.clone() as mine:
            async for job in mine:
                await job()

    async with receive, anyio.create_task_group() as tasks, send:
        for _ in range(at_once):
            tasks.start_soon(work)
        async for job in jobs:
            await send.send(job)


async def _send(remote: Remote, local: Path, path: str, progress: Progress, on_conflict: str) -> None:
    body = _Body(local, progress)
    try:
        status = await to_thread.run_sync(local.stat)
        size = status.st_size
        progress.found(size)
        entry = await remote.put(
            path,
            body,
            size,
            modified_at=datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1_000_000, UTC),
            on_conflict=on_conflict,
        )
    except (OSError, DriveError) as error:
        progress.failed(str(local), _reason(error))
    else:
        progress.done(entry.name if entry.name != local.name else path.lstrip("/"), size)
    finally:
        body.close()


class _Body:
    """The bytes of a file, from the start as often as they are asked for.  Only the last time counts as progress."""

    def __init__(self, local: Path, progress: Progress) -> None:
        self._local = local
        self._progress = progress
        self._file: IO[bytes] | None = None
        self._reported = 0

    async def __call__(self) -> AsyncIterator[bytes]:
        self.close()
        self._progress.moved(-self._reported)
        self._reported = 0
        self._file = file = await to_thread.run_sync(lambda: self._local.open("rb"))
        while piece := await to_thread.run_sync(file.read, _PIECE):
            yield piece
            self._reported += len(piece)
            self._progress.moved(len(piece))

    def close(self) -> None:
        """Close the file: a request that ends early does not read its body to the end."""
        if self._file is not None:
            self._file.close()


async def _fetch(remote: Remote, entry: Entry, local: Path, progress: Progress) -> None:
    progress.found(entry.size_bytes)
    draft = local.with_name(f".{local.name[:200]}.{os.getpid()}.part")
    try:
        try:
            async with await anyio.open_file(draft, "wb") as file:

                def write(piece: bytes) -> None:
                    file.wrapped.write(piece)
                    progress.moved(len(piece))

                await fetch_to(remote, entry, write)
            if entry.modified_at is not None:
                at = int(entry.modified_at.timestamp() * 1_000_000) * 1000
                await to_thread.run_sync(partial(os.utime, draft, ns=(at, at)))
            await to_thread.run_sync(os.replace, draft, local)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(partial(draft.unlink, missing_ok=True))
    except (OSError, DriveError) as error:
        progress.failed(str(local), _reason(error))
    else:
        progress.done(str(local), entry.size_bytes)


def _walk(source: Path, top: str, progress: Progress) -> Iterator[tuple[Path | None, str]]:
    """Yield each file below *source* with its path on the server, and each folder as ``(None, path)`` before them.

    A symbolic link is followed only if it is *source* itself.
    """
    try:
        if not S_ISDIR(source.stat().st_mode):
            yield source, top
            return
        yield None, top
        found = sorted(source.iterdir())
    except OSError as error:
        progress.failed(str(source), _reason(error))
        return
    for path in found:
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            progress.failed(str(path), _reason(error))
            continue
        below = f"{top}/{path.name}"
        if any("\ud800" <= char <= "\udfff" for char in path.name):
            progress.failed(str(path), "Its name is not UTF-8.")
        elif S_ISLNK(mode):
            progress.failed(str(path), "It is a symbolic link.")
        elif S_ISDIR(mode):
            yield from _walk(path, below, progress)
        elif S_ISREG(mode):
            yield path, below
        else:
            progress.failed(str(path), "It is neither a file nor a folder.")


async def _is_folder(remote: Remote, path: str) -> bool:
    try:
        return (await remote.get(path)).is_folder
    except NotFound:
        return False


async def place(remote: Remote, path: str, name: str) -> tuple[str, str]:
    """Return where *path* puts an entry called *name*: the id of the folder, and the new name.

    As with ``mv``, an existing folder receives the entry under its own name.
    Raises ``NotFound`` (the folder), ``NameTaken`` (a file has the path).
    """
    try:
        found = await remote.get(path)
    except NotFound:
        above, _, last = path.rstrip("/").rpartition("/")
        return (await remote.get(above)).id, last
    if not found.is_folder:
        raise NameTaken(f"{path} is a file already.")
    return found.id, name


def _reason(error: OSError | DriveError) -> str:
    return error.detail if isinstance(error, DriveError) else (error.strerror or str(error))
