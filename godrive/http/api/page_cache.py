"""PageCache of lists that were sent before, for as long as they are still what would be sent.

People look at the same folder again and again, and clients ask all the time
whether anything is new.  To read a page of twenty files, build them and encode
them costs many times what it costs to see, by one number, that nothing has
changed.  The number is asked for anew by every request, so a page from here is
never out of date; the memory it takes is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

CAPACITY = 8 * 1_048_576
"""Bytes of pages, of all users together."""

LARGEST = 65_536
"""Bytes of the largest page that is kept."""

MOST = 4_096
"""Pages that are kept: the request for one may be larger than the page, and there are as many as people think of."""


class PageCache:
    """Encoded pages by request, each with the number of changes that it shows."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._size = 0
        self._pages: OrderedDict[Hashable, tuple[str, bytes]] = OrderedDict()

    def get(self, request: Hashable, tag: str) -> bytes | None:
        """The page, unless something has changed since."""
        found = self._pages.get(request)
        if found is None or found[0] != tag:
            return None
        self._pages.move_to_end(request)
        return found[1]

    def put(self, request: Hashable, tag: str, page: bytes) -> None:
        """Keep a page that was read after *tag* was, instead of those unused for longest."""
        _, old = self._pages.pop(request, ("", b""))
        self._size -= len(old)
        if len(page) > LARGEST:
            return
        self._pages[request] = (tag, page)
        self._size += len(page)
        while self._size > self._capacity or len(self._pages) > MOST:
            _, (_, dropped) = self._pages.popitem(last=False)
            self._size -= len(dropped)
