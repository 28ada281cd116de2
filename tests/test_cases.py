"""The fold itself: every case runs, and every one that fails is told."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MODULE = """
import pytest
from tests.cases import each

seen = []

@pytest.fixture
def ten():
    return 10

@each("number", [1, 2, 3, 4])
def test_sync(number, ten):
    seen.append(number)
    assert number % 2 or not ten

@pytest.mark.anyio
@each("word", ["a", "b"])
@each(("low", "high"), [(1, 2), (3, 2)])
async def test_async(ten, word, low, high):
    assert low < high

def test_all_ran():
    assert seen == [1, 2, 3, 4]
"""


@pytest.mark.slow
def test_every_case_runs_and_every_failure_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:asyncio", "-p", "no:cacheprovider", "-q")
    failed = [line.strip("_ ") for line in result.outlines if line.startswith("___") and "(" in line]
    assert failed[:2] == ["test_sync (number='2')", "test_sync (number='4')"]
    assert failed[2:] == ["test_async[asyncio] (low='3', high='2')"] * 2
    assert result.parseoutcomes()["failed"] == 6, "each subtest, and the two tests that contain them"
    assert result.parseoutcomes()["passed"] == 1


def test_no_cases_are_a_mistake() -> None:
    from tests.cases import each

    with pytest.raises(AssertionError):
        each("number", [])
