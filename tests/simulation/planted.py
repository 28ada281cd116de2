"""Planted faults: small patches, each of which some seed must find.

``scripts/simulate --planted`` replays the run that is recorded in each patch,
with its fault.  ``scripts/simulate --planted --find`` looks for a run of each
patch that has none, or whose run no longer finds its fault, and records it.

A fault is planted into a process that has imported everything: the functions
that the patch changes get other code.  So a replay costs no more than its run.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, FunctionType

from godrive.simulation import runner
from godrive.simulation.world import Outcome, Plan
from godrive.simulation.worlds import run

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults")
_RUN = re.compile(r"^Seed: (.*)$", re.MULTILINE)
MOST = 1000
"""Seeds within which a fault must be found."""


@dataclass(frozen=True)
class Planted(Plan):
    """A run with a fault."""

    patch: Path = FAULTS


def patches() -> list[Path]:
    """Every planted fault."""
    return sorted(FAULTS.glob("*.patch"))


def recorded(patch: Path) -> Planted | None:
    """The run that finds a fault; ``None`` if none is recorded."""
    text = _line(patch)
    return None if text.startswith("none") else Planted(**vars(Plan.parse(text)), patch=patch)


def _line(patch: Path) -> str:
    found = _RUN.search(patch.read_text())
    assert found is not None, f"{patch.name} has no line for its seed"
    return found.group(1)


def _sought(patch: Path) -> Plan:
    """Like what a fault is looked for."""
    return Plan.parse(_line(patch).replace("none", "0"))


def changes(patch: Path) -> list[tuple[str, str, str]]:
    """Each hunk: the file, the text that must be in it, and the text in its place.  Line numbers do not matter."""
    found: list[tuple[str, str, str]] = []
    path, old, new = "", "", ""
    for line in [*patch.read_text().splitlines(keepends=True), "@@ end"]:
        if line.startswith(("@@", "--- ")):
            if old or new:
                found.append((path, old, new))
            old = new = ""
        elif line.startswith("+++ b/"):
            path = line[6:].strip()
        elif path:
            if line[0] in " -":
                old += line[1:]
            if line[0] in " +":
                new += line[1:]
    return found


def misfits(patch: Path) -> list[str]:
    """Why the fault cannot be planted into the code as it is."""
    found = [
        f"{path} has {count} times: {old!r}"
        for path, old, _ in changes(patch)
        if (count := (ROOT / path).read_text().count(old)) != 1
    ]
    return found or [
        f"{path} is changed outside of functions" for path, old, new in texts(patch) if _outside(old) != _outside(new)
    ]


def texts(patch: Path) -> Iterator[tuple[str, str, str]]:
    """Each file that a patch changes, and its text before and after."""
    texts: dict[str, str] = {}
    for path, old, new in changes(patch):
        texts[path] = texts.get(path, (ROOT / path).read_text()).replace(old, new)
    for path, text in texts.items():
        yield path, (ROOT / path).read_text(), text


def _outside(text: str) -> str:
    """What is outside of functions, and runs when the module is imported."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    return ast.dump(tree)


def _pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The code of each function, before and after."""
    yield old, new
    inner = [[each for each in code.co_consts if isinstance(each, CodeType)] for code in (old, new)]
    for before, after in zip(*inner, strict=True):
        yield from _pairs(before, after)


def plant(patch: Path) -> None:
    """Give the functions that a patch changes their other code, in this process."""
    gc.unfreeze()  # or the functions are not among the objects
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    for path, old, new in texts(patch):
        pairs = _pairs(*(compile(text, str(ROOT / path), "exec") for text in (old, new)))
        codes = {(c.co_filename, c.co_qualname, c.co_firstlineno): after for c, after in pairs}
        for function in functions:
            code = function.__code__
            if (after := codes.get((code.co_filename, code.co_qualname, code.co_firstlineno))) is not None:
                function.__code__ = after
    gc.freeze()


def run_planted(plan: Planted) -> Outcome:
    """Run a plan with its fault, in a process of its own."""
    plant(plan.patch)
    return run(plan)


def outcomes(plans: Iterable[Planted]) -> Iterator[Outcome]:
    """Run plans, each with its fault, on all processors."""
    return runner.outcomes(plans, jobs=os.cpu_count() or 1, run=run_planted)


def find(patch: Path, first: int, most: int) -> Outcome | None:
    """A run that finds a fault and passes without it, with as few operations as it needs."""
    like = Planted(**vars(_sought(patch)), patch=patch)
    results = runner.outcomes(
        (replace(like, seed=seed) for seed in range(first, first + most)), jobs=os.cpu_count() or 1, run=run_planted
    )
    found = next((outcome for outcome in results if _is_found(outcome)), None)
    results.close()
    while found is not None and found.plan.operations > 1:
        shorter = replace(found.plan, operations=found.plan.operations // 2)
        (outcome,) = outcomes([shorter])  # type: ignore[list-item]
        if not _is_found(outcome):
            break
        found = outcome
    return found


def _is_found(outcome: Outcome) -> bool:
    """Whether the run failed by the fault: not without it, and not because this machine is busy."""
    plan = outcome.plan
    if not outcome.problem or outcome.problem == runner.DIED:
        return False
    (sound,) = runner.outcomes([Plan.parse(str(plan))], jobs=1)
    return not sound.problem


def main() -> int:
    """Replay the recorded runs of all planted faults, or find some."""
    parser = argparse.ArgumentParser(prog="scripts/simulate --planted", description=main.__doc__)
    parser.add_argument("--find", action="store_true", help="find a run of each fault that has none, and record it")
    parser.add_argument("--only", default="", metavar="WORD", help="faults whose name has this")
    parser.add_argument("--seeds", type=int, default=MOST, metavar="N", help="how many seeds to try (%(default)s)")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="S", help="the first seed to try (1)")
    options = parser.parse_args()
    chosen = [patch for patch in patches() if options.only in patch.stem]
    runner.prepare(dict.fromkeys(_sought(patch).world for patch in chosen))
    passed, cpu, started = [], 0.0, time.monotonic()
    for outcome in outcomes(plan for patch in chosen if (plan := recorded(patch))):
        assert isinstance(outcome.plan, Planted)
        cpu += outcome.cpu
        if not outcome.problem or outcome.problem == runner.DIED:
            passed.append(outcome.plan.patch)
            print(f"{outcome.plan.patch.stem} is no longer found by {outcome.plan}", flush=True)
    print(
        f"{len(chosen)} faults, {len(passed)} not found, {cpu:.1f} s of CPU, {time.monotonic() - started:.1f} s in all"
    )
    if options.find:
        for patch in chosen:
            if patch in passed or recorded(patch) is None:
                _find_and_record(patch, options.first, options.seeds)
    return bool(passed)


def _find_and_record(patch: Path, first: int, most: int) -> None:
    found = find(patch, first, most)
    text = str(found.plan) if found else str(replace(_sought(patch), seed=0)).replace("0", "none", 1)
    print(f"{patch.stem}: {text}: {found.problem if found else 'not found'}", flush=True)
    patch.write_text(_RUN.sub(f"Seed: {text}", patch.read_text()))


if __name__ == "__main__":
    sys.exit(main())
