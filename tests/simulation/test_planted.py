"""The simulation finds what it should: each planted fault, by the run that is recorded in its patch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import each
from tests.simulation.planted import ROOT, misfits, patches


@each("patch", patches())
def test_a_planted_fault_still_applies(patch: Path) -> None:
    assert misfits(patch) == []


@pytest.mark.slow
def test_a_planted_fault_is_found_by_its_run() -> None:
    """One with a short run, and one in ``test_shrink.py``: ``scripts/simulate --planted`` replays all."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.planted", "--only=file-not-synced"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 faults, 0 not found" in done.stdout, done.stdout + done.stderr
