"""Folders for what is needed until a command ends, such as the catalog of a snapshot, with its password hashes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from godrive.errors import DriveError, refused
from godrive.opening import FolderLock

_YOUNG = 60.0
"""Seconds within which a process has locked its folder."""


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder in *parent*, and remove those that killed processes have left there.

    A process locks its folder as long as it lives.  Raises ``StorageFull``, ``StoreUnavailable``, ``ConfigError``.
    """
    for left in parent.glob(f"{prefix}*"):
        with suppress(DriveError, OSError):
            if _is_left(left):
                with _locked(left):
                    rmtree(left, ignore_errors=True)
    try:
        folder = TemporaryDirectory(dir=parent, prefix=prefix)
    except OSError as error:
        raise refused(f"No folder can be made in {parent}", error) from error
    with folder as name, _locked(Path(name)) as path:
        yield path


def _is_left(folder: Path) -> bool:
    """Whether no stranger made it, who may make one among temporary files, and no process is about to lock it."""
    status, ours = folder.lstat(), {os.geteuid(), folder.parent.stat().st_uid}
    return stat.S_ISDIR(status.st_mode) and status.st_uid in ours and status.st_mtime < time.time() - _YOUNG


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    lock = FolderLock(folder / "lock")
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
