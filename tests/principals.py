"""Who acts in tests."""

from __future__ import annotations

from godrive.model import UserId
from godrive.principal import HostUser, System

SYSTEM = System(part="test")
"""The server itself."""


def acting(user_id: UserId) -> HostUser:
    """That user."""
    return HostUser(user_id=user_id)
