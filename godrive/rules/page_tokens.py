"""Page tokens: the signed position at which the previous page ended.

A token is ``base64url(mac || position)``.  The MAC, a keyed BLAKE2b (RFC 7693),
covers the position and the *scope*: the list, its owner, order and filter.  A
token that was edited, or that belongs to another list, is ``Invalid``.

The newest key signs and every key verifies, so tokens survive a key rotation.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import TypeVar

import msgspec

from godrive.errors import Invalid

_MAC_BYTES = 16
_LONGEST = 2048
_WORD = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)

Position = tuple[int | str, str]
"""The sort key and the id of the last item of a page.  The next page begins after it."""

P = TypeVar("P")

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Position] = msgspec.msgpack.Decoder(Position)


class PageTokens:
    """Makes and reads ``next_page``.  *keys* are secrets of 16 to 64 bytes, kept across restarts.  The first signs."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or not all(16 <= len(key) <= 64 for key in keys):
            raise ValueError("There must be a key, and every key must have 16 to 64 bytes.")
        self._keys = tuple(keys)

    def make(self, scope: tuple[object, ...], position: object) -> str:
        """Return the token of the page after *position*."""
        body = _encoder.encode(position)
        return _text(_mac(self._keys[0], scope, body) + body)

    def read(self, scope: tuple[object, ...], token: str) -> Position:
        """Return the position in a token.  Raises ``Invalid`` unless this server made it for the same scope."""
        return self._read(_decoder, scope, token)

    def read_as(self, type_: type[P], scope: tuple[object, ...], token: str) -> P:
        """Like :meth:`read`, for a list with positions of another type."""
        return self._read(msgspec.msgpack.Decoder(type_), scope, token)

    def _read(self, decoder: msgspec.msgpack.Decoder[P], scope: tuple[object, ...], token: str) -> P:
        if len(token) <= _LONGEST and _WORD.fullmatch(token):
            raw = _bytes(token)
            mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            genuine = [compare_digest(mac, _mac(key, scope, body)) for key in self._keys]
            if any(genuine) and _text(raw) == token:  # base64 has several spellings of the same bytes
                return decoder.decode(body)
        raise Invalid("The page token does not belong to this list.", field="page")


def _mac(key: bytes, scope: tuple[object, ...], body: bytes) -> bytes:
    text = _encoder.encode([None if part is None else str(part) for part in scope])
    return blake2b(text + body, digest_size=_MAC_BYTES, key=key, person=b"godrive page").digest()


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:  # no number of bytes has that length
        return b""
