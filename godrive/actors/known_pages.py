"""What is known of pages that were read lately: most of it will be in the next reading of the same page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K")

MOST_FILES = 4_096
"""Files of all pages together, and pages: some 4 MB."""


class KnownPages(Generic[K]):
    """What is known of each page.  The pages that were put in first go first."""

    def __init__(self, most: int = MOST_FILES) -> None:
        self._most = most
        self._pages: OrderedDict[Hashable, tuple[K, int]] = OrderedDict()
        self._count = 0

    def get(self, page: Hashable) -> K | None:
        """Return what is known of the page."""
        found = self._pages.get(page)
        return None if found is None else found[0]

    def put(self, page: Hashable, known: K, count: int) -> None:
        """Keep what is known of a page with *count* files.  A page counts as one more, because clients choose pages."""
        _, before = self._pages.pop(page, (None, 0))
        self._pages[page] = (known, count + 1)
        self._count += count + 1 - before
        while self._count > self._most:
            _, (_, dropped) = self._pages.popitem(last=False)
            self._count -= dropped
