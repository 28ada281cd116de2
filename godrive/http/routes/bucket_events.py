"""Bucket events over HTTP, for stores that push them (Ceph, MinIO, SeaweedFS, AWS SNS) and drives without NATS.

The store sends ``ingest.webhook_token`` in one of these ways:

- ``Authorization: Bearer <token>`` (MinIO's ``auth_token``, SeaweedFS's ``bearer_token``);
- as the password in the URL that it pushes to (SNS, most HTTP clients);
- ``?token=<token>`` (Ceph).  Proxies may log the query, so use this on a
  private network only; our log leaves the query out.

Without a configured token the route does not exist.  An event with the token is
certain (``IngestBlob``): where the store writes each key only once, the file is
published without a HEAD.  So anyone who has the token can make the server publish
an upload whose bytes never came.
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
    """The first message that SNS sends to a subscriber."""

    type: str = ""
    topic_arn: str = ""
    token: str = ""
    subscribe_url: str = msgspec.field(default="", name="SubscribeURL")


def add_bucket_event_route(app: web.Application, drive: GoDrive) -> None:
    """Add the route, if the drive has a webhook token."""
    token = drive.config.ingest.webhook_token
    if token:
        app.router.add_post(PATH, BucketEvents(drive, token).receive, expect_handler=meet_expectation)


class BucketEvents:
    """Handles the events that a store sends."""

    def __init__(self, drive: GoDrive, token: str) -> None:
        self._token = token.encode()
        self._limit = drive.config.server.max_body_bytes
        self._timeout = drive.config.server.body_timeout
        self._handler = drive.bucket_events
        self._log = logger()

    async def receive(self, request: web.Request) -> web.Response:
        """Return 204 if the event was accepted, 503 if the store must send it again later.

        422 says that it is malformed, or some of its records; the others were accepted.
        """
        if not shows_secret(request, self._token, in_query=True):
            raise Unauthenticated("The token of ingest.webhook_token is required.")
        body = await read_body(request, limit=self._limit, timeout=self._timeout)
        if not self._confirms(body):
            await self._handler.take(body, certain=True)  # only the store has the token
        return web.Response(status=204)

    def _confirms(self, body: bytes) -> bool:
        """Whether the message asks to confirm a subscription.

        The operator must confirm it.  If the server fetched the URL in the
        message, an attacker could make it fetch internal URLs.  So the server
        logs the token, which is valid for this confirmation only.
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
