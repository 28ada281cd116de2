"""The SHA-256 of blobs that are written in several steps, kept between the steps."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from godrive.model import ObjectKey

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

_KEPT = 50_000
"""Digests of as many blobs are kept, of about 500 bytes each.  For others the bytes are read again at the end."""


class RunningDigests:
    """Digests by key and offset, for as long as the process runs.

    A digest is taken out while bytes are added to it, so a failure in between
    leaves none.  Where other processes append too, *state* is what the store says
    of the bytes: of two appends at one offset, the bytes of one count, and each
    process has a digest of its own.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[ObjectKey, tuple[tuple[int, str], Digest]] = OrderedDict()

    def take(self, key: ObjectKey, offset: int, state: str = "") -> Digest | None:
        """Take out the digest of the first *offset* bytes; ``None`` if it is not known."""
        known, digest = self._kept.pop(key, (None, None))
        if offset == 0:
            return hashlib.sha256()
        return digest if known == (offset, state) else None

    def keep(self, key: ObjectKey, offset: int, digest: Digest | None, state: str = "") -> None:
        """Keep the digest of the first *offset* bytes."""
        if digest is None or offset == 0:
            return
        self._kept[key] = (offset, state), digest
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
