"""Messages to the metadata actor about the webhook for all users."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.changes import Change
from godrive.messages.metadata import Metadata
from godrive.model import UserId, Value
from godrive.runtime import Ask, Lane


class BroadcastChange(Value):
    """A change for the webhook for all users."""

    owner_id: UserId
    number: int
    change: Change


class UserToBroadcast(Value):
    """A user with changes for the webhook for all users, of which *number* is the first that is due."""

    user_id: UserId
    number: int


class UsersToBroadcast(Ask[Metadata, list[UserToBroadcast]]):
    """Return the next users with changes that the webhook for all users does not have yet, by id, after *after*."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    after: str = ""


class DueBroadcast(Ask[Metadata, list[BroadcastChange]]):
    """Return changes of these users that the webhook for all users does not have yet.

    For each there are the first *each* from its number on, in order.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    users: list[UserToBroadcast]
    each: int


class MarkDelivered(Ask[Metadata, None]):
    """Record that the webhook for all users has these changes.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    changes: list[BroadcastChange]
