"""``docs/semantics.md`` names the tests that hold its promises: they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "semantics.md"
NAMED = re.findall(r"^- `([\w/]+\.py)::(\w+)`$", DOCUMENT.read_text(), re.MULTILINE)


@cache
def named_in(path: str) -> set[str]:
    module = ast.parse((TESTS / path).read_text())
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_tests_that_hold_promises_exist() -> None:
    missing = [f"{path}::{name}" for path, name in NAMED if not (TESTS / path).exists() or name not in named_in(path)]
    assert missing == []


def test_every_promise_names_a_test() -> None:
    promises = re.split(r"^\*\*", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    assert len(promises) > 20
    assert [promise.splitlines()[0] for promise in promises if "\n- `" not in promise] == []
