"""Processes and folders that end with the process that made them, however it ends.

A guard is a folder and a small process beside us, the watcher.  Each process
that is started through :meth:`Guard.command` notes itself in the folder before
it becomes its program.  The watcher reads its standard input, which the kernel
closes when we are gone, also after ``kill -9``; then it ends every process that
is noted, with the session that it leads, and removes the folder.

``prctl(PR_SET_PDEATHSIG)`` does not serve: it fires when the *thread* ends that
started the process, and tests start servers from worker threads.

Run as a program, this module is the watcher.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_NOTE_AND_EXEC = 'read -r line <"/proc/$$/stat" && echo "$line" >"$0" && exec "$@"'
"""The process notes itself: if we did it after the fork, we could be killed in between."""

_GRACE = 2.0
"""Seconds that a process has to follow its last signal when that is not SIGKILL."""

_ROOM = 4 * 1024**3
"""Bytes that a run's servers may keep, several times over."""


class Guard:
    """A folder whose processes end when its owner does; the owner is who called :meth:`own`."""

    def __init__(self, folder: Path) -> None:
        """Take part in a guard that another process owns."""
        self.folder = folder
        self._notes = folder / "processes"
        self._watcher: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @classmethod
    def own(cls) -> Guard:
        """A new guard, which ends with this process."""
        guard = cls(Path(tempfile.mkdtemp(prefix="godrive-guard-", dir=_in_memory())))
        guard.folder.chmod(0o711)  # PostgreSQL does not run as root, and gets to its own folder through this one
        guard._notes.mkdir()
        guard._notes.chmod(0o1777)
        guard._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, guard.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to our group is not for it
        )
        atexit.register(guard.close)
        return guard

    def command(self, command: Sequence[str | Path], last: signal.Signals = signal.SIGKILL) -> tuple[list[str], Path]:
        """The command that runs *command* under this guard, and the note to remove when it has ended.

        *last* is the signal that ends it when the guard does.
        """
        note = self._notes / f"{uuid.uuid4().hex}.{int(last)}"
        return ["/bin/sh", "-c", _NOTE_AND_EXEC, str(note), *map(str, command)], note

    def make_folder(self, name: str) -> Path:
        """A folder that is removed with the guard, if not before."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def note(self) -> None:
        """Have this process end with the guard, too."""
        stat = Path("/proc/self/stat").read_text(errors="replace")
        (self._notes / f"{uuid.uuid4().hex}.{int(signal.SIGKILL)}").write_text(stat)

    def close(self) -> None:
        """End what still runs, and return when it is gone.  Idempotent."""
        if self._watcher is None or os.getpid() != self._owner:
            return
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()
        self._watcher = None


def _in_memory() -> str | None:
    """A file system in memory with room for a run's servers, or ``None``, which is the usual place.

    A database is 300 files, and a run makes more than a hundred.
    """
    with suppress(OSError):
        if shutil.disk_usage("/dev/shm").free >= _ROOM:
            return "/dev/shm"
    return None


@cache
def _guard_of(_pid: int) -> Guard:
    return Guard.own()


def guard() -> Guard:
    """The guard of this process."""
    return _guard_of(os.getpid())


def watch(folder: Path) -> None:
    """Wait until the owner is gone, and clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    notes = folder / "closed"
    (folder / "processes").rename(notes)  # who has no note by now cannot write one, and does not start
    ends = [end for note in notes.iterdir() if (end := _noted(note))]
    for leader, last in ends:
        for pid in _family(leader) if last is signal.SIGKILL else {leader}:
            _send(pid, signal.SIGCONT)
            _send(pid, last)
    deadline = time.monotonic() + _GRACE
    while any(_family(leader) for leader, _ in ends):
        time.sleep(0.01)
        if time.monotonic() > deadline:  # some would not end, or had children while we looked
            for pid in {pid for leader, _ in ends for pid in _family(leader)}:
                _send(pid, signal.SIGKILL)
        if time.monotonic() > deadline + 10:
            break
    shutil.rmtree(folder, ignore_errors=True)


def _noted(note: Path) -> tuple[int, signal.Signals] | None:
    """The process of a note and its last signal, unless it has ended and its number is another's."""
    deadline = time.monotonic() + 1
    while not (line := note.read_text(errors="replace")) and time.monotonic() < deadline:
        time.sleep(0.01)  # opened, and not written yet
    if not line:
        return None
    pid = int(line.split()[0])
    try:
        now = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return pid, signal.SIGKILL  # ended; others of its session may not have
    if _fields(now)[19] != _fields(line)[19]:  # the time when it started
        return None
    return pid, signal.Signals(int(note.suffix[1:]))


def _fields(stat: str) -> list[str]:
    """What ``/proc/PID/stat`` says after the name: state, parent, group, session and so on."""
    return stat.rpartition(")")[2].split()


def _family(leader: int) -> set[int]:
    """The live processes of a session and their descendants; of a process that leads none, the process alone."""
    parents: dict[int, int] = {}
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent, _, session, *_ = _fields((entry / "stat").read_text(errors="replace"))
            if state in "ZX":
                continue
            pid = int(entry.name)
            if pid == leader != int(session):
                return {pid}
            parents[pid] = int(parent)
            if int(session) == leader:
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
