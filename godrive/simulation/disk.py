"""A file system in memory that forgets what was not synced.

:class:`~godrive.simulation.file_system.FileSystem` stands in for the module ``os`` in the disk store, so the
store runs on it unchanged.  A kill leaves everything that was written, as a page
cache does.  A power cut leaves what was synced, and of the rest a seeded part:
bytes of a file that was not synced may be lost or torn, and so may the names in
a folder that was not synced, each on its own.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
from dataclasses import dataclass, field

_CAPACITY = 1 << 30
BLOCK = 4096
_SECTOR = 512
FIRST_HANDLE = 1_000_000
_NUMBERS = itertools.count(1)
_BOOTS = itertools.count(1)


class Inode:
    """A file or a folder, as it is and as it would be after a power cut."""

    def __init__(self, *, is_folder: bool, now: float) -> None:
        self.is_folder = is_folder
        self.data = bytearray()
        self.entries: dict[str, Inode] = {}
        self.notes: dict[str, bytes] = {}
        self.saved_data: bytearray | None = None
        self.saved_to = 0
        """Up to where the data are as they were saved: most files only grow, so a sync copies what was added."""
        self.saved_entries: dict[str, Inode] = {}
        self.saved_notes: dict[str, bytes] = {}
        self.mtime = now
        self.links = 0
        self.number = next(_NUMBERS)

    def is_dirty(self) -> bool:
        """Whether a power cut may lose something of it."""
        return self.entries != self.saved_entries if self.is_folder else self.saved_data != self.data

    def changes_from(self, at: int) -> None:
        """The data will not be as they were saved from there on."""
        self.saved_to = min(self.saved_to, at)

    def save(self) -> None:
        """What ``fsync`` makes durable."""
        if self.saved_data is None:
            self.saved_data = bytearray()
        self.saved_data[self.saved_to :] = self.data[self.saved_to :]
        self.saved_to = len(self.data)
        self.saved_entries = dict(self.entries)
        self.saved_notes = dict(self.notes)


@dataclass
class Open:
    """An open file or folder."""

    inode: Inode
    flags: int
    at: int = 0


@dataclass
class Entry:
    """What ``scandir`` yields."""

    name: str
    _inode: Inode

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._inode.is_folder

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self._inode.is_folder

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return status(self._inode)


def status(inode: Inode) -> os.stat_result:
    """``fstat``."""
    mode = stat.S_IFDIR | 0o700 if inode.is_folder else stat.S_IFREG | 0o600
    seconds, size = inode.mtime, len(inode.data)
    nanoseconds = int(seconds * 1e9)
    fields = (mode, inode.number, 1, inode.links, 0, 0, size, int(seconds), int(seconds), int(seconds))
    return os.stat_result(
        fields,
        {"st_mtime": seconds, "st_mtime_ns": nanoseconds, "st_blocks": -(-size // 512), "st_blksize": BLOCK},
    )


@dataclass
class Disk:
    """The disk of a machine, and what is wrong with it."""

    chance: random.Random
    capacity: int = _CAPACITY
    usual_capacity: int = _CAPACITY
    failing: dict[str, int] = field(default_factory=dict)
    """Errors to come, by function: the next calls of it fail."""
    errno: int = errno.EIO
    slow: float = 0.0
    """Seconds that each call takes at most."""
    short_writes: float = 0.0
    """The share of writes that take only a part."""
    has_unnamed: bool = True
    has_notes: bool = True
    roots: dict[str, Inode] = field(default_factory=dict)
    handles: dict[int, Open] = field(default_factory=dict)
    boot: int = field(default_factory=lambda: next(_BOOTS))
    """Begins the numbers of the handles, so that those of a killed process are never used again."""
    used: int = 0
    lost: int = 0
    """What power cuts have destroyed."""

    def at(self, path: str) -> Inode:
        """The file or folder at a path.  The first path that is asked for is where this disk is mounted."""
        if not self.roots:
            self.roots[path] = Inode(is_folder=True, now=0.0)
        ((mounted, found),) = self.roots.items()
        for name in path.removeprefix(mounted).split("/"):
            if name:
                if name not in found.entries:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                found = found.entries[name]
        return found

    def cut_power(self) -> None:
        """Lose what was not synced, or a part of it."""
        self.handles.clear()
        self.boot = next(_BOOTS)
        seen: dict[int, Inode] = {}
        for root in self.roots.values():
            self._forget(root, seen)
        self.used = sum(len(inode.data) for inode in seen.values())

    def _forget(self, inode: Inode, seen: dict[int, Inode]) -> None:
        if id(inode) in seen:
            return
        seen[id(inode)] = inode
        chance = self.chance
        if inode.is_folder:
            names = sorted(inode.entries.keys() | inode.saved_entries.keys())
            kept = {}
            for name in names:
                now, saved = inode.entries.get(name), inode.saved_entries.get(name)
                survivor = now if now is saved or chance.random() < 0.5 else saved
                self.lost += survivor is not now
                if survivor is not None:
                    kept[name] = survivor
            inode.entries = kept
            for child in list(kept.values()):
                self._forget(child, seen)
        elif inode.is_dirty() or inode.saved_notes != inode.notes:
            self.lost += 1
            inode.changes_from(0)
            fate = chance.random()
            if fate < 0.4:
                inode.data, inode.notes = bytearray(inode.saved_data or b""), dict(inode.saved_notes)
            elif fate < 0.7:
                inode.data = torn(inode.saved_data or b"", inode.data, chance)
        inode.save()


def torn(saved: bytes | bytearray, now: bytes | bytearray, chance: random.Random) -> bytearray:
    """What a power cut leaves of a file in the middle of writing it out: each sector as it was, or as it is.

    What was synced and not written again cannot be lost.
    """
    size = chance.randint(min(len(saved), len(now)), max(len(saved), len(now)))
    data = bytearray(size)
    for start in range(0, size, _SECTOR):
        old, new = saved[start : start + _SECTOR], now[start : start + _SECTOR]
        sector = new if old == new or chance.random() < 0.5 else old
        data[start : start + len(sector)] = sector
    del data[size:]
    return data
