"""How objects are joined: ranges that the store copies, and those that are too short for a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """The bytes of the object *place* from *start* to before *end*."""

    place: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.end - self.start


def pieced(objects: Sequence[tuple[str, int]], *, smallest: int, largest: int) -> Iterator[list[Span]]:
    """Cut *objects* (keys and sizes), one after another, into parts.

    Every part but the last one has at least *smallest* bytes.  A part is one
    range of at most *largest* bytes, which is at least twice *smallest*, or
    consists of several ranges, with *smallest* bytes together.
    """
    short: list[Span] = []
    for place, size in objects:
        start = 0
        missing = smallest - sum(span.size for span in short)
        if short:
            start = min(missing, size)
            short.append(Span(place, 0, start))
            if start < missing:
                continue
            yield short
            short = []
        while size - start >= smallest:
            end = min(start + largest, size)
            if 0 < size - end < smallest:
                end = size - smallest
            yield [Span(place, start, end)]
            start = end
        if start < size:
            short = [Span(place, start, size)]
    if short:
        yield short
