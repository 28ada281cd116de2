"""The outbox: the rows of the log of changes that are not published to NATS yet.

A row is written in the transaction of its change and marked after it has been
published.  So it is published at least once, and never for a change that was
rolled back.  A mark on each row, instead of a position in the log, also finds a
change that committed after others with a higher number.
"""

from __future__ import annotations

import msgspec

from godrive.catalog import Tx
from godrive.messages.system import DueEvents, MarkPublished
from godrive.model import File, FileEvent, FileEventKind, FileId, UserId
from godrive.rules import rows
from godrive.rules.registry import Env, rule

_decode = msgspec.json.Decoder(File).decode


@rule(DueEvents)
async def pending(tx: Tx, ask: DueEvents, env: Env) -> list[FileEvent]:
    """As ``DueEvents`` says."""
    found = await tx.all(
        "SELECT change, what, owner_id, entry_id, at, file FROM changes WHERE published = 0 "
        "ORDER BY change, owner_id LIMIT $1",
        ask.limit,
    )
    return [
        FileEvent(
            seq=row[0],
            id=f"{row[2]}.{row[0]}",
            kind=FileEventKind(row[1]),
            owner_id=UserId(row[2]),
            file_id=FileId(row[3]),
            at=rows.instant(row[4]),
            file=None if row[5] is None else _decode(row[5]),
        )
        for row in found
    ]


@rule(MarkPublished, writes=True)
async def mark(tx: Tx, ask: MarkPublished, env: Env) -> None:
    """As ``MarkPublished`` says.  Deletes the stored state, which nothing else needs."""
    await tx.run_each(
        "UPDATE changes SET published = 1, file = NULL WHERE owner_id = $1 AND change = $2 AND published = 0",
        [(event.owner_id, event.seq) for event in ask.events],
    )
