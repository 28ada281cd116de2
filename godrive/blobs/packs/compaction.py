"""Frees the room of deleted blobs: moves the remaining blobs of a pack to the newest pack, and removes the old one.

A pack is worth it when more than half of it is dead, so a blob is moved about
once on average for each that was deleted, and packs take at most about twice the
room of their blobs.  The work is done in small steps between groups, so no
writer waits for more than one of them.  A guest beside a server leaves it to the
server, whose groups would have to wait for the lock of the index between steps.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from godrive.blobs.packs.index import Location
from godrive.blobs.packs.record import FIRST, Damaged, PackedBlob, head
from godrive.blobs.packs.recovery import scan
from godrive.blobs.packs.writer import PackWriter

STEP = 256 * 1024
"""The bytes of records that one step looks at."""

SMALLEST = 1 << 20
"""The newest pack is left alone below this size."""


class Compaction(msgspec.Struct):
    """A pack being emptied, and how far it is."""

    number: int
    at: int = FIRST


def candidate(writer: PackWriter, but: Collection[int] = ()) -> Compaction | None:
    """A pack that should be emptied, and is none of *but*."""
    packs = writer.index.packs()
    for pack in packs:
        is_newest = pack.number == packs[-1].number
        is_sparse = pack.live * 2 < pack.ended and (not is_newest or pack.ended >= SMALLEST)
        if is_sparse and pack.state in ("open", "full") and pack.number not in but:
            return Compaction(pack.number)
    return None


def step(writer: PackWriter, compaction: Compaction) -> bool:
    """Move some blobs.  Returns whether there is more to do.  Raises ``OSError``, ``sqlite3.Error``."""
    index, number = writer.index, compaction.number
    writer.provide(but=number)
    with index.transaction():
        pack = next((pack for pack in index.packs() if pack.number == number), None)
        if pack is None or pack.state not in ("open", "full"):
            return False  # another process was first
        if pack.live > 0 and compaction.at < pack.ended:
            _move(writer, compaction, pack.ended)
            return True
    if not _drop(writer, number):
        with index.transaction():
            index.mark(number, "damaged")
    return False


def drop_empty(writer: PackWriter) -> None:
    """Remove the packs without blobs.  Raises ``OSError``, ``sqlite3.Error``."""
    for pack in writer.index.packs():
        if not pack.live:
            _drop(writer, pack.number)


def _drop(writer: PackWriter, number: int) -> bool:
    """Remove a pack, unless it has blobs."""
    index = writer.index
    with index.transaction(durable=True):  # what was moved must be durable in the index before the pack goes
        pack = next((pack for pack in index.packs() if pack.number == number), None)
        if pack is None or pack.state not in ("open", "full"):
            return True
        if pack.live:
            return False
        index.mark(number, "dropped")
    writer.files.remove(number)
    with index.transaction():
        index.forget_dropped()
    return True


def _move(writer: PackWriter, compaction: Compaction, ended: int) -> None:
    index, source = writer.index, writer.files.get(compaction.number)
    newest, target = writer.newest()
    buffers: list[bytes | memoryview] = []
    moves: list[tuple[Location, Location]] = []
    end, moved, looked_at = newest.ended, 0, ended
    for start, record, data in scan(source, compaction.at):
        if start >= ended:
            break
        if start - compaction.at >= STEP:
            looked_at = start
            break
        place = index.find(record.key)
        if place is not None and (place.pack, place.start) == (compaction.number, start):
            if not record.is_live:
                index.remove(place)  # a power failure interrupted its deletion
                continue
            try:
                body = record.body(data)
            except Damaged:
                continue  # the pack stays, with this blob in it
            else:
                buffers += (
                    head(PackedBlob(record.key, record.mime, record.sha256, record.stored_ns, body), target.seed),
                    body,
                )
                moves.append((place, place._replace(pack=newest.number, start=end)))
                end, moved = end + record.length, moved + record.length
    compaction.at = looked_at
    if moves:
        writer.append(target, buffers, newest.ended)
        for old, new in moves:
            index.move(old, new)
        index.extend(newest.number, end, moved)
        index.count(compaction.number, -moved)
