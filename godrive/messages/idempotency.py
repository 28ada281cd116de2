"""What may be said to the metadata actor about requests that are sent again."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import StoredReply
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class ClaimKey(Ask[Metadata, StoredReply | None]):
    """Claim an idempotency key.  Returns ``None`` when it is new, else the answer that was given.

    Keys belong to the user behind *by*.  *fingerprint* is of the request;
    another one raises ``IdempotencyMismatch``, one still being served ``Conflict``,
    a new one where too many are kept already ``QuotaExceeded``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    key: str
    fingerprint: str


class SettleKey(Ask[Metadata, None]):
    """Keep the answer for a claimed key.  Without one, release the key."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    key: str
    stored: StoredReply | None = None
