"""The order of the tests over the processes of pytest-xdist: each begins with its share of the slow ones.

With ``--dist worksteal`` a process that has nothing left takes tests from the end of another's, so what is left
for the end must be quick, or all but one wait for the last one.
"""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)  # after the shuffle, and after the marks have selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = [item for worker in range(workers) for kind in (slow, quick) for item in _share(kind, worker, workers)]


def _share(items: list[pytest.Item], worker: int, workers: int) -> list[pytest.Item]:
    """Neighbours stay together, because those of a module share its fixtures."""
    return items[len(items) * worker // workers : len(items) * (worker + 1) // workers]
