"""Check paths and write small files, without hiding errors of the system.

From Python 3.14 on, ``Path.exists`` and similar methods return ``False`` if a
folder may not be searched.  That must not lead to a new key or to the defaults,
so these functions raise ``OSError``.

Files created by root get the owner of their folder, so that a service with its
own account can use files that an operator has created as root.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def exists(path: Path) -> bool:
    """Whether *path* exists.  Raises ``OSError`` if that is unknown."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether *path* is a regular file, or a link to one.  Raises ``OSError`` if that is unknown."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Whether *path* is a folder, or a link to one.  Raises ``OSError`` if that is unknown."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def has_no_room(folder: Path) -> bool:
    """Whether the file system of *folder* has less than 64 KiB left; ``False`` if that is unknown.

    SQLite may call a full disk an I/O error: it shares memory beside a database, in a file that grows by 32 KiB.
    """
    try:
        return shutil.disk_usage(folder).free < 65_536
    except OSError:
        return False


def create_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create the file, durably and atomically.  Raises ``FileExistsError`` if it exists."""
    draft = _write_draft(path, data, mode)
    try:
        adopt(draft.name, path.parent)
        _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of the file, durably and atomically.  Owner, group and mode do not change.

    If *path* is a link, its target is replaced.
    """
    path = Path(os.path.realpath(path))
    before = path.stat()
    draft = _write_draft(path, data, stat.S_IMODE(before.st_mode), before)
    try:
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of the folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(draft: Path, path: Path) -> None:
    """Link the draft to *path*, unless *path* exists."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) or exists(path):
            raise
        draft.replace(path)  # no hard links on this file system, so two processes could both write the file


def _write_draft(path: Path, data: bytes, mode: int, owner: os.stat_result | None = None) -> Path:
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None and (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, owner.st_uid, owner.st_gid)
            if stat.S_IMODE(os.fstat(handle).st_mode) != mode:
                os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    return draft


def open_or_create(path: Path) -> int:
    """Open the file for reading and writing.  Creates it with mode 0600 if it does not exist."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        adopt(path.name, path.parent)
        return handle


def make_path(path: Path, mode: int = 0o700) -> None:
    """Create a folder and its parents, durably, unless they exist."""
    if is_folder(path):
        return
    if path == path.parent:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    make_path(path.parent, 0o777)
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not is_folder(path):
            raise
    else:
        adopt(path.name, path.parent)
    sync_folder(path.parent)


def adopt_file(fd: int, folder: int) -> None:
    """As root, change the owner of a new, open file to that of the open *folder* that it will be in."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(folder)
    if owner.st_uid != 0:
        with suppress(PermissionError):  # root in a container may not be allowed to change owners
            os.fchown(fd, owner.st_uid, owner.st_gid)


def adopt(name: str, folder: Path | int) -> None:
    """As root, change the owner of a new entry of *folder* to the owner of the folder."""
    if os.geteuid() != 0:
        return
    handle = folder if isinstance(folder, int) else os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(handle)
        if owner.st_uid != 0:
            with suppress(PermissionError):  # root in a container may not be allowed to change owners
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=handle, follow_symlinks=False)
    finally:
        if handle is not folder:
            os.close(handle)
