"""The kinds of worlds, and how a run of one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from godrive.simulation.account import Violation
from godrive.simulation.seams import installed
from godrive.simulation.world import DISK, Outcome, Plan, World
from godrive.testing import quick_folder


def _clients() -> type[World]:
    from godrive.simulation.clients_world import ClientsWorld  # noqa: PLC0415 - needs an HTTP client

    return ClientsWorld


def _s3() -> type[World]:
    from godrive.simulation.s3_world import S3World  # noqa: PLC0415 - needs the S3 driver

    return S3World


def _processes() -> type[World]:
    from godrive.simulation.processes_world import ProcessesWorld  # noqa: PLC0415 - needs the S3 driver and nats-py

    return ProcessesWorld


WORLDS: Mapping[str, Callable[[], type[World]]] = {
    DISK: lambda: World,
    "clients": _clients,
    "s3": _s3,
    "processes": _processes,
}
"""By the names that ``scripts/simulate --world`` takes."""


def run(plan: Plan, write: Callable[[str], None] | None = None) -> Outcome:
    """Run a plan in this process.  What it leaves in memory is never cleaned up, so run it in a process of its own."""
    outcome = Outcome(plan)
    with quick_folder() as folder:
        world = WORLDS[plan.world]()(plan, Path(folder), write)
        log = world.note_log if write else None
        with installed(world.loop, world.chance("entropy"), log, also=world.replaced()):
            try:
                world.loop.run_until_complete(world.run())
            except Violation as violation:
                outcome.problem = str(violation)
            except Exception as error:
                outcome.problem = f"the simulation failed: {type(error).__name__}: {error}"
        if not outcome.problem and world.loop.unhandled:
            outcome.problem = f"unhandled: {world.loop.unhandled[0]}"
        outcome.digest = f"{world.trace.digest:08x}{world.loop.digest & 0xFFFFFFFFFFFFFFFF:016x}"
        outcome.operations = sum(user.done for user in world.users)
        outcome.faults = world.faults_done
        outcome.seconds = world.loop.time()
    return outcome
