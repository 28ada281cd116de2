"""Who appends to an upload in this process: one at a time, and the latest one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from godrive.errors import StoreUnavailable
from godrive.model import UploadId

PATIENCE = 1.8
"""Seconds that a new append waits for the one before it to end."""
FORBEARANCE = 1.0
"""Seconds that an append has to end by itself once another one wants the upload."""

_KEPT_CLAIMS = 10_000


class AppendTurn:
    """The turn of one append.  It is *wanted* by another once :meth:`give_way` was called."""

    def __init__(self) -> None:
        self.wanted = False
        self._on_wanted: Callable[[], None] | None = None

    def when_wanted(self, call: Callable[[], None]) -> None:
        """Call *call* when another append wants the turn; at once if one does already."""
        self._on_wanted = call
        if self.wanted:
            call()

    def give_way(self) -> None:
        """Let another append have the turn.  Idempotent."""
        if not self.wanted:
            self.wanted = True
            if self._on_wanted is not None:
                self._on_wanted()


class _Upload:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.turns: list[AppendTurn] = []


class AppendTurns:
    """The turns of all uploads."""

    def __init__(self) -> None:
        self._uploads: dict[UploadId, _Upload] = {}
        self._claims: OrderedDict[UploadId, str] = OrderedDict()

    def is_taken(self, upload_id: UploadId) -> bool:
        """Whether an append has, or waits for, the turn of the upload."""
        return upload_id in self._uploads

    def keep_claim(self, upload_id: UploadId, writer: str) -> None:
        """Keep the claim of *writer* on the upload, which moves its offset no more, for the next append."""
        self._claims[upload_id] = writer
        if len(self._claims) > _KEPT_CLAIMS:
            self._claims.popitem(last=False)

    def take_claim(self, upload_id: UploadId) -> str:
        """Return the writer whose claim was kept, for whom takes the turn; empty if there is none."""
        return self._claims.pop(upload_id, "")

    @asynccontextmanager
    async def take(self, upload_id: UploadId) -> AsyncIterator[AppendTurn]:
        """Have the turn of the upload.  The request that has it, and those that wait for it, are told to give way.

        Raises ``StoreUnavailable`` if the append before does not end, because the store does not answer.
        """
        upload = self._uploads.setdefault(upload_id, _Upload())
        for other in upload.turns:
            other.give_way()
        turn = AppendTurn()
        upload.turns.append(turn)
        try:
            await _acquire(upload.lock, alone=len(upload.turns) == 1)
            try:
                yield turn
            finally:
                upload.lock.release()
        finally:
            upload.turns.remove(turn)
            if not upload.turns:
                del self._uploads[upload_id]


async def _acquire(lock: asyncio.Lock, *, alone: bool) -> None:
    if alone:  # no timer then; a lock that is not locked may have been promised to another that waits
        await lock.acquire()
        return
    try:
        async with asyncio.timeout(PATIENCE):
            await lock.acquire()
    except TimeoutError:
        raise StoreUnavailable("The bytes of an earlier request are still being stored.") from None
