"""A seed is a whole run: the same everywhere."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import aiohttp.connector
import pytest

from godrive.simulation import runner
from godrive.simulation.world import DISK, Plan
from godrive.simulation.worlds import WORLDS

SEEDS = int(os.environ.get("GODRIVE_TEST_SEEDS", "1"))
"""Runs at their full length; ``scripts/soak full replay`` makes many."""

RUNS = """
import sys
from godrive.simulation import __main__, runner
from godrive.simulation.world import Plan

seeds, *plans = sys.argv[1:]
plans = [Plan.parse(text) for text in plans]
runner.prepare(plan.world for plan in plans)
for outcome in runner.outcomes(plans, jobs=1):
    print(outcome.plan, outcome.operations, outcome.seconds, outcome.digest, outcome.problem or "passed")
sys.argv[1:] = ["--seeds", seeds, "--jobs", "1", "--digests"]
sys.exit(__main__.main())
"""
"""Plans of all worlds, and then the command with whole runs."""


@pytest.mark.slow
def test_every_world_and_the_command_replay_exactly_in_another_process() -> None:
    plans = [f"3,world={world},ops=15,faults=8" for world in WORLDS if world != DISK]

    def ends(hash_seed: str) -> tuple[list[str], list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", RUNS, str(SEEDS), *plans],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1].startswith(f"{SEEDS} seeds, 0 failed")
        return lines[: len(plans)], lines[len(plans) : -1]

    worlds, seeds = ends("1")
    assert all(end.endswith(" passed") for end in worlds), worlds
    assert [line.split()[0] for line in seeds] == [str(seed) for seed in range(1, SEEDS + 1)]
    assert all(re.fullmatch("[0-9a-f]{24}", line.split()[1]) for line in seeds), seeds
    assert (worlds, seeds) == ends("2")


def test_what_the_real_process_reads_from_a_disk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.parse("3,ops=15,faults=8")
    (alone,) = runner.outcomes([plan], jobs=1)
    reads = count()
    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_inblock=next(reads)))
    (beside_others,) = runner.outcomes([plan], jobs=1)
    assert (beside_others.digest, beside_others.problem) == (alone.digest, "")


def test_how_long_the_real_process_takes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine took longer than aiohttp keeps a connection to the store that nobody uses."""
    plan = Plan.parse("3,world=s3,ops=15,faults=8")
    (quick,) = runner.outcomes([plan], jobs=1)
    monkeypatch.setattr(aiohttp.connector, "monotonic", count(step=100).__next__)
    (slow,) = runner.outcomes([plan], jobs=1)
    assert (slow.digest, slow.problem) == (quick.digest, "")


def test_a_plan_reads_what_it_writes() -> None:
    plan = Plan(7, operations=40, skipped=frozenset({(0, 3), (2, 11)}), without=frozenset({1, 4}), world="s3")
    plan = replace(plan, favour=frozenset({"put", "jump"}))
    assert Plan.parse(str(plan)) == plan
    assert all(Plan.parse(str(smaller)) == smaller for smaller in plan.smaller())
