"""Bucket events by HTTP: for stores that push (Ceph, MinIO, SeaweedFS, AWS SNS) and drives without NATS.

The store shows ``ingest.webhook_token``, in the first way of these that it can:

- ``Authorization: Bearer <token>`` (MinIO's ``auth_token``, SeaweedFS's ``bearer_token``);
- user and password in the URL it pushes to, the password being the token (SNS, most HTTP clients);
- ``?token=<token>`` (Ceph).  A query is written to the logs of proxies in
  between, so this is for a network that is the operator's own; our log leaves it out.

Without a token configured there is no such route.  An event is a hint that
makes the ingest actor ask the store, so whoever has the token can cause work,
and nothing else.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from godrive.drive import GoDrive
from godrive.errors import Unauthenticated
from godrive.http.api.authentication import shows_secret
from godrive.http.observe.middleware import meet_expectation
from godrive.http.observe.request_log import logger
from godrive.http.wire.request_body import read_body

PATH = "/v1/events/bucket"


class _Confirmation(msgspec.Struct, rename="pascal"):
    """What SNS sends before it sends anything else."""

    type: str = ""
    topic_arn: str = ""
    token: str = ""
    subscribe_url: str = msgspec.field(default="", name="SubscribeURL")


def add_webhook_route(app: web.Application, drive: GoDrive) -> None:
    """Let stores push events to *drive*, if its configuration has a token for them."""
    token = drive.config.ingest.webhook_token
    if token:
        app.router.add_post(PATH, Webhook(drive, token).receive, expect_handler=meet_expectation)


class Webhook:
    """The handler."""

    def __init__(self, drive: GoDrive, token: str) -> None:
        self._token = token.encode()
        self._limit = drive.config.server.max_body_bytes
        self._timeout = drive.config.server.body_timeout
        self._intake = drive.bucket_events
        self._log = logger()

    async def receive(self, request: web.Request) -> web.Response:
        """204 when the event need not be sent again; 422 when it is none; 503 when it should be, later."""
        if not shows_secret(request, self._token):
            raise Unauthenticated("Show the token of ingest.webhook_token.")
        body = await read_body(request, limit=self._limit, timeout=self._timeout)
        if not self._confirms(body):
            await self._intake.take(body)
        return web.Response(status=204)

    def _confirms(self, body: bytes) -> bool:
        """Whether SNS asks for a confirmation.

        It is the operator who gives it: a server that fetches the URL in a
        request fetches what anyone likes, from where only it can reach.  So
        the log has the token, which is told to nobody else and good for that only.
        """
        try:
            message = msgspec.json.decode(body, type=_Confirmation)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
        if message.type != "SubscriptionConfirmation":
            return False
        self._log.warning(
            "sns_subscription_waits",
            topic=message.topic_arn[:300],
            token=message.token[:1000],
            host=_host(message.subscribe_url),
            hint="Confirm it yourself: aws sns confirm-subscription --topic-arn <topic> --token <token>",
        )
        return True


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "")[:200]
    except ValueError:
        return ""
