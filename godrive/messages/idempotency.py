"""Messages to the metadata actor about idempotency keys."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import Value
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class StoredReply(Value):
    """The stored answer to the first request with an idempotency key."""

    status: int
    headers: dict[str, str]
    body: bytes


class ClaimKey(Ask[Metadata, StoredReply | None]):
    """Claim an idempotency key.  Returns ``None`` if it is new, otherwise the stored answer.

    Keys belong to the user behind *by*, those of a token or a link to that
    alone.  *fingerprint* identifies the request.
    Raises ``IdempotencyMismatch`` (the key has another fingerprint), ``Conflict``
    (the first request is still being served), ``QuotaExceeded`` (the user has
    too many keys).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    key: str
    fingerprint: str


class RenewKey(Ask[Metadata, None]):
    """Keep a claimed key while its request is still being served.  Idempotent."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    key: str


class SettleKey(Ask[Metadata, None]):
    """Store the answer for a claimed key.  Without an answer, release the key."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    key: str
    stored: StoredReply | None = None
