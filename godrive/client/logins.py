"""The log-ins that the command line keeps: one refresh token for each server, in a file that only its owner can read.

A refresh token changes with every use, and several commands may run at once.
So a command holds a lock while it renews the token, and writes the new one
before it lets go.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from godrive.errors import ConfigError


class SavedLogIn(msgspec.Struct, kw_only=True):
    """A log-in to a server."""

    email: str
    refresh_token: str


class LogIns(msgspec.Struct, kw_only=True):
    """All log-ins, by the URL of the server.  *last* is the server that was logged in to last."""

    last: str = ""
    servers: dict[str, SavedLogIn] = {}


def folder() -> Path:
    """Return the folder of what the command line keeps (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "godrive"


class LogInFile:
    """The file of the log-ins."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or folder() / "log-ins.json"

    def read(self) -> LogIns:
        """Return the log-ins.  Raises ``ConfigError`` if the file cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=LogIns)
        except FileNotFoundError:
            return LogIns()
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}.") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConfigError(f"{self._path} is damaged.", hint="Delete it and log in again.") from None

    @contextmanager
    def locked(self) -> Iterator[LogIns]:
        """Lock the file against other commands.  What the caller changes is written at the end.

        The lock blocks, so call this in a thread.  Raises ``ConfigError``.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self.read()
            before = msgspec.json.encode(found)
            yield found
            if (after := msgspec.json.encode(found)) != before:
                self._write(after)
        finally:
            os.close(lock)

    def _write(self, content: bytes) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}.") from None


def is_interactive() -> bool:
    """Whether a person is at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()
