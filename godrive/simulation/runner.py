"""Run many seeds, replay one, and shrink it.

Each run has a process of its own, forked from one that has imported everything:
so no run depends on those before it, and what a killed process leaves in memory
ends with it.
"""

from __future__ import annotations

import gc
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from godrive.simulation.world import DISK, Outcome, Plan
from godrive.simulation.worlds import run

P = TypeVar("P", bound=Plan)

SHRINK_RUNS = 150

DIED = "the simulation died, or took too long"
"""The problem of a run that has told nothing."""


@dataclass
class _Child:
    plan: Plan
    pid: int
    data: bytearray = field(default_factory=bytearray)


def prepare(worlds: Iterable[str] = (DISK,), *, for_many: bool = False) -> None:
    """Import and compute what all runs in these worlds need, before the first fork.

    *for_many* runs, Python also specialises here most of the code that they run.
    """
    for world in worlds:
        run(Plan(0, world=world) if for_many else Plan(0, operations=3, faults=0, world=world))
    gc.collect()
    gc.freeze()


def outcomes(
    plans: Iterable[P], *, jobs: int, limit: int = 60, run: Callable[[P], Outcome] = run
) -> Generator[Outcome, None, None]:
    """Run plans in *jobs* processes at a time, in the order in which they end.  A run has *limit* seconds of CPU."""
    waiting, running = iter(plans), selectors.DefaultSelector()
    try:
        while True:
            while len(running.get_map()) < jobs and (plan := next(waiting, None)) is not None:
                child, end = _fork(plan, limit, run)
                running.register(end, selectors.EVENT_READ, child)
            if not running.get_map():
                return
            for key, _ in running.select():
                data = os.read(key.fd, 65_536)
                key.data.data += data
                if not data:
                    running.unregister(key.fd)
                    os.close(key.fd)
                    yield _outcome(key.data)
    finally:
        for key in list(running.get_map().values()):
            os.kill(key.data.pid, signal.SIGKILL)
            os.waitpid(key.data.pid, 0)
            os.close(key.fd)
        running.close()


def _fork(plan: P, limit: int, run: Callable[[P], Outcome]) -> tuple[_Child, int]:
    end, other = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(other)
        return _Child(plan, pid), end
    try:
        os.close(end)
        gc.disable()  # so that nothing is finalised at a moment that depends on how much memory is in use
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        started = time.process_time()
        outcome = run(plan)
        outcome.cpu = time.process_time() - started
        with os.fdopen(other, "wb") as pipe:
            pipe.write(_encoded(outcome))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _outcome(child: _Child) -> Outcome:
    os.waitpid(child.pid, 0)
    if not child.data:
        return Outcome(child.plan, problem=DIED)
    return _decoded(child.plan, bytes(child.data))


def _encoded(outcome: Outcome) -> bytes:
    return msgspec.json.encode({name: value for name, value in vars(outcome).items() if name != "plan"})


def _decoded(plan: Plan, data: bytes) -> Outcome:
    return Outcome(plan, **msgspec.json.decode(data))


def replay(plan: Plan, write: Callable[[str], None]) -> Outcome:
    """Run a plan in a process of its own, which writes what happens."""
    sys.stdout.flush()
    end, other = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            gc.disable()
            outcome = run(plan, write)
            sys.stdout.flush()
            with os.fdopen(other, "wb") as pipe:
                pipe.write(_encoded(outcome))
        finally:
            os._exit(0)
    os.close(other)
    with os.fdopen(end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return _decoded(plan, data)


def shrink(plan: Plan, *, jobs: int, tell: Callable[[str], None], most: int = SHRINK_RUNS) -> Plan:
    """Find a smaller plan that fails too, in at most *most* runs."""
    left = most

    def first_that_fails(candidates: list[Plan]) -> Plan | None:
        nonlocal left
        for start in range(0, len(candidates), jobs):
            some = candidates[start : start + min(jobs, left)]
            left -= len(some)
            failing = [outcome.plan for outcome in outcomes(some, jobs=jobs) if outcome.problem]
            if failing or not left:
                return min(failing, key=some.index, default=None)
        return None

    better: Plan | None = plan
    while better is not None:
        plan = better
        tell(f"{plan.size()} left: {plan}")
        better = first_that_fails(list(plan.smaller())) if left else None
    return plan
