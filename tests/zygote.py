"""Processes of GoDrive that are forked from one that has imported it.

The tests start a server some two hundred times, and most of what a start costs
is to import a few hundred modules.  A zygote is a process that has imported
them and does nothing else, without threads and without an event loop.  For each
request it forks a child, which becomes the leader of a session, takes over the
files, the environment and the folder of the request, and runs ``godrive`` with
its arguments.  So the child is a process like any other: it is signalled and
killed, and what it leaves behind is what a server leaves behind.

A test of the start itself, or of memory, starts an interpreter instead.

Run as a program, this module is the zygote.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from godrive.commands.table import COMMANDS

_MOST_BYTES = 1024 * 1024
_PRELOADED = (
    *("godrive.cli", "godrive.drive", "godrive.http.wire.server", "godrive.http.app", "godrive.logs"),
    *("godrive.catalog.sqlite", "godrive.catalog.postgres", "godrive.blobs.disk", "godrive.blobs.s3"),
    *("godrive.bridge.nats", "anyio._backends._asyncio", "uvloop", "importlib.metadata", "importlib.readers"),
    *(f"godrive.commands.{command.module}" for command in COMMANDS.values()),
)
_ENDED = 4
"""Bytes that say how a child has ended."""


class Forked:
    """A child of the zygote, with the part of the interface of ``subprocess.Popen`` that a ``Daemon`` uses."""

    def __init__(self, pid: int, ended: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended.  Raises ``subprocess.TimeoutExpired``."""
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("godrive", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal; a process that ended is left alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            said = self._ended.recv(_ENDED)
            self._ended.close()
            # Nothing is said when the zygote itself is gone, which is when the tests end.
            self.returncode = int.from_bytes(said, "big", signed=True) if said else -signal.SIGKILL
        return self.returncode


class Zygote:
    """The process that forks, started with the first request and ended with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parent.parent,
                start_new_session=True,
            )
        atexit.register(self.close)

    def fork(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        files: tuple[int, int, int],
        *,
        note: Path | None = None,
        cwd: Path | None = None,
    ) -> Forked:
        """Run ``godrive`` with the arguments, and *files* as its input, output and errors.

        The child writes its line of ``/proc`` to *note* first.
        """
        request = {
            "arguments": [*arguments],
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
            "note": str(note or os.devnull),
        }
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [*files, theirs.fileno()])
            return Forked(int(self._requests.recv(16)), ours)

    def close(self) -> None:
        """End it; its children run on until their guard ends them."""
        self._requests.close()
        self._process.wait()


@cache
def _zygote_of(_pid: int) -> Zygote:
    return Zygote()


def zygote() -> Zygote:
    """The zygote of this process."""
    return _zygote_of(os.getpid())


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork as asked.  Returns the arguments in a child, ``None`` in the zygote when the tests have ended."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    children: dict[int, socket.socket] = {}
    heard: list[Any] = [requests, waking]
    while True:
        readable, _, _ = select.select(heard, [], [])
        if waking in readable:
            os.read(waking, 4096)
            for pid in list(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with children.pop(pid) as asker:
                        code = os.waitstatus_to_exitcode(status)
                        asker.send(code.to_bytes(_ENDED, "big", signed=True))
        if requests in readable:
            said, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, 4)
            if not said:
                return None
            *files, end = fds
            asker = socket.socket(fileno=end)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (requests, asker, *children.values()):
                    inherited.close()
                os.close(waking)
                os.close(woken)
                return _become(json.loads(said), files)
            children[pid] = asker
            for file in files:
                os.close(file)
            requests.send(str(pid).encode())


def _become(request: dict[str, Any], files: list[int]) -> list[str]:
    """Take over the files, the environment and the folder of the request; its arguments."""
    os.setsid()
    Path(request["note"]).write_text(Path("/proc/self/stat").read_text())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    arguments: list[str] = request["arguments"]
    return arguments


def _run(arguments: list[str]) -> int:
    from godrive.cli import main

    try:
        return main(arguments)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        raise


def _end(code: int) -> NoReturn:
    """End as the interpreter does, but leave all objects to the kernel.

    To destroy those of all modules takes four times as long as most commands.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as multiprocessing does in a child
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    for name in _PRELOADED:
        __import__(name)
    gc.collect()
    gc.freeze()  # so that a collection in a child does not write to the pages that all share
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv = ["godrive", *arguments]
        _end(_run(arguments))
