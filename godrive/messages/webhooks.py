"""Messages to the metadata actor about webhooks: addresses to which changes of a drive are delivered."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import Value
from godrive.principal import HostUser, UserSession
from godrive.runtime import Ask, Lane


class Webhook(Value):
    """An address for the changes of one drive.

    *failures* counts the deliveries that failed since the last success, and
    *problem* says why the last one did.  A webhook that is *disabled* gets
    nothing until it is replayed.  *secret* is only known when it is made.
    """

    id: str
    url: str
    created_at: datetime
    failures: int = 0
    failing_since: datetime | None = None
    problem: str | None = None
    disabled: bool = False
    secret: str | None = None


class AddWebhook(Ask[Metadata, Webhook]):
    """Deliver the changes from now on to *url*, signed with *secret* or a new one.

    Raises ``Invalid`` (``url``, ``secret``), ``QuotaExceeded`` (``webhooks``).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: UserSession | HostUser
    url: str
    secret: str | None = None


class ListWebhooks(Ask[Metadata, list[Webhook]]):
    """List the webhooks of the user, oldest first, without their secrets."""

    by: UserSession | HostUser


class RemoveWebhook(Ask[Metadata, None]):
    """Remove a webhook.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: UserSession | HostUser
    webhook_id: str


class ReplayWebhook(Ask[Metadata, Webhook]):
    """Deliver the changes after *cursor* again, or without one all that are in the log.  Enables the webhook.

    Raises ``NotFound``, ``CursorReset``, ``Invalid`` (``cursor``).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: UserSession | HostUser
    webhook_id: str
    cursor: str | None = None
