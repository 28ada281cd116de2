"""Events about files for the world outside, kept with the change that they tell of.

A row is written in the transaction of its change, and dropped once it has been
published: so an event is published at least once, and never for a change that
was rolled back.  The rules write them with the owner locked, so ``seq`` rises
in the order in which one owner's changes were committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from godrive.catalog import Tx
from godrive.model import File, FileEvent, FileEventKind, FileId, UserId, new_id
from godrive.rules import rows

_decode = msgspec.json.Decoder(File).decode


async def note(
    tx: Tx, kind: FileEventKind, owner_id: UserId, file_id: FileId, file: File | None, *, now: datetime
) -> None:
    """Leave an event, where the catalog keeps an outbox."""
    if tx.outbox:
        await tx.run(
            "INSERT INTO outbox (event_id, kind, owner_id, file_id, at, file) VALUES ($1, $2, $3, $4, $5, $6)",
            new_id(),
            kind.value,
            owner_id,
            file_id,
            rows.micros(now),
            None if file is None else msgspec.json.encode(file).decode(),
        )


async def pending(tx: Tx, *, limit: int) -> list[FileEvent]:
    """The oldest events not yet published, in order."""
    found = await tx.all(
        "SELECT seq, event_id, kind, owner_id, file_id, at, file FROM outbox ORDER BY seq LIMIT $1", limit
    )
    return [
        FileEvent(
            seq=row[0],
            id=row[1],
            kind=FileEventKind(row[2]),
            owner_id=UserId(row[3]),
            file_id=FileId(row[4]),
            at=rows.instant(row[5]),
            file=None if row[6] is None else _decode(row[6]),
        )
        for row in found
    ]


async def drop(tx: Tx, events: Sequence[FileEvent]) -> None:
    """Forget events that were published; again is harmless."""
    await tx.run_each("DELETE FROM outbox WHERE seq = $1", [(event.seq,) for event in events])
