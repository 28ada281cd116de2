"""A cache of encoded pages of lists, valid until the list changes.

People open the same folder repeatedly, and clients poll for changes.  Reading
and encoding a page costs many times as much as comparing one tag.  Every
request reads the current tag, so a cached page is never out of date.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from godrive.model import ETag

CAPACITY = 8 * 1_048_576
"""Bytes of pages of all users together."""

LARGEST = 65_536
"""Bytes of the largest page that is kept."""

MOST = 4_096
"""Most pages that are kept: the key of a page may be larger than the page, and clients choose keys."""


class PageCache:
    """Encoded pages by request, each with the tag of the list that it shows."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._size = 0
        self._pages: OrderedDict[Hashable, tuple[ETag, bytes]] = OrderedDict()

    def get(self, request: Hashable) -> tuple[ETag, bytes] | None:
        """Return the last page that was kept, and its tag."""
        found = self._pages.get(request)
        if found is not None:
            self._pages.move_to_end(request)
        return found

    def put(self, request: Hashable, tag: ETag, page: bytes) -> None:
        """Keep a page that was read after *tag*.  The least recently used pages go first."""
        old = self._pages.pop(request, None)
        self._size -= len(old[1]) if old is not None else 0
        if len(page) > LARGEST:
            return
        self._pages[request] = (tag, page)
        self._size += len(page)
        while self._size > self._capacity or len(self._pages) > MOST:
            _, (_, dropped) = self._pages.popitem(last=False)
            self._size -= len(dropped)
