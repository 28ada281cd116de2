"""How the processes of pytest-xdist divide the work: each begins with its share of the slow tests.

With ``--dist worksteal`` a process that has nothing left takes tests from the end of another's, so what is left
for the end must be quick, or all but one wait for the last one.

In a fresh clone each begins by compiling its share of the modules.  All import
all of them, and in the same order, so that otherwise each would compile them all.
Likewise one of them makes the tables of Hypothesis while the others run slow tests.
"""

from __future__ import annotations

import compileall
import importlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

T = TypeVar("T")

_SHARING = "clients"
"""A folder whose modules share a browser, a server and proxies: they stay in one process."""

_KEEPING = "rules"
"""A folder whose modules share connections to PostgreSQL while they follow each other.  They are quick."""

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and session.config.args == [_TESTS.name]:
        _draw()


@settings(max_examples=20, database=None)
@given(st.integers(), st.text(st.characters(codec="utf-8")))
def _draw(_number: int, _text: str) -> None:
    """Have Hypothesis keep in ``.hypothesis`` the constants of our modules and the characters of UTF-8."""


@pytest.hookimpl(trylast=True)  # after the shuffle, and after the marks have selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if not workers:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    slow.sort(key=lambda item: item.path.parent.name != _SHARING)
    quick = [item for item in items if not item.get_closest_marker("slow")]
    quick.sort(key=lambda item: item.path.parent.name == _KEEPING)
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        ordered += slow[_cut(slow, worker, workers) : _cut(slow, worker + 1, workers)]
        room = max(0, len(items) * (worker + 1) // workers - len(ordered))  # pytest-xdist gives each as many
        ordered += quick[:room]
        del quick[:room]
    items[:] = ordered


def _cut(items: list[pytest.Item], worker: int, workers: int) -> int:
    """Where the share of a process begins: with a module, because the tests of one share fixtures."""
    cut = len(items) * worker // workers
    while 0 < cut < len(items) and items[cut].path == items[cut - 1].path:
        cut += 1
    return cut


def _share(items: list[T], worker: int, workers: int) -> list[T]:
    return items[len(items) * worker // workers : len(items) * (worker + 1) // workers]
