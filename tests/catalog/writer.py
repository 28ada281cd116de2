"""A process that writes to a catalog, for tests that take its life or its room."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import DriveError
from godrive.model import new_id


async def add(tx: Tx, name: str, holder: str = "x") -> None:
    await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, 0)", name, holder)


async def count(tx: Tx) -> int:
    row = await tx.one("SELECT COUNT(*) FROM leases")
    assert row is not None
    return int(row[0])


async def endless(path: Path) -> None:
    """Write for ever, 16 at once, and say what was acknowledged."""
    catalog = SqliteCatalog(path)
    await catalog.open()

    async def one() -> None:
        while True:
            name = new_id()
            await catalog.write(partial(add, name=name))
            print(name, flush=True)

    await asyncio.gather(*[one() for _ in range(16)])


async def full(path: Path) -> None:
    """Fill the disk, see what happens, make room, go on."""
    catalog = SqliteCatalog(path)
    await catalog.open()
    ballast = path.with_name("ballast")
    ballast.write_bytes(b"\0" * 1_000_000)
    written = 0
    errors: list[str] = []
    while len(errors) < 3:
        try:
            await catalog.write(lambda tx: add(tx, new_id(), "x" * 50_000))
            written += 1
        except DriveError as error:
            errors.append(type(error).__name__)
    during = await catalog.read(count)
    ballast.unlink()
    await catalog.write(partial(add, name="after"))
    after = await catalog.read(count)
    await catalog.close()
    print(json.dumps({"written": written, "errors": errors, "read_while_full": during, "read_after": after}))


if __name__ == "__main__":
    asyncio.run({"endless": endless, "full": full}[sys.argv[1]](Path(sys.argv[2])))
