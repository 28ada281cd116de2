"""Servers that all processes of a test run share.

With ``pytest -n`` the tests run in several processes.  The first one that needs
a server starts it; the others find it by its folder.  It ends with the run, not
with the process that started it: see :mod:`tests.guard`.  The temporary folders
of drives are in the folder of the run, so that one that was killed leaves none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import TypeVar

from godrive.testing import folders
from tests.guard import Guard, guard
from tests.servers import Server

S = TypeVar("S", bound=Server)

_FOLDER = "TESTS_RUN_FOLDER"
"""The environment variable that tells the processes of a run which guard is the run's."""


def lead() -> None:
    """Make this process the one with which the run ends."""
    os.environ[_FOLDER] = str(guard().folder)
    folders.place = os.environ[_FOLDER]


def follow() -> None:
    """Make this process part of the run of the process that started it, and have it end with the run."""
    Guard(Path(os.environ[_FOLDER])).note()
    folders.place = os.environ[_FOLDER]


def running(kind: type[S]) -> S:
    """The run's server of that kind, running."""
    run = Path(os.environ[_FOLDER])
    folder = run / kind.__name__.lower()
    started = folder.with_suffix(".port")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not started.exists():
            server = kind(folder)
            server.guard = Guard(run)
            try:
                server.start()
            except BaseException:
                server.close()
                shutil.rmtree(folder, ignore_errors=True)
                raise
            server.release()
            started.write_text(str(server.port))
    return kind(folder, int(started.read_text()))
