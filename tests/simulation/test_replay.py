"""A seed is a whole run: the same everywhere."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from godrive.simulation import runner
from godrive.simulation.world import DISK, Plan
from godrive.simulation.worlds import WORLDS

SEEDS = 3

RUNS = """
import sys
from godrive.simulation import runner
from godrive.simulation.world import Plan

plans = [Plan.parse(text) for text in sys.argv[1:]]
runner.prepare(plan.world for plan in plans)
for outcome in runner.outcomes(plans, jobs=1):
    print(outcome.plan, outcome.operations, outcome.seconds, outcome.digest, outcome.problem or "passed")
"""


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


@pytest.mark.slow
def test_a_seed_replays_exactly_in_another_process() -> None:
    assert digests("1") == digests("2")


@pytest.mark.slow
def test_every_world_replays_exactly_in_another_process() -> None:
    plans = [f"3,world={world},ops=15,faults=8" for world in WORLDS if world != DISK]

    def ends(hash_seed: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", RUNS, *plans],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    first = ends("1")
    assert len(first) == len(plans)
    assert all(end.endswith(" passed") for end in first), first
    assert first == ends("2")


def test_what_the_real_process_reads_from_a_disk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.parse("3,ops=15,faults=8")
    (alone,) = runner.outcomes([plan], jobs=1)
    reads = count()
    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_inblock=next(reads)))
    (beside_others,) = runner.outcomes([plan], jobs=1)
    assert (beside_others.digest, beside_others.problem) == (alone.digest, "")


def test_a_plan_reads_what_it_writes() -> None:
    plan = Plan(7, operations=40, skipped=frozenset({(0, 3), (2, 11)}), without=frozenset({1, 4}), world="s3")
    plan = replace(plan, favour=frozenset({"put", "jump"}))
    assert Plan.parse(str(plan)) == plan
    assert all(Plan.parse(str(smaller)) == smaller for smaller in plan.smaller())
