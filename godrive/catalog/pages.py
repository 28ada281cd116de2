"""Page tokens: where the page before ended, signed, so that nobody makes one up."""

from __future__ import annotations

from godrive.errors import Invalid


class PageTokens:
    """Makes and reads ``next_page``.  *key* is a secret of 16 to 64 bytes, the same over restarts."""

    def __init__(self, key: bytes) -> None: ...
