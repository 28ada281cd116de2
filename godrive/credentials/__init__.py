"""Passwords, tokens and signed URLs: pure functions over a keyring.

Nothing here waits, logs or reads a clock: callers pass the time.  Secrets are
compared in constant time.  A signed text has exactly one accepted spelling: a
change of any byte is refused.
"""

from __future__ import annotations

from godrive.credentials.keyring import Keyring
from godrive.credentials.passwords import (
    HIGHEST_COST,
    check_hash,
    check_new_password,
    check_password,
    cost_of,
    dummy_hash,
    hash_password,
    needs_rehash,
)
from godrive.credentials.signed_urls import UrlSigner
from godrive.credentials.tokens import RefreshClaims, TokenSigner

__all__ = [
    "HIGHEST_COST",
    "Keyring",
    "RefreshClaims",
    "TokenSigner",
    "UrlSigner",
    "check_hash",
    "check_new_password",
    "check_password",
    "cost_of",
    "dummy_hash",
    "hash_password",
    "needs_rehash",
]
