"""Run GoDrive and count the calls of Python functions: ``python bench/counted.py FILE serve ...``.

SIGUSR2 writes the counts since the last time to FILE, as JSON: a list of
``[file, function, line, calls]``.  Imports nothing of the benchmarks, because it
also runs in trees that have other ones.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from types import CodeType, FrameType
from typing import Any

counts: dict[CodeType, int] = {}


def count(frame: FrameType, event: str, _: Any) -> None:
    """A profile function."""
    if event == "call":
        counts[frame.f_code] = counts.get(frame.f_code, 0) + 1


def write_counts(path: str) -> None:
    """Write the counts for each signal."""
    while signal.sigwait({signal.SIGUSR2}):
        found = [[code.co_filename, code.co_qualname, code.co_firstlineno, calls] for code, calls in counts.items()]
        counts.clear()
        with open(f"{path}.new", "w") as file:  # noqa: PTH123 - as few imports as can be
            json.dump(found, file)
        os.replace(f"{path}.new", path)  # noqa: PTH105


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    threading.Thread(target=write_counts, args=(sys.argv.pop(1),), daemon=True).start()
    threading.setprofile(count)
    sys.setprofile(count)
    runpy.run_module("godrive", run_name="__main__", alter_sys=True)
