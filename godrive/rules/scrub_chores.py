"""What the scrub keeps in the catalog: how far it is, and which blobs it found damaged."""

from __future__ import annotations

from godrive.catalog import Row, Tx
from godrive.messages.expected import (
    BeginScrub,
    BlobFault,
    Damage,
    Fault,
    ForgetDamage,
    ListDamage,
    NoteScrub,
    ReadScrub,
    ScrubState,
)
from godrive.model import ObjectKey
from godrive.rules import rows
from godrive.rules.registry import Env, rule


@rule(ReadScrub)
async def read_scrub(tx: Tx, ask: ReadScrub, env: Env) -> ScrubState:
    """As ``ReadScrub`` says."""
    row = rows.found(await tx.one("SELECT begun_at, ended_at, after_key, blobs, bytes FROM scrub"), "scrub")
    return ScrubState(
        begun_at=rows.maybe_instant(row[0]),
        ended_at=rows.maybe_instant(row[1]),
        after=ObjectKey(row[2]),
        blobs=row[3],
        bytes=row[4],
        damaged=dict(await tx.all("SELECT fault, COUNT(*) FROM damage GROUP BY fault")),  # type: ignore[arg-type]
    )


@rule(BeginScrub, writes=True)
async def begin_scrub(tx: Tx, ask: BeginScrub, env: Env) -> None:
    """As ``BeginScrub`` says."""
    await tx.run("UPDATE scrub SET begun_at = $1, after_key = '', blobs = 0, bytes = 0", rows.micros(env.now))


@rule(NoteScrub, writes=True)
async def note_scrub(tx: Tx, ask: NoteScrub, env: Env) -> None:
    """As ``NoteScrub`` says."""
    at = rows.micros(env.now)
    noted = await tx.run(
        "UPDATE scrub SET after_key = $2, blobs = blobs + $3, bytes = bytes + $4 WHERE after_key = $1",
        ask.after,
        ask.upto,
        ask.blobs,
        ask.bytes,
    )
    if not noted:
        return
    if ask.upto:
        await tx.run("DELETE FROM damage WHERE object_key > $1 AND object_key <= $2", ask.after, ask.upto)
    else:
        await tx.run("DELETE FROM damage WHERE object_key > $1", ask.after)
        await tx.run("UPDATE scrub SET ended_at = $1", at)
    await tx.run_each(
        "INSERT INTO damage (object_key, fault, detail, size_bytes, file_id, found_at) VALUES ($1, $2, $3, $4, $5, $6)",
        [
            (each.object_key, each.fault.value, each.detail, each.size_bytes, each.file_id or "", at)
            for each in ask.found
        ],
    )


@rule(ListDamage)
async def list_damage(tx: Tx, ask: ListDamage, env: Env) -> list[Damage]:
    """As ``ListDamage`` says."""
    found = await tx.all(
        "SELECT object_key, fault, detail, size_bytes, file_id, found_at FROM damage WHERE object_key > $1 "
        "ORDER BY object_key LIMIT $2",
        ask.after,
        ask.limit,
    )
    return [_damage(row) for row in found]


@rule(ForgetDamage, writes=True)
async def forget_damage(tx: Tx, ask: ForgetDamage, env: Env) -> None:
    """As ``ForgetDamage`` says."""
    await tx.run_each("DELETE FROM damage WHERE object_key = $1", [(key,) for key in ask.object_keys])


def _damage(row: Row) -> Damage:
    finding = BlobFault(
        fault=Fault(row[1]), object_key=ObjectKey(row[0]), detail=row[2], size_bytes=row[3], file_id=row[4] or None
    )
    return Damage(finding=finding, found_at=rows.instant(row[5]))
