"""Statements of which each uses the row that one before it has changed.

PostgreSQL runs them as one statement, in one round trip: each is a common table
expression with the name of its step, and ends in ``RETURNING``.  SQLite cannot
change data in one.  There they run one after another, without ``RETURNING``,
which costs as much as a small update (3 to 5 microseconds).  A step is not run
unless those before it have changed a row, so ``FROM`` such a step is left out;
if columns of it are used, the row is read again.  So a rule is written once::

    await chain(
        tx,
        Step("charged", "UPDATE users SET changes = changes + 1 WHERE id = $1", (owner_id,), "changes",
             again="users WHERE id = $1"),
        Step("logged", "INSERT INTO changes (...) SELECT charged.changes FROM charged", (), "change"),
    )

Only the first step may find nothing.  All others must depend on it: what a step
finds is what was there before the chain, and a step that changed something is
not undone because a later one did not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from godrive.catalog import Final, Tx

_NUMBER = re.compile(r"\$(\d+)")
_VERB = re.compile("^(INSERT|UPDATE)")

_JOINED: dict[tuple[str, ...], str] = {}
_APART: dict[tuple[str, ...], list[tuple[str, list[int]]]] = {}
"""What chains have become, by the texts of their steps: those are constants, so they tell the rest of a step."""


class ChainStep(msgspec.Struct, frozen=True, gc=False):
    """A statement that changes one row, with its values, and a name for that row.

    *returning* are the columns that later steps may use.  If one does, *again*
    is where they are: a table, and a condition with the first value of the step.
    """

    name: str
    sql: str
    values: tuple[Any, ...]
    returning: str
    again: str = ""


async def chain(tx: Tx, *steps: ChainStep, final: Final | None = None) -> bool:
    """Run the steps.  Returns whether the first one has found a row.

    With *final*, whose key the columns of the last step must begin with, it is the last statement of the
    operation that changes anything, if it finds a row (see ``Tx.final``).
    """
    key = tuple([step.sql for step in steps])
    if tx.joins:
        sql = _JOINED.get(key) or _JOINED.setdefault(key, _joined(steps))
        values = [value for step in steps for value in step.values]
        return await (tx.one(sql, *values) if final is None else tx.final(final, sql, *values)) is not None
    statements = _APART.get(key) or _APART.setdefault(key, _apart(steps))
    for step, (sql, used) in zip(steps, statements, strict=True):
        own = step.values
        if used:
            own = (*own, *[steps[number].values[0] for number in used])
        if not await tx.run(sql, *own):
            return False
    return True


def _joined(steps: Sequence[ChainStep]) -> str:
    """One statement for all.  The values of each step follow those of the one before it."""
    parts, before = [], 0
    for step in steps:
        parts.append((step.name, f"{_shifted(step.sql, before)} RETURNING {step.returning}"))
        before += len(step.values)
    earlier = ", ".join(f"{name} AS ({sql})" for name, sql in parts[:-1])
    return f"WITH {earlier} {parts[-1][1]}" if earlier else parts[-1][1]


def _apart(steps: Sequence[ChainStep]) -> list[tuple[str, list[int]]]:
    """A statement for each step, and the numbers of the steps whose first values follow its own.

    A step changes one row, and whatever refuses it does so before that.  ``OR FAIL`` tells SQLite, which would
    otherwise copy each page, to undo what a statement has done before it failed.
    """
    return [_alone(_VERB.sub(r"\g<0> OR FAIL", step.sql), steps[:number]) for number, step in enumerate(steps)]


def _alone(sql: str, earlier: Sequence[ChainStep]) -> tuple[str, list[int]]:
    last = max((int(found) for found in _NUMBER.findall(sql)), default=0)
    used: list[int] = []
    for number, step in enumerate(earlier):
        source = ""
        if f"{step.name}." in sql:
            assert step.again, step.name  # noqa: S101 - a step whose columns are used says where they are
            used.append(number)
            source = (
                f" FROM (SELECT {step.returning} FROM {step.again.replace('$1', f'${last + len(used)}')}) {step.name}"
            )
        sql = re.sub(rf" FROM {step.name}\b", source, sql)
    return sql, used


def _shifted(sql: str, by: int) -> str:
    return _NUMBER.sub(lambda found: f"${int(found[1]) + by}", sql)
