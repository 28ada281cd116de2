"""Shrinking leaves out what a failure does not need, and the shorter run fails too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from godrive.simulation import runner
from godrive.simulation.world import OPERATIONS, Outcome, Plan
from tests.simulation.planted import FAULTS, ROOT, texts

NEEDED, FAULT = {(0, 2), (1, 17)}, 5


def fails(plan: Plan) -> bool:
    return set(plan.done()) >= NEEDED and plan.faults > FAULT and FAULT not in plan.without


def test_shrinking_leaves_what_a_failure_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Plan] = []

    def outcomes(plans: Iterable[Plan], *, jobs: int) -> Iterator[Outcome]:
        for plan in reversed(list(plans)):  # the order in which they end says nothing
            tried.append(plan)
            yield Outcome(plan, problem="it fails" if fails(plan) else "")

    monkeypatch.setattr(runner, "outcomes", outcomes)
    told: list[str] = []
    shrunk = runner.shrink(Plan(1), jobs=2, tell=told.append, most=2000)
    assert set(shrunk.done()) == NEEDED
    assert [fault for fault in range(shrunk.faults) if fault not in shrunk.without] == [FAULT]
    assert told[0].startswith(f"{3 * OPERATIONS} operations and 20 faults left")
    assert told[-1] == f"2 operations and 1 faults left: {shrunk}"
    tried.clear()
    runner.shrink(Plan(1), jobs=2, tell=told.append, most=10)
    assert len(tried) == 10


@pytest.mark.slow
def test_what_shrinking_prints_replays_and_says_what_happened_in_which_actor(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "godrive", tmp_path / "godrive")  # with what is compiled, which takes longer than a run
    for path, _, text in texts(FAULTS / "range-too-short.patch"):
        (tmp_path / path).write_text(text)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "godrive.simulation", *options]
        environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    shrunk = run("--shrink", "1,ops=24,faults=2", "--runs", "24")
    assert shrunk.returncode == 0, shrunk.stdout + shrunk.stderr
    left = re.findall(r"^(\d+) operations and (\d+) faults left", shrunk.stdout, re.MULTILINE)
    assert left[0] == ("72", "2")
    assert int(left[-1][0]) < 20
    command = shrunk.stdout.splitlines()[-1].split()
    assert command[:2] == ["scripts/simulate", "--replay"]
    replayed = run(*command[1:])
    assert replayed.returncode == 1, replayed.stdout + replayed.stderr
    lines = replayed.stdout.splitlines()
    assert re.fullmatch(r"user-\d, operation \d+: .*", lines[-1])
    assert re.search(r"user-\d +answered +what=GET /v1/files/\S+/content status=206", replayed.stdout)
    assert re.search(r"server +handled +metadata OpenContent", replayed.stdout)
