"""Events about files for other programs.

An event is written in the transaction of its change and deleted after it has
been published.  So it is published at least once, and never for a change that
was rolled back.  Rules write events while they hold the owner's lock, so the
``seq`` of one owner's events rises in the order of commits.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from godrive.catalog import Tx
from godrive.messages.system import DropEvents, DueEvents
from godrive.model import File, FileEvent, FileEventKind, FileId, UserId, new_id
from godrive.rules import rows
from godrive.rules.registry import Env, rule

_decode = msgspec.json.Decoder(File).decode


async def note(
    tx: Tx, kind: FileEventKind, owner_id: UserId, file_id: FileId, file: File | None, *, now: datetime
) -> None:
    """Write an event, if the catalog keeps an outbox."""
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


@rule(DueEvents)
async def pending(tx: Tx, ask: DueEvents, env: Env) -> list[FileEvent]:
    """As ``DueEvents`` says."""
    found = await tx.all(
        "SELECT seq, event_id, kind, owner_id, file_id, at, file FROM outbox ORDER BY seq LIMIT $1", ask.limit
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


@rule(DropEvents, writes=True)
async def drop(tx: Tx, ask: DropEvents, env: Env) -> None:
    """As ``DropEvents`` says."""
    await tx.run_each("DELETE FROM outbox WHERE seq = $1", [(event.seq,) for event in ask.events])
