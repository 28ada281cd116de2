"""Remember pages that were read recently: the next read of the same page has most of their files again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K")

MOST_FILES = 4_096
"""Files of all pages together, and pages: some 4 MB."""


class KnownPages(Generic[K]):
    """The files of pages.  When it is full, the oldest page goes first."""

    def __init__(self, most: int = MOST_FILES) -> None:
        self._most = most
        self._pages: OrderedDict[Hashable, tuple[K, int]] = OrderedDict()
        self._count = 0

    def get(self, page: Hashable) -> K | None:
        """Return the files of the page as they were read last."""
        found = self._pages.get(page)
        return None if found is None else found[0]

    def put(self, page: Hashable, known: K, count: int) -> None:
        """Keep a page with *count* files.  A page counts as one more, because clients choose pages."""
        _, before = self._pages.pop(page, (None, 0))
        self._pages[page] = (known, count + 1)
        self._count += count + 1 - before
        while self._count > self._most:
            _, (_, dropped) = self._pages.popitem(last=False)
            self._count -= dropped
