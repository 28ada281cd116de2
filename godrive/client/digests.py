"""SHA-256 of files of this machine, without blocking the event loop for long."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anyio import to_thread

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE = 4 << 20


async def digest_of(path: Path) -> str:
    """Return the SHA-256 of the file in hex.  Raises ``OSError``."""
    file = await to_thread.run_sync(path.open, "rb")
    with file:
        return (await read_digest(file)).hexdigest()


async def read_digest(file: IO[bytes]) -> _Hash:
    """Return the SHA-256 of the rest of *file*; the caller may update it with more bytes."""
    digest = hashlib.sha256()

    def step() -> bool:
        digest.update(piece := file.read(_PIECE))
        return len(piece) > 0

    while await to_thread.run_sync(step):
        pass
    return digest
