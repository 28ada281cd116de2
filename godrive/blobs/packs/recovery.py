"""Brings the index up to the packs when the store is opened.

A power failure may take the last commits of the index, but not what they
describe.  So each pack is read from where the index knows it, and its whole
records are added; a record that is not whole was never acknowledged.  Without
an index, all packs are read like that from the beginning, and a record that is
not whole may also be one that was damaged since, so its pack is kept as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from godrive.blobs.packs.files import PackFile, PackFiles
from godrive.blobs.packs.index import Location, Pack
from godrive.blobs.packs.record import DEAD, FIRST, LIVE, Damaged, Record, parse
from godrive.blobs.packs.writer import PackWriter

CHUNK = 1 << 20
"""How much of a pack is read at once, unless a record is larger."""


def recover(writer: PackWriter) -> None:
    """Add to the index what it lacks, and remove the files of removed packs."""
    index, files = writer.index, writer.files
    with index.transaction(durable=True):
        known = {pack.number: pack for pack in index.packs()}
        for pack in known.values():
            if pack.state == "dropped":
                files.remove(pack.number)
        index.forget_dropped()
        sizes = files.sizes()
        for number, size in sizes.items():
            is_pack = _is_pack(files, number)
            if number in known:
                pack = known[number]
            elif size <= FIRST and not is_pack:
                files.remove(number)  # it was being created
                continue
            else:
                index.add_pack(number, 0)
                pack = Pack(number, 0, 0, "open")
            if not is_pack and pack.state != "damaged":
                index.mark(number, "unreadable")
            elif is_pack and pack.state == "unreadable":  # it was put back
                index.mark(number, "open")
                pack = pack._replace(state="open")
            if is_pack and size > pack.ended and pack.state == "open":
                _follow(writer, pack, size, may_be_torn=pack.ended > 0 or number == max(sizes))


def problems(packs: list[Pack], sizes: dict[int, int]) -> list[str]:
    """What is wrong with the packs of an index, given the sizes of the files."""
    found = []
    for pack in packs:
        size = sizes.get(pack.number)
        if size is None and pack.live:
            found.append(f"Pack {pack.number} is missing, with {pack.live} bytes of blobs.")
        elif size is not None and size < pack.ended:
            found.append(f"Pack {pack.number} has {size} bytes instead of {pack.ended}.")
        elif pack.state in ("damaged", "unreadable"):
            found.append(f"Pack {pack.number} is damaged.")
    return found


def _is_pack(files: PackFiles, number: int) -> bool:
    try:
        files.get(number)
    except Damaged:
        return False
    return True


def _is_live(files: PackFiles, place: Location) -> bool:
    with suppress(FileNotFoundError, Damaged):
        state = os.pread(files.get(place.pack).fd, len(DEAD), place.start)
        return len(state) == len(DEAD) and state != DEAD
    return False


def _follow(writer: PackWriter, pack: Pack, size: int, *, may_be_torn: bool) -> None:
    """Add the whole records of a pack from where the index has ended.

    If it *may be torn*, what follows the last of them was never acknowledged, and is cut off.
    """
    index, file = writer.index, writer.files.get(pack.number)
    live, ended, has_gap = 0, max(pack.ended, FIRST), False
    for start, record, data in scan(file, ended):
        try:
            record.body(data)
        except Damaged:
            continue
        has_gap = has_gap or start > ended
        ended = start + record.length
        # A key is in the index already if its blob was being moved: both records are the same.
        known = index.find(record.key)
        if known is not None and not _is_live(writer.files, known):  # the index is older than the packs
            index.remove(known)
            known = None
        if record.is_live and known is None:
            index.add(
                [
                    Location(
                        record.key, pack.number, start, record.length, record.size, record.stored_ns, record.sha256,
                        record.mime,
                    )
                ]
            )  # fmt: skip
            live += record.length
    if live:
        os.fdatasync(file.fd)  # a process that was killed had written them, and may not have synced them
    if may_be_torn and not has_gap:
        os.ftruncate(file.fd, ended)
    elif ended < size or has_gap:
        index.mark(pack.number, "full" if pack.ended else "damaged")
        ended = size
    index.extend(pack.number, ended, live)


def scan(file: PackFile, start: int) -> Iterator[tuple[int, Record, memoryview]]:
    """The records of a pack from *start* on: where each begins, its head and its bytes.

    Skips what is no record.  The heads are checked, the bodies are not.
    """
    chunk = CHUNK
    while data := os.pread(file.fd, chunk, start):
        view, at, is_last, wanted = memoryview(data), 0, len(data) < chunk, CHUNK
        while at < len(data):
            record = None
            with suppress(Damaged):
                record = parse(view, at, file.seed)
                if record is None or at + record.length > len(data):
                    if not is_last:
                        wanted = max(CHUNK, 2 * chunk if record is None else record.length)
                        break
                    record = None
            if record is None:
                at = _candidate(data, at + 1)
            else:
                yield start + at, record, view[at : at + record.length]
                at += record.length
        start, chunk = start + at, wanted if at == 0 else CHUNK


def _candidate(data: bytes, start: int) -> int:
    """Where the next record may begin."""
    found = [at for state in (LIVE, DEAD) if (at := data.find(state, start)) >= 0]
    return min(found, default=max(start, len(data) - len(LIVE) + 1))
