"""Tells other processes of changes at once, so that those who wait there need not wait for the next look.

A notice has ids of owners.  It is only a hint: lost notices are made up for by
the look of :mod:`godrive.watch`, and one that is not true costs a read.  Notices
go through NATS if it is configured, else through the database if that can pass
them on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import anyio
import msgspec

from godrive.backoff import Backoff
from godrive.bridge.failures import Failures
from godrive.catalog import Channel
from godrive.errors import DriveError
from godrive.model import UserId, new_id
from godrive.runtime import OnEvent
from godrive.watch import ChangeWatch

CHILD = "notices"

DELAY = 0.005
"""Seconds for which notices gather, so that many changes cost few messages."""

AT_ONCE = 100
"""Owners in one message, of which PostgreSQL takes 8000 bytes."""

BACKOFF = Backoff(0.5, 10.0)


class _Notice(msgspec.Struct, array_like=True):
    """Changes of *owner_ids* were committed by the process *sender*."""

    sender: str
    owner_ids: list[UserId]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Notice).decode


class Notices:
    """The child that receives notices, and the way to send them."""

    def __init__(self, channel: Channel, watch: ChangeWatch, *, on_event: OnEvent) -> None:
        self._channel = channel
        self._watch = watch
        self._failures = Failures(CHILD, on_event, BACKOFF)
        self._sender = new_id()
        self._gathered: set[UserId] = set()
        self._flushing: asyncio.Task[None] | None = None

    def committed(self, owner_ids: Iterable[UserId]) -> None:
        """Wake those who wait here, and tell the other processes."""
        self._watch.notice(owner_ids)
        self.send(owner_ids)

    def send(self, owner_ids: Iterable[UserId]) -> None:
        """Tell the other processes, soon.  Never waits and never fails."""
        self._gathered.update(owner_ids)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        while self._gathered:
            await asyncio.sleep(DELAY)
            some = [self._gathered.pop() for _ in range(min(len(self._gathered), AT_ONCE))]
            with suppress(DriveError):  # the look of the other process finds the change
                await self._channel.tell(_encode(_Notice(self._sender, some)))

    async def run(self) -> None:
        """Receive notices forever, over each new connection."""
        while True:
            try:
                async with self._channel.listen(self._hear) as lost:
                    self._failures.clear()
                    await lost()
            except DriveError as error:
                await anyio.sleep(self._failures.note(error))

    def _hear(self, notice: bytes) -> None:
        with suppress(msgspec.DecodeError):  # not one of ours
            found = _decode(notice)
            if found.sender != self._sender:
                self._watch.notice(found.owner_ids)
