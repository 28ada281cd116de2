"""The type checker holds message, actor, handler and reply together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
REPORT = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: (?P<says>.*)  \[(?P<code>[a-z-]+)\]$", re.MULTILINE)
MARK = re.compile(r"# E: (?P<code>[a-z-]+) \"(?P<says>.*)\"$")


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[int, list[tuple[str, str]]]]:
    """What mypy says about each of the two files: code and text by line."""
    names = ("usage.py", "misuse.py")
    config = HERE.parent.parent / "pyproject.toml"
    out, problems, _ = api.run(["--strict", "--config-file", str(config), *(str(HERE / name) for name in names)])
    assert not problems, problems
    found: dict[str, dict[int, list[tuple[str, str]]]] = {name: {} for name in names}
    for report in REPORT.finditer(out):
        by_line = found.setdefault(Path(report["path"]).name, {})
        by_line.setdefault(int(report["line"]), []).append((report["code"], report["says"]))
    return found


@pytest.mark.slow
def test_good_usage_passes(errors: dict[str, dict[int, list[tuple[str, str]]]]) -> None:
    assert errors.pop("usage.py") == {}
    assert set(errors) == {"misuse.py"}, "the errors are in the library itself"


@pytest.mark.slow
def test_each_misuse_fails_for_the_reason_it_should(errors: dict[str, dict[int, list[tuple[str, str]]]]) -> None:
    marks = {
        number: mark
        for number, line in enumerate((HERE / "misuse.py").read_text().splitlines(), 1)
        if (mark := MARK.search(line))
    }
    found = errors["misuse.py"]
    assert len(marks) > 15
    assert sorted(found) == sorted(marks)
    for number, mark in marks.items():
        assert [code for code, _ in found[number]] == [mark["code"]], number
        assert mark["says"] in found[number][0][1], number
