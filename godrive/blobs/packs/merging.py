"""Merge two lists of blobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from godrive.model import BlobInfo


async def merged(
    one: AsyncGenerator[BlobInfo, None], other: AsyncGenerator[BlobInfo, None]
) -> AsyncGenerator[BlobInfo, None]:
    """The blobs of both lists in key order.  A key that both have comes once."""
    async with aclosing(one), aclosing(other):
        left, right = await anext(one, None), await anext(other, None)
        while left is not None and right is not None:
            if left.key <= right.key:
                yield left
                if left.key == right.key:
                    right = await anext(other, None)
                left = await anext(one, None)
            else:
                yield right
                right = await anext(other, None)
        while left is not None:
            yield left
            left = await anext(one, None)
        while right is not None:
            yield right
            right = await anext(other, None)
