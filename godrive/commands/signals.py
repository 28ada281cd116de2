"""What signals do to the server.

SIGTERM, SIGINT and SIGQUIT stop it in good order, and a later one of them ends
the process at once.  One that comes with the first is no second one: GNU timeout
and some init programs signal a process and then its group.  SIGHUP reloads the configuration, or stops the server when
it means that the terminal is gone.  Every other signal that would end or
suspend a process by default is logged and ignored: operators send them to the
wrong process, and supervisors and shells send them unasked.  SIGTSTP (Ctrl-Z)
suspends the server, as its user on the terminal expects, and what reports a bug
in the process, such as SIGSEGV and SIGABRT, ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator

import structlog

log = structlog.get_logger("godrive")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

TOGETHER = 0.3
"""Seconds in which a stopping signal that is repeated counts once."""

_STRAY = ("XCPU", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "POLL", "PWR", "STKFLT", "EMT", "TTIN", "TTOU")


def _nothing() -> None: ...


def stray() -> Iterator[int]:
    """The signals to ignore: those whose default action ends or suspends a process, and which nobody else handles."""
    named = {getattr(signal, f"SIG{name}") for name in _STRAY if hasattr(signal, f"SIG{name}")}
    real_time = range(signal.SIGRTMIN, signal.SIGRTMAX + 1) if hasattr(signal, "SIGRTMIN") else ()
    for number in sorted({*named, *real_time} & signal.valid_signals()):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
            yield number


def ignore_until_ready() -> None:
    """Ignore SIGHUP and stray signals while the server has no event loop: at its start, and at its very end."""
    for number in (signal.SIGHUP, *stray()):
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """The signals of this process, from now until its event loop ends.

    The first stopping signal calls ``on_stop``, which the owner replaces as it
    gets further.  *on_reload* is called for SIGHUP.  *on_end* is called right
    before a second stopping signal ends the process.
    """

    def __init__(self, *, on_reload: Callable[[], None], on_end: Callable[[], object] = _nothing) -> None:
        self.received: str | None = None
        """The name of the signal that stops the server, once there is one."""
        self.on_stop: Callable[[], None] = _nothing
        self._on_reload = on_reload
        self._on_end = on_end
        self._terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]
        self._loop = loop = asyncio.get_running_loop()
        self._stopping_at = 0.0
        for number in STOPPING:
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        for stray_number in stray():
            loop.add_signal_handler(stray_number, self._ignore, stray_number)

    def _stop(self, number: signal.Signals) -> None:
        if self.received is not None:
            if self._loop.time() < self._stopping_at + TOGETHER:
                return
            log.warning("ended_at_once", signal=number.name)
            self._on_end()
            os._exit(128 + number)
        self.received, self._stopping_at = number.name, self._loop.time()
        self.on_stop()

    def _hang_up(self) -> None:
        if not all(map(os.isatty, self._terminals)):  # a terminal that has hung up is none any more
            self._terminals = []
            if self.received is None:
                self._stop(signal.SIGHUP)
        elif self.received is None:
            self._on_reload()

    def _ignore(self, number: int) -> None:
        log.info("signal_ignored", signal=_name(number))


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
