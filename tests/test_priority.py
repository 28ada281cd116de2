"""Work in the background gives way to all other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_GROUP = Path("/proc/self/autogroup")
_SAY = """
import os
from pathlib import Path
from godrive.priority import run_in_background
run_in_background()
print(os.nice(0), Path("/proc/self/autogroup").read_text().split()[-1])
"""


def said(*, leads_a_session: bool) -> list[str]:
    """The niceness of a process in the background, and of its session."""
    command = [sys.executable, "-c", _SAY]
    return subprocess.check_output(command, start_new_session=leads_a_session, text=True).split()


@pytest.mark.skipif(not _GROUP.exists(), reason="only Linux with CONFIG_SCHED_AUTOGROUP groups processes by session")
def test_a_process_in_the_background_lowers_its_session_only_if_it_leads_it() -> None:
    lowest, ours = str(min(os.nice(0) + 19, 19)), _GROUP.read_text().split()[-1]
    assert said(leads_a_session=False) == [lowest, ours]
    assert said(leads_a_session=True) == [lowest, "19"]
