"""``python -m godrive.simulation``: see docs/simulation.md."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from godrive.simulation import runner
from godrive.simulation.world import DISK, Outcome, Plan
from godrive.simulation.worlds import WORLDS

_FEW = 20
"""Seeds for which it does not pay to prepare more."""


def main() -> int:
    """Run the command line; the exit code is 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Simulate whole drives, each from a seed.")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many seeds to run (100)")
    parser.add_argument("--from", type=int, default=1, metavar="S", dest="first", help="the first seed (1)")
    parser.add_argument(
        "--world", default=DISK, choices=[*WORLDS, "any"], help="what is simulated; any: the seed decides (disk)"
    )
    parser.add_argument(
        "--favour",
        default="",
        metavar="NAMES",
        help="what happens much more often, as: put+kill (names of actions and faults)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (all processors)")
    parser.add_argument("--replay", metavar="PLAN", help="run one seed, or what shrinking left of it, and trace it")
    parser.add_argument("--shrink", metavar="PLAN", help="find a shorter run that fails too")
    parser.add_argument(
        "--runs", type=int, default=runner.SHRINK_RUNS, metavar="N", help="how often shrinking runs it (%(default)s)"
    )
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--digests", action="store_true", help="print the digest of every run")
    options = parser.parse_args()
    replayed = Plan.parse(options.replay or options.shrink or "0")
    worlds = WORLDS if options.world == "any" else dict.fromkeys((options.world, replayed.world))
    runner.prepare(worlds, for_many=not options.replay and options.seeds > _FEW)
    if options.replay:
        outcome = runner.replay(replayed, print)
        print(f"\n{_summary(outcome)}\n{outcome.problem or 'nothing was wrong'}")
        return bool(outcome.problem)
    if options.shrink:
        plan = runner.shrink(replayed, jobs=options.jobs, tell=print, most=options.runs)
        print(f"scripts/simulate --replay {plan}")
        return 0
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    seeds = range(options.first, options.first + options.seeds)
    favour = frozenset(filter(None, options.favour.split("+")))
    plans = [Plan(seed, world=_world(options.world, seed), favour=favour) for seed in seeds]
    started, done, failed, cpu, shown = time.monotonic(), 0, 0, 0.0, 0.0
    results = runner.outcomes(plans, jobs=options.jobs)
    for outcome in results:
        done += 1
        cpu += outcome.cpu
        if options.digests:
            print(f"{outcome.plan} {outcome.digest}")
        if outcome.problem:
            failed += 1
            print(f"seed {outcome.plan} fails: {outcome.problem.splitlines()[0][:400]}")
            if options.stop:
                break
        if sys.stderr.isatty() and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            print(f"\r{done} of {len(plans)} seeds, {failed} failed", end="", file=sys.stderr)
    results.close()
    seconds = time.monotonic() - started
    print(f"{done} seeds, {failed} failed, {cpu / max(1, done):.3f} s of CPU each, {seconds:.1f} s in all")
    return bool(failed)


def _world(name: str, seed: int) -> str:
    return random.Random(seed).choice(list(WORLDS)) if name == "any" else name


def _summary(outcome: Outcome) -> str:
    return (
        f"{outcome.operations} operations and {outcome.faults} faults in {outcome.seconds:.0f} virtual seconds, "
        f"digest {outcome.digest}"
    )


if __name__ == "__main__":
    sys.exit(main())
