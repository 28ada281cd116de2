"""Look at paths and write small files, with an error wherever the system gives one.

``Path.exists`` and its kin answer ``False`` from Python 3.14 on when a folder
may not be searched.  A decision that hangs on the answer (make a key, take the
defaults) must not be made then, so these functions raise ``OSError``.

What root makes gets the owner of its folder.  So a service with an account of
its own can use what an operator has prepared for it as root.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


def exists(path: Path) -> bool:
    """Whether there is anything at *path*.  Raises ``OSError`` when the system does not tell."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether *path* is a regular file, or a link to one.  Raises ``OSError`` when the system does not tell."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """Whether *path* is a folder, or a link to one.  Raises ``OSError`` when the system does not tell."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def create_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make the file, durably: whole or not at all.  Raises ``FileExistsError`` when it exists."""
    draft = _write_draft(path, data, mode)
    try:
        adopt(draft.name, path.parent)
        _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of the file, durably: whole or not at all.  Its owner, group and mode stay.

    A link stays a link: the file that it names is replaced.
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
    """Give the draft its name, unless the name is taken."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK) or exists(path):
            raise
        draft.replace(path)  # a file system without links, where two processes at once may each write one


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
    """A handle of the file for reading and writing; made with mode 0600 when absent."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        adopt(path.name, path.parent)
        return handle


def make_path(path: Path, mode: int = 0o700) -> None:
    """Make a folder and those above it, durably, unless they exist."""
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


def adopt(name: str, folder: Path | int) -> None:
    """As root, give what was just made in *folder* to the owner of the folder."""
    if os.geteuid() != 0:
        return
    handle = folder if isinstance(folder, int) else os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(handle)
        if owner.st_uid != 0:
            with suppress(PermissionError):  # root of a container that may not change owners
                os.chown(name, owner.st_uid, owner.st_gid, dir_fd=handle, follow_symlinks=False)
    finally:
        if handle is not folder:
            os.close(handle)
