"""Open and close what a disk store keeps open.  Blocks, so it runs in a thread."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs
from godrive.paths import exists


class Opened(NamedTuple):
    """The folders of a disk store, and its packs if it has any."""

    objects: Objects
    packs: Packs | None


def open_parts(path: Path, *, named: bool, pack_below: int, disk: Executor, guest: bool) -> Opened:
    """Open the store in *path*.  Raises ``OSError``, ``sqlite3.Error``."""
    objects = Objects(path, named=named)
    try:
        packs = path / "packs"
        if not pack_below and not exists(packs):
            return Opened(objects, None)
        objects.make(packs.name)
        return Opened(objects, Packs(packs, disk=disk, has_file=objects.has_file, guest=guest))
    except BaseException:
        objects.close()
        raise


def close_parts(opened: Opened) -> None:
    """Close a store that nobody has used."""
    if opened.packs is not None:
        opened.packs.close_unused()
    opened.objects.close()
