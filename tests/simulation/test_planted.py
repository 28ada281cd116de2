"""The simulation finds what it should: each planted fault, by the seed that is recorded in its patch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.planted import misfits, patches, replay, seed_of


@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.stem)
def test_a_planted_fault_still_applies(patch: Path) -> None:
    assert misfits(patch) == []


FOUND = [patch for patch in patches() if not seed_of(patch).startswith("none")]


@pytest.mark.slow
@pytest.mark.parametrize("patch", FOUND, ids=lambda patch: patch.stem)
def test_a_planted_fault_is_found_by_its_seed(patch: Path, tmp_path: Path) -> None:
    done = replay(patch, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fails" in done.stdout, done.stderr
