"""The query of a search, as conditions in SQL, and as a function that ranks a name."""

from __future__ import annotations

from datetime import datetime

from godrive.errors import Invalid
from godrive.messages.files import SearchFiles
from godrive.rules import file_types, lists, rows
from godrive.rules.names import WORD, begins_word, search_key

SHOWN = "entries.list_state <> 'hidden'"
"""SQL: whether an entry is in the lists."""

_LONGEST_TEXT = 1000
_MOST_TRIGRAMS = 16
_MOST_LIKES = 4


class Query:
    """What to find, as SQL and as Python."""

    def __init__(self, ask: SearchFiles) -> None:
        self.text = _text(ask.text)
        self.words = list(dict.fromkeys(self.text.split()))
        self.has_filters = False
        self.type = ask.type
        self._terms: list[str] = []
        self._values: list[object] = []
        likes = sorted((word for word in self.words if len(word) > 2), key=len, reverse=True)[:_MOST_LIKES]
        for word in likes:
            self._add("entries.search_key LIKE {} ESCAPE '!'", f"%{lists.literal(word)}%")
        if ask.type is not None:
            self.has_filters = True
            self._terms.append(file_types.condition(ask.type))
        for column, comparison, value in (
            ("size_bytes", ">=", ask.min_size),
            ("size_bytes", "<=", ask.max_size),
            ("modified_at", ">=", _micros(ask.modified_after, "modified_after")),
            ("modified_at", "<", _micros(ask.modified_before, "modified_before")),
        ):
            if value is not None:
                self.has_filters = True
                self._add(f"entries.{column} {comparison} {{}}", value)
        if not self.words and not self.has_filters:
            raise Invalid("Send a text to search for, or a filter.", field="text")

    def _add(self, term: str, value: object) -> None:
        self._terms.append(term)
        self._values.append(value)

    def where(self, *values: object) -> tuple[str, tuple[object, ...]]:
        """Return the condition on ``entries``, and *values* with those of the condition."""
        places = iter(range(len(values) + 1, 100))
        terms = [term.format(f"${next(places)}") if "{}" in term else term for term in self._terms]
        return " AND ".join([SHOWN, *terms]), (*values, *self._values)

    def trigrams(self) -> list[str]:
        """Return three characters in a row that a matching name has in the index: a few, spread over the text."""
        found: dict[str, None] = {}
        for word in self.words:
            padded = word if len(word) > 2 else (WORD * (3 - len(word)) + word)
            found.update(dict.fromkeys(padded[at : at + 3] for at in range(len(padded) - 2)))
        every = list(found)
        if len(every) <= _MOST_TRIGRAMS:
            return every
        return [every[at * (len(every) - 1) // (_MOST_TRIGRAMS - 1)] for at in range(_MOST_TRIGRAMS)]

    def rank(self, key: str) -> int | None:
        """Return 0 if the search key is the text, 1 if it begins with it, 2 if words do, else 3; ``None``: no match."""
        if key.startswith(self.text):
            return 0 if len(key) == len(self.text) or not self.text else 1
        rank = 2
        for word in self.words:
            at = key.find(word)
            if at < 0:
                return None
            while at >= 0 and not begins_word(key, at):
                at = key.find(word, at + 1)
            if at < 0:
                if len(word) < 3:
                    return None
                rank = 3
        return rank


def _micros(at: datetime | None, field: str) -> int | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise Invalid("The time must have an offset from UTC.", field=field)
    return rows.micros(rows.in_utc(at, field))


def _text(text: str | None) -> str:
    text = " ".join((text or "").split())
    if len(text) > _LONGEST_TEXT or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid("No name can match this text.", field="text")
    return " ".join(search_key(text).split())
