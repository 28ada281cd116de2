"""Statements over several rows, for SQLite, where running a statement takes as long as changing a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

_NUMBER = re.compile(r"\$(\d+)")


def over(sql: str, row: str, rows: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Return *sql* with ``{rows}`` replaced by *row* for each of *rows*, then the values.  Needs at least one row."""
    return _over(sql, row, len(rows), len(rows[0])), *chain.from_iterable(rows)


@cache
def _over(sql: str, row: str, count: int, width: int) -> str:
    return sql.format(rows=", ".join(_shifted(row, before) for before in range(0, count * width, width)))


def _shifted(row: str, by: int) -> str:
    return _NUMBER.sub(lambda found: f"${int(found[1]) + by}", row)


def inserting(sql: str) -> tuple[str, str]:
    """Return what :func:`over` needs to insert several rows as *sql*, ``INSERT ... SELECT $1, $2``, inserts one.

    The caller has made sure that nothing refuses a row.  So SQLite need not copy pages to undo a part of the rows, and
    if something does, the operation fails and is undone.
    """
    head, _, row = sql.replace("INSERT", "INSERT OR FAIL", 1).partition("SELECT ")
    return f"{head}VALUES {{rows}}", f"({row})"
