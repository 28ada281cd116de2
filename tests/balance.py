"""How the processes of pytest-xdist divide the work: each begins with its share of the slow tests.

With ``--dist worksteal`` a process that has nothing left takes tests from the end of another's, so what is left
for the end must be quick, or all but one wait for the last one.

In a fresh clone each begins by compiling its share of the modules.  All import
all of them, and in the same order, so that otherwise each would compile them all.
"""

from __future__ import annotations

import compileall
import importlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

_TESTS = Path(__file__).resolve().parent


def pytest_collection(session: pytest.Session) -> None:
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers or session.config.args != [_TESTS.name]:
        return
    number = int(worker.removeprefix("gw"))
    for path in _share(sorted((_TESTS.parent / "godrive").rglob("*.py")), number, workers):
        compileall.compile_file(path, quiet=2)
    for path in _share(sorted(_TESTS.rglob("test_*.py")), number, workers):
        if not session.config.hook.pytest_ignore_collect(collection_path=path, config=session.config):
            with suppress(Exception):  # collection, which imports it again, reports it
                importlib.import_module(".".join(path.relative_to(_TESTS.parent).with_suffix("").parts))


@pytest.hookimpl(trylast=True)  # after the shuffle, and after the marks have selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = [item for worker in range(workers) for kind in (slow, quick) for item in _share(kind, worker, workers)]


def _share(items: list[T], worker: int, workers: int) -> list[T]:
    """Neighbours stay together, because those of a module share its fixtures."""
    return items[len(items) * worker // workers : len(items) * (worker + 1) // workers]
