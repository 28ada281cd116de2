"""The keys in a range of a table of SQLite, as one text: a row for each takes three times as long."""

from __future__ import annotations

import sqlite3

_LAST = "SELECT {key} FROM {table} WHERE {key} > ? AND {key} <= ? ORDER BY {key} LIMIT 1 OFFSET ?"
_KEYS = "SELECT group_concat({key}, ' ') FROM {table} WHERE {key} > ? AND {key} <= ?"


class KeyRanges:
    """Reads the column *key* of *table*, which has an index that begins with it.  No key has a space."""

    def __init__(self, table: str, key: str) -> None:
        self._last = _LAST.format(table=table, key=key)
        self._keys = _KEYS.format(table=table, key=key)

    def read(self, connection: sqlite3.Connection, after: str, upto: str, rows: int) -> tuple[str, str]:
        """Return how far the next *rows* after *after* and up to *upto* reach, and their keys, with a space between.

        They reach to *upto* once there are no more.  All rows of the last key are among them, so they may be more.
        """
        last = connection.execute(self._last, (after, upto, rows - 1)).fetchone()
        upto = upto if last is None else last[0]
        (keys,) = connection.execute(self._keys, (after, upto)).fetchone()
        return upto, keys or ""


def keys_in(text: str) -> list[str]:
    """Return the keys in the text."""
    return text.split(" ") if text else []
