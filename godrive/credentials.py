"""Passwords, tokens and signed URLs: pure functions over a keyring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from godrive.model import Principal, SessionId, UserId


@dataclass(frozen=True)
class Keyring:
    """Signing keys by id: the first signs, all verify."""

    keys: Mapping[str, bytes]

    @classmethod
    def load_or_create(cls, path: Path) -> Keyring: ...


def hash_password(password: str, cost: int) -> str: ...


def check_password(password: str, hashed: str) -> bool: ...


@dataclass(frozen=True)
class RefreshClaims:
    user_id: UserId
    session_id: SessionId
    generation: int


class TokenSigner:
    def __init__(self, keyring: Keyring, *, issuer: str, audience: str) -> None: ...

    def access(self, principal: Principal, *, now: datetime, ttl: float) -> tuple[str, datetime]: ...

    def verify_access(self, token: str, *, now: datetime) -> tuple[Principal, datetime]: ...

    def refresh(self, claims: RefreshClaims, *, now: datetime, expires_at: datetime) -> str: ...

    def verify_refresh(self, token: str, *, now: datetime) -> RefreshClaims: ...


class UrlSigner:
    def __init__(self, keyring: Keyring, public_url: str) -> None: ...

    def sign(self, method: str, path: str, claims: Mapping[str, str], *, expires_at: datetime) -> str: ...

    def verify(self, method: str, path: str, query: Mapping[str, str], *, now: datetime) -> dict[str, str]: ...
