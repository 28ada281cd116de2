"""Small bodies become files in groups: first their bytes are durable together, then their rows.

An ask, a turn of a thread and a sync each cost more than a small body itself.
So bodies that come while others are being stored share them, as they share the
groups of the packs and the commits of the catalog below.  The rows of one group
are written beside the bytes of the next, once that is as large: the larger a
group, the less each of its files costs.  For the same reason a group waits a
moment for clients that are likely to come (:mod:`godrive.gathering`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from godrive.blobs import Packing, SmallBlob
from godrive.errors import AskTimeout, DriveError
from godrive.gathering import Gathering
from godrive.messages.metadata import Metadata
from godrive.messages.uploads import MakeFiles, PublishUpload, StoreFile
from godrive.model import BlobInfo, File
from godrive.runtime import Ref

MOST = 64
"""The most bodies of a group: the messages for so many fit into one that goes to another process."""

Command = StoreFile | PublishUpload


class _Body:
    """A body on its way.  *ended* is set if its caller was cancelled meanwhile, and waits for the end of its group."""

    __slots__ = ("blob", "command", "command_for", "ended", "is_settled", "reply")

    def __init__(self, blob: SmallBlob, command_for: Callable[[BlobInfo], Command]) -> None:
        self.blob = blob
        self.command_for = command_for
        self.reply: asyncio.Future[File | None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] | None = None
        self.is_settled = False

    def settle(self, file: File | None, error: BaseException | None = None) -> None:
        self.is_settled = True
        if self.ended is not None:
            self.ended.set_result(None)
        elif self.reply.done():
            return
        elif error is None:
            self.reply.set_result(file)
        else:
            self.reply.set_exception(error)


class SmallFiles:
    """Stores small bodies in *packing*, and has *metadata* make them files.

    Unless *rows_together*, every command is asked alone: where the database is a round trip away, each is one
    statement, and those share the trip.
    """

    def __init__(self, packing: Packing, metadata: Ref[Metadata], *, rows_together: bool) -> None:
        self._packing = packing
        self._metadata = metadata
        self._rows_together = rows_together
        self._waiting: list[_Body] = []
        self._is_storing = False
        self._making = 0
        """Bodies whose bytes are stored and whose rows are being written."""
        self._gathering = Gathering(self._begin_next, most=MOST)
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for the groups that have begun."""
        self._gathering.stop()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def make(self, blob: SmallBlob, command_for: Callable[[BlobInfo], Command]) -> File | None:
        """Store a blob durably, then make it a file with the command that *command_for* returns for it.

        ``None`` means: ask the command alone.  It was refused, or is not simple.
        Raises what ``BlobStore.put`` raises, and then *command_for* was not called.  Raises ``AskTimeout`` if nobody
        knows whether the command was carried out.  If the wait is cancelled before the group has begun, nothing is
        stored; later, it ends with the group.
        """
        body = _Body(blob, command_for)
        self._waiting.append(body)
        self._begin_next()
        try:
            return await body.reply
        except asyncio.CancelledError:
            if body in self._waiting:
                self._waiting.remove(body)
            elif not body.is_settled:  # or the group has ended in the same turn of the loop
                body.ended = asyncio.get_running_loop().create_future()
                await asyncio.wait([body.ended])
            raise

    def _begin_next(self) -> None:
        """Begin the next group, unless one is being stored, it is smaller than what is being made, or still gathers."""
        waiting = len(self._waiting)
        if self._is_storing or not waiting or waiting < min(self._making, MOST):
            return
        if not self._making and not self._gathering.is_complete(waiting):
            return
        self._is_storing = True
        task = asyncio.get_running_loop().create_task(self._carry_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self) -> None:
        """Store a group of those that wait by now, then make them files."""
        group, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            stored = await self._store(group) if group else []
        finally:
            self._is_storing = False
        self._making += len(stored)
        self._begin_next()
        try:
            if stored:
                await self._make(stored)
        finally:
            self._making -= len(stored)
            self._gathering.ended(len(stored), len(self._waiting))
            self._begin_next()

    async def _store(self, group: Sequence[_Body]) -> list[tuple[_Body, Command]]:
        """Store the bytes of the group.  Returns those that were not refused, with their commands."""
        try:
            found = await self._packing.put_each([body.blob for body in group])
        except BaseException as error:
            for body in group:
                body.settle(None, _another(error))
            if not isinstance(error, Exception):
                raise
            return []
        stored: list[tuple[_Body, Command]] = []
        for body, info in zip(group, found, strict=True):
            if isinstance(info, DriveError):
                body.settle(None, info)
            else:
                stored.append((body, body.command_for(info)))
        return stored

    async def _make(self, stored: list[tuple[_Body, Command]]) -> None:
        stored.sort(key=lambda each: isinstance(each[1], PublishUpload))
        files: list[File | None] = [None] * len(stored)
        unknown: AskTimeout | None = None
        try:
            if self._rows_together:
                files = await self._metadata.ask(
                    MakeFiles(
                        [each for _, each in stored if isinstance(each, StoreFile)],
                        [each for _, each in stored if isinstance(each, PublishUpload)],
                    )
                )
        except AskTimeout as error:
            unknown = error
        except DriveError:
            pass  # none was carried out
        finally:
            for (body, _), file in zip(stored, files, strict=True):
                body.settle(file, unknown and _another(unknown))


def _another(error: BaseException) -> BaseException:
    """Return an error for one of several callers, because each raises it elsewhere."""
    if isinstance(error, DriveError):
        return error.another()
    return error
