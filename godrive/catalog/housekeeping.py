"""What keeps the catalog small and honest: keys, leases, pruning, drift."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from godrive.catalog import Tx
from godrive.model import ObjectKey, Pruned, StoredReply, UserId


async def claim_key(
    tx: Tx,
    owner_id: UserId,
    key: str,
    fingerprint: str,
    *,
    now: datetime,
    ttl: float = 86_400.0,
    patience: float = 60.0,
) -> StoredReply | None:
    """As ``ClaimKey`` says; kept *ttl* seconds, and one never settled may be claimed again after *patience*."""
    ...


async def settle_key(tx: Tx, owner_id: UserId, key: str, stored: StoredReply | None) -> None:
    """As ``SettleKey`` says; of a key that is not claimed, a no-op."""
    ...


async def known_keys(tx: Tx, object_keys: Sequence[ObjectKey]) -> list[ObjectKey]:
    """As ``KnownKeys`` says."""
    ...


async def prune(tx: Tx, *, limit: int, now: datetime, retention: float) -> Pruned:
    """As ``Prune`` says; ended uploads stay *retention* seconds.  At most *limit* rows of each kind."""
    ...


async def usage_drift(tx: Tx) -> int:
    """As ``UsageDrift`` says."""
    ...


async def acquire_lease(tx: Tx, name: str, holder: str, *, now: datetime, ttl: float) -> bool:
    """Whether *holder* has the lease called *name* for the next *ttl* seconds; its own it renews."""
    ...


async def release_lease(tx: Tx, name: str, holder: str) -> None:
    """Give the lease back; one that is not held is left as it is."""
    ...
