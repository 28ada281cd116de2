"""The blobs of a store in pages: their sizes, or only their keys.

To compare millions of keys one by one takes longer than to read them, so a caller
compares whole pages.  A page of sizes is a dict, and two streams of them are read
side by side.  A page of keys says how far it reaches, so a caller asks a database
for what that has in the same range.  It is one text, because a database gives such
a text faster than a row for each key, and two texts are compared much faster than two sets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from godrive.blobs import BlobStore
from godrive.blobs.key_ranges import keys_in
from godrive.model import ObjectKey

Page: TypeAlias = dict[ObjectKey, int]
"""The sizes in bytes of blobs that are next to each other in key order, by key."""

GONE = -1
"""What a page has instead of a size if the store knows of a blob and has nothing left of it."""

AT_ONCE = 5000

END = "~"
"""Greater than every key."""


class KeyPage(NamedTuple):
    """All keys up to *upto* that are greater than the *upto* of the page before, in order, with a space between."""

    upto: str
    text: str

    @property
    def keys(self) -> list[str]:
        """The keys."""
        return keys_in(self.text)


@runtime_checkable
class SizePages(Protocol):
    """A store that lists the sizes of its blobs much faster than it describes them."""

    def size_pages(self) -> AsyncGenerator[Page, None]:
        """All blobs in key order.  One that is moved meanwhile may be left out."""
        ...


@runtime_checkable
class KeyPages(Protocol):
    """A store that lists the keys of its blobs much faster than it describes them."""

    def key_pages(self) -> AsyncGenerator[KeyPage, None]:
        """All keys; the last page reaches to :data:`END`.  A blob that is moved meanwhile may be left out."""
        ...


def size_pages(store: BlobStore) -> AsyncGenerator[Page, None]:
    """Return the sizes of all blobs of the store, as :meth:`SizePages.size_pages` does."""
    return store.size_pages() if isinstance(store, SizePages) else _listed_sizes(store)


def key_pages(store: BlobStore) -> AsyncGenerator[KeyPage, None]:
    """Return the keys of all blobs of the store, as :meth:`KeyPages.key_pages` does."""
    return store.key_pages() if isinstance(store, KeyPages) else _listed_keys(store)


async def _listed_sizes(store: BlobStore) -> AsyncGenerator[Page, None]:
    page = {}
    async for blob in store.list():
        page[blob.key] = blob.size_bytes
        if len(page) == AT_ONCE:
            yield page
            page = {}
    yield page


async def _listed_keys(store: BlobStore) -> AsyncGenerator[KeyPage, None]:
    keys: list[str] = []
    async for blob in store.list():
        keys.append(blob.key)
        if len(keys) == AT_ONCE:
            yield KeyPage(blob.key, " ".join(keys))
            keys = []
    yield KeyPage(END, " ".join(keys))


async def aligned(
    left: AsyncGenerator[Page, None], right: AsyncGenerator[Page, None]
) -> AsyncIterator[tuple[Page, Page]]:
    """Yield from two streams, each in key order, what they have in the same range of keys, one range after another."""
    async with aclosing(left), aclosing(right):
        one, other = await _next(left), await _next(right)
        while one is not None and other is not None:
            upto = min(next(reversed(one)), next(reversed(other)))
            mine, one = _split(one, upto)
            theirs, other = _split(other, upto)
            yield mine, theirs
            one = one or await _next(left)
            other = other or await _next(right)
        while one is not None:
            yield one, {}
            one = await _next(left)
        while other is not None:
            yield {}, other
            other = await _next(right)


async def _next(pages: AsyncGenerator[Page, None]) -> Page | None:
    """Return the next page that is not empty."""
    async for page in pages:
        if page:
            return page
    return None


def _split(page: Page, upto: ObjectKey) -> tuple[Page, Page]:
    """Return what is in the page up to the key, and the rest."""
    if next(reversed(page)) <= upto:
        return page, {}
    items = iter(page.items())
    first = dict(islice(items, bisect_right(list(page), upto)))
    return first, dict(items)
