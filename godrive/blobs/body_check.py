"""The checks that every store makes on a body: its declared length and digest."""

from __future__ import annotations

from godrive.errors import DigestMismatch, LengthMismatch


class BodyCheck:
    """Counts a body as it arrives and compares it with what was declared; ``None`` declares nothing."""

    def __init__(self, size: int | None, sha256: str | None = None) -> None:
        self.size = size
        self.received = 0
        self._sha256 = sha256

    def count(self, length: int) -> None:
        """Add *length* bytes.  Raises ``LengthMismatch`` at the first byte too many."""
        self.received += length
        if self.size is not None and self.received > self.size:
            raise LengthMismatch(f"More than the declared {self.size} bytes arrived.")

    def end(self) -> None:
        """The body is complete.  Raises ``LengthMismatch`` if bytes are missing."""
        if self.size is not None and self.received < self.size:
            raise LengthMismatch(f"Only {self.received} of the declared {self.size} bytes arrived.")

    def compare(self, sha256: str) -> None:
        """Raises ``DigestMismatch`` unless *sha256* is the declared digest."""
        if self._sha256 is not None and self._sha256 != sha256:
            raise DigestMismatch(f"The bytes that arrived have the SHA-256 {sha256}.")
