"""Write a log without blocking.

A pipe without a reader, a terminal stopped with Ctrl-S and a hanging disk all
block ``write(2)``.  Therefore :class:`LogWriter` only appends to a buffer, and
a separate thread makes the system calls.  The buffer is bounded: while it is
full, lines are dropped and counted.  Once the reader has caught up, one line
reports how many were lost.

The thread is a daemon, so that a blocked thread does not prevent the process
from exiting.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

BUFFER = 4 * 1024 * 1024
"""The size of the buffer in bytes."""

DRAIN = 2.0
"""Seconds that an exiting process waits until the buffer is written."""

_PIECE = 64 * 1024
_GATHER = 0.02
"""Seconds from one write to the next.  Whenever the thread wakes up, it contends with the event loop for the GIL."""


def _no_notice(_lost: int) -> bytes:
    return b""


class LogWriter:
    """A binary file over the descriptor *fd*, which it does not close.  Any thread may write.

    A line is lost when the buffer is full, or when the system refuses it (a
    full disk, a closed pipe).  *notice* makes the line that reports losses.
    """

    def __init__(self, fd: int, *, notice: Callable[[int], bytes] = _no_notice, buffer: int = BUFFER) -> None:
        self._fd = fd
        self._notice = notice
        self._buffer = buffer
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held = 0  # bytes in the buffer, and those that the thread is writing
        self._full = False
        self._cut = False  # the last line written lacks its end
        self._refused = False  # the system took less than it was given
        self._unreported = 0
        self._thread: threading.Thread | None = None
        self.lost = 0
        """Lines lost so far."""

    def write(self, lines: bytes) -> int:
        """Append whole lines to the buffer, or drop them.  Never blocks and never raises."""
        if sys.is_finalizing():  # no other thread runs any more, and the one that wrote may have stopped with the lock
            _write(self._fd, lines)
            return len(lines)
        with self._changed:
            # After an overflow, drop until the buffer is half empty: few long gaps are easier to read than many short.
            allowed = min(self._buffer // 2 if self._full else self._buffer, self._buffer - len(lines))
            self._full = self._held > allowed
            if self._full:
                self._lose(lines)
                return len(lines)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="godrive-log", daemon=True)
                self._thread.start()
            self._pieces.append(lines)
            self._held += len(lines)
            self._changed.notify_all()
        return len(lines)

    def flush(self) -> None:
        """Do nothing: loggers call this after each line.  See :meth:`drain`."""

    def drain(self, within: float = DRAIN) -> bool:
        """Wait at most *within* seconds until the buffer is empty.  Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held == 0 and not self._has_news(), within)

    def _has_news(self) -> bool:
        """Whether losses can be reported now."""
        return self._unreported > 0 and not self._refused and self._held <= self._buffer // 2

    def _lose(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        self.lost += count
        self._unreported += count

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._has_news())
                taken = b"".join(self._pieces)
                self._pieces.clear()
            for lines in _cut_up(taken):
                self._put(lines)
            time.sleep(_GATHER)

    def _put(self, lines: bytes) -> None:
        """Write *lines*, after a notice of the losses before them; count what the system refuses."""
        with self._changed:
            reported = self._unreported if self._held <= self._buffer // 2 else 0
        head = (b"\n" if self._cut else b"") + (self._notice(reported) if reported else b"")
        rest = _write(self._fd, head + lines)
        written = (head + lines)[: len(head) + len(lines) - len(rest)]
        if written:
            self._cut = not written.endswith(b"\n")
        with self._changed:
            if len(written) >= len(head):
                self._unreported -= reported
            self._refused = bool(rest)
            self._lose(rest[-len(lines) :] if lines else b"")
            self._held -= len(lines)
            self._changed.notify_all()


def _cut_up(lines: bytes) -> Iterator[bytes]:
    """Pieces of about 64 KiB, each of whole lines; one that is empty when there are none."""
    start = 0
    while len(lines) - start > _PIECE:
        end = lines.find(b"\n", start + _PIECE) + 1 or len(lines)
        yield lines[start:end]
        start = end
    yield lines[start:]


def _write(fd: int, data: bytes) -> bytes:
    """Write all that the system takes; what it refuses."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # another process that shares the descriptor made it non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            break
    return data
