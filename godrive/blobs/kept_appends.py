"""Appends that stay open for a moment after a body, because the next one mostly follows at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress

from godrive.blobs.running_digests import RunningDigests
from godrive.blobs.staged_append import FEW, StagedAppend
from godrive.model import ObjectKey

_KEPT_FOR = 5.0
"""Seconds."""


class KeptAppends:
    """At most :data:`~godrive.blobs.staged_append.FEW` appends that are open and wait for a body.

    One is closed after some seconds, when there are too many, and when its bytes
    are wanted otherwise.  Then its digest goes to *digests*.
    """

    def __init__(self, digests: RunningDigests) -> None:
        self._digests = digests
        self._kept: OrderedDict[ObjectKey, tuple[StagedAppend, asyncio.TimerHandle]] = OrderedDict()
        self._closing: dict[ObjectKey, asyncio.Task[None]] = {}

    def keep(self, key: ObjectKey, append: StagedAppend) -> None:
        """Keep an append, of which all is durable."""
        timer = asyncio.get_running_loop().call_later(_KEPT_FOR, self._close, key)
        self._kept[key] = append, timer
        if len(self._kept) > FEW:
            self._close(next(iter(self._kept)))

    async def take(self, key: ObjectKey, offset: int | None = None) -> StagedAppend | None:
        """Take out the append of *key* if it has *offset* bytes.  Any other one is closed when this returns."""
        if key in self._kept and self._kept[key][0].offset == offset:
            append, timer = self._kept.pop(key)
            timer.cancel()
            return append
        self._close(key)
        if key in self._closing:
            await asyncio.wait([self._closing[key]])
        return None

    async def close(self) -> None:
        """Close all."""
        for key in list(self._kept):
            self._close(key)
        while self._closing:
            await asyncio.wait(list(self._closing.values()))

    def _close(self, key: ObjectKey) -> None:
        """Begin to close the append of *key*, if it is kept."""
        if key in self._kept:
            append, timer = self._kept.pop(key)
            timer.cancel()
            self._closing[key] = closing = asyncio.create_task(self._close_and_note(key, append))
            closing.add_done_callback(lambda _: self._closing.pop(key, None))

    async def _close_and_note(self, key: ObjectKey, append: StagedAppend) -> None:
        with suppress(OSError):  # all of it is durable
            await append.close()
        self._digests.keep(key, append.offset, append.staged.running)
