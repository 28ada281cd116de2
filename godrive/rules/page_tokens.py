"""Page tokens: where the page before ended, signed, so that nobody makes one up.

A token is ``base64url(mac || position)``.  The keyed BLAKE2b (RFC 7693) covers
the position and the *scope*: which list, whose, in what order, by what filter.
A token that was edited or is shown to another list is therefore ``Invalid``.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest

import msgspec

from godrive.errors import Invalid

_MAC_BYTES = 16
_LONGEST = 2048

Position = tuple[int | str, str]
"""The sort key and the id of the last item: every page begins after one."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Position)


class PageTokens:
    """Makes and reads ``next_page``.  *key* is a secret of 16 to 64 bytes, the same over restarts."""

    def __init__(self, key: bytes) -> None:
        if not 16 <= len(key) <= 64:
            raise ValueError("The key must have 16 to 64 bytes.")
        self._key = key

    def make(self, scope: tuple[object, ...], position: Position) -> str:
        """The token of the page after *position*."""
        body = _encoder.encode(position)
        return urlsafe_b64encode(self._mac(scope, body) + body).rstrip(b"=").decode()

    def read(self, scope: tuple[object, ...], token: str) -> Position:
        """The position in a token.  Raises ``Invalid`` unless it was made by us for the same scope."""
        try:
            if len(token) > _LONGEST:
                raise ValueError
            raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if compare_digest(mac, self._mac(scope, body)):
                position: Position = _decoder.decode(body)
                if self.make(scope, position) == token:
                    return position
        except ValueError:
            pass
        raise Invalid("The page token is not one that this list gave.", field="page")

    def _mac(self, scope: tuple[object, ...], body: bytes) -> bytes:
        text = _encoder.encode([None if part is None else str(part) for part in scope])
        return blake2b(text + body, digest_size=_MAC_BYTES, key=self._key, person=b"godrive page").digest()
