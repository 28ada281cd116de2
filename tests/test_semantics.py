"""``docs/semantics.md`` names the tests that hold its promises: they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "semantics.md"
NAMED = re.findall(r"^- `([\w/]+\.py)::(\w+)`$", DOCUMENT.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_holds_a_promise_exists(path: str, name: str) -> None:
    module = ast.parse((TESTS / path).read_text())
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_promise_names_a_test() -> None:
    promises = re.split(r"^\*\*", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    assert len(promises) > 20
    assert [promise.splitlines()[0] for promise in promises if "\n- `" not in promise] == []
