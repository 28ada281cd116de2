"""A seed is a whole run: the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

from godrive.simulation.world import Plan

SEEDS = 3


def digests(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "godrive.simulation", "--seeds", str(SEEDS), "--jobs", "1", "--digests"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return "\n".join(done.stdout.splitlines()[:SEEDS])


def test_a_seed_replays_exactly_in_another_process() -> None:
    assert digests("1") == digests("2")


def test_a_plan_reads_what_it_writes() -> None:
    plan = Plan(7, operations=40, skipped=frozenset({(0, 3), (2, 11)}), without=frozenset({1, 4}))
    assert Plan.parse(str(plan)) == plan
    assert all(Plan.parse(str(smaller)) == smaller for smaller in plan.smaller())
