"""Webhooks of a user: addresses to which the changes of their drive are delivered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from godrive.errors import CursorReset, Invalid, NotFound, QuotaExceeded
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.changes import Cursor
from godrive.messages.webhooks import AddWebhook, ListWebhooks, RemoveWebhook, ReplayWebhook, Webhook
from godrive.principal import Scope

routes = Routes("webhooks")


class WebhookBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where changes go, and the secret that signs them; without one, the server makes one."""

    url: Annotated[str, Meta(max_length=2048, description="`https://` and a public host.")]
    secret: Annotated[str, Meta(max_length=128, description="`whsec_` and the Base64 of 24 to 64 bytes.")] | None = None


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where to begin: after a cursor, or without one at the oldest change in the log."""

    cursor: Cursor | None = None


class WebhookView(msgspec.Struct, kw_only=True):
    """A webhook.  `problem` says why the last delivery failed; `secret` is only in the answer that made it."""

    id: str
    url: str
    created_at: datetime
    disabled: bool
    failures: int
    failing_since: datetime | UnsetType = UNSET
    problem: str | UnsetType = UNSET
    secret: str | UnsetType = UNSET

    @classmethod
    def of(cls, webhook: Webhook) -> WebhookView:
        """Convert a webhook to an answer."""
        return cls(
            id=webhook.id,
            url=webhook.url,
            created_at=webhook.created_at,
            disabled=webhook.disabled,
            failures=webhook.failures,
            failing_since=webhook.failing_since or UNSET,
            problem=webhook.problem or UNSET,
            secret=webhook.secret or UNSET,
        )


class WebhookList(msgspec.Struct, kw_only=True):
    """All webhooks of the user, oldest first."""

    webhooks: list[WebhookView]


@routes.get("/v1/webhooks", needs=Scope.ACCOUNT, raises=[])
async def list_webhooks(call: Call) -> WebhookList:
    """List your webhooks."""
    found = await call.drive.metadata.ask(ListWebhooks(call.session))
    return WebhookList(webhooks=[WebhookView.of(webhook) for webhook in found])


@routes.post(
    "/v1/webhooks", needs=Scope.ACCOUNT, status=201, raises=[Invalid, QuotaExceeded], replays=True, secret=True
)
async def add_webhook(call: Call, body: WebhookBody) -> WebhookView:
    """Deliver the changes of your drive to a URL, from now on.

    Each change is one POST, signed as Standard Webhooks defines. The answer is the only one with the secret.
    """
    webhook = await call.drive.metadata.ask(AddWebhook(call.session, body.url, body.secret))
    call.locate(f"/v1/webhooks/{webhook.id}")
    return WebhookView.of(webhook)


@routes.delete("/v1/webhooks/{webhook_id}", needs=Scope.ACCOUNT, status=204, raises=[NotFound])
async def remove_webhook(call: Call, webhook_id: str) -> None:
    """Remove a webhook."""
    await call.drive.metadata.ask(RemoveWebhook(call.session, webhook_id))


@routes.post(
    "/v1/webhooks/{webhook_id}/replay",
    needs=Scope.ACCOUNT,
    raises=[NotFound, CursorReset, Invalid],
    replays=True,
)
async def replay_webhook(call: Call, webhook_id: str, body: ReplayBody | None = None) -> WebhookView:
    """Deliver changes again, after a cursor or all that are in the log.

    A webhook that was disabled is enabled.
    """
    cursor = None if body is None else body.cursor
    return WebhookView.of(await call.drive.metadata.ask(ReplayWebhook(call.session, webhook_id, cursor)))
