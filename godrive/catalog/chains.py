"""Statements of which each uses the row that one before it has returned.

PostgreSQL runs them as one statement, in one round trip: each is a common table
expression with the name of its step.  SQLite cannot change data in one.  There
they run one after another, and a row that was returned is a common table
expression of constants.  So a rule is written once::

    await chain(
        tx,
        Step("charged", "UPDATE users SET changes = changes + 1 WHERE id = $1 RETURNING changes", (owner_id,)),
        Step("logged", "INSERT INTO changes (...) SELECT charged.changes FROM charged RETURNING change", ()),
    )

Only the first step may find nothing.  All others must depend on it: what a step
finds is what was there before the chain, and a step that changed something is
not undone because a later one did not.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from godrive.catalog import Row, Tx

_NUMBER = re.compile(r"\$(\d+)")
_RETURNING = re.compile(r"RETURNING ([a-z0-9_, ]+)$")


class Step(NamedTuple):
    """A statement with its values, and a name for the row that it returns.

    It ends in ``RETURNING`` and columns.
    """

    name: str
    sql: str
    values: tuple[Any, ...]


async def chain(tx: Tx, *steps: Step, final: str | None = None) -> Row | None:
    """Run the steps.  Returns the row of the last one, or ``None`` if the first has found nothing.

    With *final*, which that row must begin with, it is the last statement of the
    operation that changes anything, if it returns a row (see ``Tx.final``).
    """
    if tx.joins:
        sql = _joined(tuple((step.name, step.sql, len(step.values)) for step in steps))
        values = [value for step in steps for value in step.values]
        return await (tx.one(sql, *values) if final is None else tx.final(final, sql, *values))
    found: dict[str, Row] = {}
    row: Row | None = None
    for step in steps:
        sql, used = _alone(step.sql, tuple((earlier.name, earlier.sql) for earlier in steps[: len(found)]))
        row = await tx.one(sql, *step.values, *(value for name in used for value in found[name]))
        if row is None:
            return None
        found[step.name] = row
    return row


@cache
def _joined(steps: tuple[tuple[str, str, int], ...]) -> str:
    """One statement for all.  The values of each step follow those of the one before it."""
    parts, before = [], 0
    for name, sql, count in steps:
        parts.append((name, _shifted(sql, before)))
        before += count
    earlier = ", ".join(f"{name} AS ({sql})" for name, sql in parts[:-1])
    return f"WITH {earlier} {parts[-1][1]}" if earlier else parts[-1][1]


@cache
def _alone(sql: str, earlier: tuple[tuple[str, str], ...]) -> tuple[str, list[str]]:
    """The statement after *earlier* ones, and the names of those whose rows follow its values."""
    number = max((int(found) for found in _NUMBER.findall(sql)), default=0)
    tables, used = [], []
    for name, text in earlier:
        if not re.search(rf"\b{name}\b", sql):
            continue
        returned = _RETURNING.search(text)
        assert returned is not None, text  # noqa: S101 - a step says what it returns
        columns = returned[1].split(", ")
        places = ", ".join(f"${number + place}" for place in range(1, len(columns) + 1))
        tables.append(f"{name} ({', '.join(columns)}) AS (VALUES ({places}))")
        used.append(name)
        number += len(columns)
    return (f"WITH {', '.join(tables)} {sql}" if tables else sql), used


def _shifted(sql: str, by: int) -> str:
    return _NUMBER.sub(lambda found: f"${int(found[1]) + by}", sql)
