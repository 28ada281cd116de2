"""What a disk may have after a power cut, made of the system calls that a real process made.

strace records the calls.  A :class:`Recording` replays them up to a moment: what
was synced before is there; each write, truncation, new name and removed name
after the last sync that covers it is there, or not, or in part, as a random
generator says.  That is what POSIX allows, and more than most file systems do.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_CALLS = "write,pwrite64,ftruncate,fsync,fdatasync,unlink,unlinkat,link,linkat,open,openat"
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?")
_OF_FILE = re.compile(r"\d+<([^>]*)>(?:, )?(.*)")
_HEX = re.compile(r"\\x(..)")


@dataclass
class Event:
    """A call that succeeded: the lines of the log where it began and ended, and what it did."""

    begun: int
    ended: int
    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    source: str = ""
    """The other name of a file that is linked."""


@dataclass
class _File:
    """One life of a name."""

    created: Event | None
    """``None`` if it was there before."""
    writes: list[Event] = field(default_factory=list)
    removed: Event | None = None


def _text(quoted: str) -> bytes:
    return bytes(int(digits, 16) for digits in _HEX.findall(quoted))


def record(command: Sequence[str], log: Path, cwd: Path) -> list[Event]:
    """Run *command*, and return what it did to files, and what it said on standard output (``say``)."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}", "-o", str(log)]
    subprocess.run([*strace, *command], check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    events: list[Event] = []
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(log.read_text().splitlines()):
        process, text = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        start = number
        if text.endswith("<unfinished ...>"):
            begun[process] = number, text.removesuffix("<unfinished ...>")
            continue
        if resumed := _RESUMED.fullmatch(text):
            start, head = begun.pop(process)
            text = head.rstrip() + resumed[2].lstrip()
        call = _CALL.match(text)
        if call is not None and int(call[3]) >= 0:
            events += _events(start, number, call)
    return events


def _events(begun: int, ended: int, call: re.Match[str]) -> list[Event]:
    name, values, result, opened = call.groups()
    if name in ("open", "openat"):
        path = os.fsdecode(_text(opened or ""))
        return [Event(begun, ended, "create", path)] if "O_CREAT" in values else []
    if name in ("unlink", "unlinkat"):
        (removed,) = _names(values)
        return [Event(begun, ended, "remove", removed)]
    if name in ("link", "linkat"):
        source, target = _names(values)
        return [Event(begun, ended, "link", target, source=source)]
    match = _OF_FILE.fullmatch(values)
    if match is None:
        return []
    path, rest = os.fsdecode(_text(match[1])), match[2]
    if name in ("fsync", "fdatasync"):
        return [Event(begun, ended, "sync", path)]
    if name == "ftruncate":
        return [Event(begun, ended, "truncate", path, int(rest))]
    data = _text(rest)[: int(result)]
    if values.startswith("1<"):
        return [Event(begun, ended, "say", path, data=data)]
    offset = int(rest.rsplit(", ", 1)[1]) if name == "pwrite64" else -1
    return [Event(begun, ended, "write", path, offset, data)]


def _names(values: str) -> list[str]:
    """The paths that the arguments of a call name: each in the folder before it."""
    names, folder = [], Path()
    for opened, name in re.findall(r"<([^>]*)>|\"([^\"]*)\"", values):
        if opened:
            folder = Path(os.fsdecode(_text(opened)))
        else:
            names.append(str(folder / os.fsdecode(_text(name))))
    return names


class Recording:
    """The events below *root*."""

    def __init__(self, events: list[Event], root: Path) -> None:
        self.events = [event for event in events if event.kind == "say" or f"{event.path}/".startswith(f"{root}/")]
        self.end = self.events[-1].ended + 1
        self._root = root

    def said(self, cut: int) -> list[str]:
        """What the process had said before line *cut*."""
        return [event.data.decode().strip() for event in self.events if event.kind == "say" and event.begun < cut]

    def restore(self, cut: int, chance: random.Random, target: Path) -> None:
        """Make in *target* what the disk may have if the power is cut before line *cut*.

        *target* has what was there before the recording.
        """
        done = [event for event in self.events if event.begun < cut]
        synced = [event for event in done if event.kind == "sync" and event.ended < cut]
        files: dict[str, list[_File]] = {}
        for event in done:
            was_there = (target / Path(event.path).relative_to(self._root)).is_file() if event.kind != "say" else False
            lives = files.setdefault(event.path, [_File(None)] if was_there else [])
            if event.kind == "create" and (not lives or lives[-1].removed is not None):
                lives.append(_File(event))
            elif event.kind == "link":
                lives.append(_File(event, writes=files[event.source][-1].writes))
            elif event.kind == "remove" and lives:
                lives[-1].removed = event
            elif event.kind in ("write", "truncate") and lives:
                lives[-1].writes.append(event)

        def is_durable(event: Event, path: str) -> bool:
            return any(sync.path == path and event.ended < sync.begun for sync in synced)

        for path, lives in files.items():
            if not lives:
                continue
            folder, copy = str(Path(path).parent), target / Path(path).relative_to(self._root)
            for life in reversed(lives):
                if life.created is not None and not is_durable(life.created, folder) and chance.random() < 0.5:
                    continue
                if life.removed is not None and (is_durable(life.removed, folder) or chance.random() < 0.5):
                    continue
                data = bytearray(copy.read_bytes() if life.created is None else b"")
                for event in life.writes:
                    _apply(event, data, chance, whole=is_durable(event, event.path))
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(data)
                break
            else:
                copy.unlink(missing_ok=True)


def _apply(event: Event, data: bytearray, chance: random.Random, *, whole: bool) -> None:
    """Do to *data* what the event did, if *whole*, else all of it, a part or nothing."""
    luck = 0.0 if whole else chance.random()
    if luck > 0.6:
        return
    if event.kind == "truncate":
        data[event.offset :] = bytes(max(0, event.offset - len(data)))
        return
    offset = len(data) if event.offset < 0 else event.offset
    data.extend(bytes(max(0, offset + len(event.data) - len(data))))
    for start in range(0, len(event.data), SECTOR):
        if luck < 0.3 or chance.random() < 0.5:
            part = event.data[start : start + SECTOR]
            data[offset + start : offset + start + len(part)] = part
