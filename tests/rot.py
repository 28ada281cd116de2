"""Damage to the blobs of a folder: flipped bits, torn writes, lost blobs, and blobs in the place of others."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from godrive.blobs.packs.files import name


class _Packed(NamedTuple):
    pack: Path
    start: int
    length: int


def plant(blobs: Path, number: int, rng: random.Random) -> dict[str, str]:
    """Damage *number* blobs below the folder of a disk store, packed ones and files.  Returns what happened, by key."""
    objects = blobs / "objects"
    files = sorted(
        str(path.relative_to(objects))
        for path in objects.glob("*/*")
        if path.parent.name not in ("catalog", "snapshot", "part", "key") and path.stat().st_size
    )
    packed = _packed(blobs / "packs")
    pairs = _of_one_length(packed, rng)
    done: dict[str, str] = {}
    kinds = ("flip", "truncate", "delete", "swap")
    while len(done) < number:
        kind, small = kinds[len(done) % 4], rng.random() < 0.5
        if small and kind == "swap" and pairs:
            one, other = pairs.pop()
            if one not in done and other not in done:
                _exchange(packed[one], packed[other])
                done |= {one: "swap, packed", other: "swap, packed"}
            continue
        key = rng.choice([*packed] if small else files)
        if key in done:
            continue
        if small:
            kind = "flip" if kind == "swap" else kind
            _damage_packed(packed[key], kind, rng)
            done[key] = f"{kind}, packed"
        elif kind == "swap":
            second = rng.choice(files)
            if second != key and second not in done:
                ours, theirs = (objects / key).read_bytes(), (objects / second).read_bytes()
                (objects / key).write_bytes(theirs)
                (objects / second).write_bytes(ours)
                done |= {key: "swap", second: "swap"}
        else:
            _damage_file(objects / key, kind, rng)
            done[key] = kind
    return done


def _packed(packs: Path) -> dict[str, _Packed]:
    with closing(sqlite3.connect(packs / "index.db")) as index:
        rows = index.execute(
            "SELECT key, pack, start, length FROM blobs WHERE size > 0 AND key NOT LIKE 'snapshot/%' "
            "AND key NOT LIKE 'catalog/%' AND key NOT LIKE 'part/%' AND key NOT LIKE 'key/%'"
        ).fetchall()
    return {key: _Packed(packs / name(pack), start, length) for key, pack, start, length in rows}


def _of_one_length(packed: dict[str, _Packed], rng: random.Random) -> list[tuple[str, str]]:
    by_length: dict[tuple[Path, int], list[str]] = {}
    for key, place in packed.items():
        by_length.setdefault((place.pack, place.length), []).append(key)
    pairs = [(keys[at], keys[at + 1]) for keys in by_length.values() for at in range(0, len(keys) - 1, 2)]
    rng.shuffle(pairs)
    return pairs


def _damage_file(path: Path, kind: str, rng: random.Random) -> None:
    if kind == "delete":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if kind == "truncate":
        data = data[: rng.randrange(len(data))]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _damage_packed(place: _Packed, kind: str, rng: random.Random) -> None:
    """Flip a bit of a record, or let a part of it, or all, never have reached the disk."""
    with place.pack.open("rb+") as file:
        file.seek(place.start)
        data = bytearray(file.read(place.length))
        if kind == "flip":
            data[rng.randrange(place.length)] ^= 1 << rng.randrange(8)
        else:
            first = 0 if kind == "delete" else rng.randrange(place.length // 2, place.length - 1)
            data[first:] = (
                bytes(0xFF ^ byte for byte in data[first:]) if kind == "truncate" else bytes(place.length - first)
            )
        file.seek(place.start)
        file.write(data)


def _exchange(one: _Packed, other: _Packed) -> None:
    with one.pack.open("rb+") as file:
        file.seek(one.start)
        first = file.read(one.length)
        file.seek(other.start)
        second = file.read(other.length)
        file.seek(one.start)
        file.write(second)
        file.seek(other.start)
        file.write(first)
