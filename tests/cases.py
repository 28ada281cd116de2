"""Many cases in one test, where a case takes a millisecond and its fixtures are what costs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Test = Callable[..., Any]

ON_POSTGRES = pytest.mark.parametrize("catalog", [pytest.param("postgres", marks=pytest.mark.servers)], indirect=True)
"""For tests of what only PostgreSQL does, with the fixtures of ``tests/engines.py``."""


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Test], Test]:
    """Like ``pytest.mark.parametrize``, but in one test, which runs all cases and reports each that fails.

    The cases share the fixtures, so it is for cases that leave these as they found them.
    """
    named = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else names
    rows = [dict(zip(named, (case,) if len(named) == 1 else case, strict=True)) for case in cases]
    assert rows, "a test without cases tests nothing"

    def fold(test: Test) -> Test:
        signature = inspect.signature(test)
        own = "subtests" in signature.parameters  # an inner fold has it already

        def case(row: dict[str, Any], fixtures: dict[str, Any]) -> tuple[AbstractContextManager[None], dict[str, Any]]:
            subtests: pytest.Subtests = fixtures["subtests"]
            passed = fixtures if own else {name: value for name, value in fixtures.items() if name != "subtests"}
            return subtests.test(**{name: _short(value) for name, value in row.items()}), passed

        def folded(**fixtures: Any) -> None:
            for row in rows:
                reported, passed = case(row, fixtures)
                with reported:
                    test(**passed, **row)

        async def folded_async(**fixtures: Any) -> None:
            for row in rows:
                reported, passed = case(row, fixtures)
                with reported:
                    await test(**passed, **row)

        result: Test = functools.wraps(test)(folded_async if inspect.iscoroutinefunction(test) else folded)
        asked = [parameter for name, parameter in signature.parameters.items() if name not in named]
        if not own:
            asked.append(inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY))
        result.__signature__ = signature.replace(parameters=asked)  # type: ignore[attr-defined]
        return result

    return fold


def _short(value: object) -> str:
    text = value.name if isinstance(value, Path) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
