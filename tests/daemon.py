"""A server as a process: started, ready, stopped, killed, wiped.

:mod:`tests.servers` says which there are.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.guard import Guard, guard
from tests.zygote import Forked, zygote

READY_WITHIN = 60.0
"""Seconds that a server may take to start; the usual is under two."""

_SPANS = range(20_000, 24_000)
_PORTS = range(24_000, 32_000)
"""Both are below the range that the kernel hands out itself, so that a port stays free while its server is down."""

_RESERVED = Path(tempfile.gettempdir()) / f"godrive-test-ports-{os.getuid()}"
"""A file for each port that one of our processes on this machine has chosen and whose server may not listen yet."""

_RESERVED_FOR = 120.0
"""Seconds after which a server listens, or never will."""


class MissingProgram(Exception):
    """A server's program is not installed."""


def free_port(span: int = 1) -> int:
    """The first of *span* loopback ports that are free now."""
    # Several in a row are hardly ever free among single ones, so they are whole blocks of a range apart.
    firsts = _PORTS if span == 1 else range(_SPANS.start, _SPANS.stop - span, span)
    while True:
        first = random.choice(firsts)
        if all(_reserve(first + offset) and _is_free(first + offset) for offset in range(span)):
            return first


def _reserve(port: int) -> bool:
    """Whether no other process has chosen the port just now; if so, it is ours for a while."""
    _RESERVED.mkdir(exist_ok=True)
    note = _RESERVED / str(port)
    try:
        if time.time() - note.stat().st_mtime < _RESERVED_FOR:
            return False
        note.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    try:
        note.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Daemon:
    """One process, its output in a file.

    It ends at the latest with *under*, by default with the process that starts
    it; *last* is the signal that it gets then.  If *forked*, the command is the
    arguments of ``godrive``, which is forked from a zygote (see
    :mod:`tests.zygote`).
    """

    def __init__(
        self,
        command: list[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        under: Guard | None = None,
        last: signal.Signals = signal.SIGKILL,
        forked: bool = False,
    ) -> None:
        self.log = log
        self.command = command
        guarded, self._note = (under or guard()).command(command, last)
        self._process: subprocess.Popen[bytes] | Forked
        with log.open("ab") as output:
            if forked:
                with Path(os.devnull).open("rb") as nothing:
                    files = nothing.fileno(), output.fileno(), output.fileno()
                    arguments = [*map(str, command)]
                    self._process = zygote().fork(arguments, os.environ if env is None else env, files, note=self._note)
                return
            self._process = subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C is for us, not for the server
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that ended is left alone."""
        self._process.send_signal(number)

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def wait(self, within: float = 30.0) -> int:
        """Its exit status, once it has ended.  Raises ``TimeoutError``."""
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.command[0]} still runs after {within} s") from None
        self._note.unlink(missing_ok=True)
        return status

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 15.0) -> None:
        """Ask it to end, and insist when it does not."""
        if self.running:
            self.send(signal.SIGCONT)
            self.send(number)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._note.unlink(missing_ok=True)

    def release(self) -> None:
        """Leave it to its guard: from now on this process neither waits for it nor ends it."""
        self._process.returncode = 0  # otherwise its finalizer warns of a process that still runs

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once *ready*; a process that ends or takes too long is a ``RuntimeError`` with its last words."""
        deadline = time.monotonic() + READY_WITHIN
        while not ready():
            if not self.running or time.monotonic() > deadline:
                state = "takes too long" if self.running else f"ended with {self._process.returncode}"
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{self.command[0]} {state}:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)


class Server(ABC):
    """What all servers have in common."""

    programs: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]]

    allowed: ClassVar[bool] = True
    """Whether installed programs may be started: a quick run does without."""

    guard: Guard | None = None
    """Its processes end at the latest with this guard; ``None`` is the guard of the process that starts it."""

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        """Keep everything in *folder*, which then stays; by default in one that is removed with the server."""
        if self.programs and not self.allowed:
            raise RuntimeError(f"--quick starts no {type(self).__name__}: mark the test with servers")
        self.missing()
        self._temporary = folder is None
        self.folder = folder or guard().make_folder(type(self).__name__.lower())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process: Daemon | None = None

    @classmethod
    def missing(cls) -> None:
        """Raise :class:`MissingProgram` unless every program is there."""
        absent = [name for name in cls.programs if cls.find(name) is None]
        if absent:
            raise MissingProgram(
                f"{', '.join(absent)} not found: apt-get install -y --no-install-recommends {' '.join(cls.packages)}"
            )

    @classmethod
    def find(cls, program: str) -> str | None:
        """Where the program is, if it is installed."""
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

    def path(self, program: str) -> str:
        found = self.find(program)
        assert found is not None, program
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start, on the same port and folder as before, and wait until it answers."""
        if self.process is not None and self.process.running:
            return
        self.process = self._launch()

    @abstractmethod
    def _launch(self) -> Daemon: ...

    def stop(self) -> None:
        """End it in good order; what it kept stays."""
        if self.process is not None:
            self.process.stop()

    def kill9(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it hold connections open and answer nothing, as behind a cut network."""
        if self.process is not None:
            self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        if self.process is not None:
            self.process.send(signal.SIGCONT)

    def release(self) -> None:
        """Let it run on until its guard ends it."""
        if self.process is not None:
            self.process.release()
            self.process = None

    def wipe(self) -> None:
        """Kill it and forget everything it kept."""
        self.kill9()
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
