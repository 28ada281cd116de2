"""Work in the background gives way to all other processes."""

from __future__ import annotations

import subprocess
import sys

_SAY = """
import os
from pathlib import Path
{before}
group = Path("/proc/self/autogroup")
words = group.read_text().split() if group.exists() else []
print(os.nice(0), words[-1] if words else "none")
"""
_LOWER = "from godrive.priority import run_in_background; run_in_background()"


def said(before: str, *, leads_a_session: bool) -> list[str]:
    """The niceness of a process after the statement *before*, and of its session, or ``none`` if it has no group.

    A kernel without CONFIG_SCHED_AUTOGROUP has no such file.  With ``kernel.sched_autogroup_enabled=0``, and for a
    session that is older than the setting, the file is empty.
    """
    command = [sys.executable, "-c", _SAY.format(before=before)]
    return subprocess.check_output(command, start_new_session=leads_a_session, text=True).split()


def test_a_process_in_the_background_lowers_its_niceness_and_leaves_the_session_of_another_alone() -> None:
    nice, group = said("", leads_a_session=False)
    assert said(_LOWER, leads_a_session=False) == [str(min(int(nice) + 19, 19)), group]


def test_a_process_in_the_background_lowers_the_session_that_it_leads() -> None:
    nice, group = said("", leads_a_session=True)
    lowered = "none" if group == "none" else "19"
    assert said(_LOWER, leads_a_session=True) == [str(min(int(nice) + 19, 19)), lowered]
