"""The whole drive in a simulator: real actors, rules, stores and HTTP on a virtual clock, with faults, from a seed.

``python -m godrive.simulation --seeds 100`` runs it; docs/simulation.md explains it.
"""

from godrive.simulation.account import Violation
from godrive.simulation.loop import PROCESS, Killed, Process, SimulatedLoop, Stuck, within
from godrive.simulation.user import User
from godrive.simulation.world import Outcome, Plan, World
from godrive.simulation.worlds import WORLDS, run

__all__ = [
    "PROCESS",
    "WORLDS",
    "Killed",
    "Outcome",
    "Plan",
    "Process",
    "SimulatedLoop",
    "Stuck",
    "User",
    "Violation",
    "World",
    "run",
    "within",
]
