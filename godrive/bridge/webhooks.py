"""Delivers changes to webhooks: those of users, and the one of the operator for all users.

Theory of operation.  Every webhook has a cursor of the log of changes.  The
dispatcher asks for webhooks with changes after their cursor, sends the changes
one by one, and moves the cursor after the last one that was accepted.  So each
change is delivered at least once, and those of one webhook in order.  A failure
ends the turn of the webhook; the catalog postpones its next attempt.

One process at a time dispatches, by a lease.  Webhooks that have just failed, and
those of a user whose receivers were slow lately, use other slots than the rest,
so they never delay it; one user has few slots of either kind.  Slots go to the
users in the order in which they began to wait, and to the webhooks of one user alike.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import anyio
import msgspec
from anyio.abc import TaskGroup

from godrive import network
from godrive.backoff import Backoff
from godrive.bridge.broadcast_turns import BroadcastTurns
from godrive.bridge.failures import Failures
from godrive.callbacks import AddressRefused, Failed
from godrive.clock import Clock
from godrive.config import Config
from godrive.errors import CursorReset, DriveError, NotFound
from godrive.lease import Lease
from godrive.messages.broadcasts import MarkDelivered
from godrive.messages.changes import Change, ListChanges
from godrive.messages.metadata import Metadata
from godrive.messages.system import DueWebhook, DueWebhooks, SettleWebhook
from godrive.model import File, UserId
from godrive.principal import HostUser
from godrive.runtime import OnEvent, Ref
from godrive.watch import ChangeWatch
from godrive.webhook_signature import sign

if TYPE_CHECKING:
    from godrive.bridge.outbound import Outbound

CHILD = "webhooks"

EVERY, SOON = 1.0, 0.05
"""Seconds between two looks for changes to deliver: without news of a change, and after it."""

BATCH = 50
"""Changes that a webhook gets in one turn."""

TURN = 20.0
"""Seconds after which a slow webhook ends its turn."""

SLOW, SLOW_FOR = 5.0, 600.0
"""A user is slow after a turn of at least so many seconds, and for so many."""

DUE = 500
"""Webhooks that one look returns, more than have slots: some may be busy."""

AT_ONCE, DOUBTFUL_AT_ONCE, PER_USER = 32, 8, 2
"""Webhooks that get changes at the same time: all that work, all that have just failed or are slow, and of one user."""

LEASE, LEASE_TTL = "webhooks", 30.0
BACKOFF = Backoff(0.5, 30.0)
_GONE = 410

_encode = msgspec.json.Encoder().encode


class ChangeData(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One change, as ``GET /v1/changes`` tells it, and whose it is."""

    owner_id: UserId
    change: str
    id: str
    kind: str
    entry: File | None = None


class ResetData(msgspec.Struct, kw_only=True):
    """Changes are missing, because the log does not reach back to the last one that was delivered."""

    owner_id: UserId
    cursor: str


class WebhookMessage(msgspec.Struct, kw_only=True):
    """One message.  Its id is the cursor after the change until it is sent."""

    id: str
    type: str
    data: ChangeData | ResetData


class Dispatcher:
    """The child that delivers.  It ends only when cancelled."""

    def __init__(
        self, config: Config, clock: Clock, watch: ChangeWatch, *, counts: Counter[str], on_event: OnEvent
    ) -> None:
        settings = config.webhooks
        self._clock = clock
        self._watch = watch
        self._failures = Failures(CHILD, on_event, BACKOFF)
        self._turn_failures = Failures(CHILD, on_event, BACKOFF)
        self._operator_failures = Failures(f"{CHILD}-operator", on_event, BACKOFF)
        self._operator_url, self._operator_secret = settings.url, settings.secret
        self._turns = BroadcastTurns(clock, at_once=BATCH)
        self._lease = Lease(LEASE, LEASE_TTL, clock.monotonic)
        self._networks = [network.network(text) for text in settings.allow_networks]
        self._timeout = settings.timeout
        self._busy: dict[str, DueWebhook] = {}
        self._places: dict[str, int] = {}
        """Of the webhooks that are due and of their users: how many turns had begun when each began to wait."""
        self._begun = 0
        self._slow: dict[UserId, float] = {}
        """Until when a user is slow."""
        self._outbounds: dict[bool, Outbound] = {}
        self._news = asyncio.Event()
        self._counts = counts

    async def run(self, metadata: Ref[Metadata]) -> None:
        """Deliver forever."""
        self._watch.listeners.append(self._hear)
        try:
            async with anyio.create_task_group() as tasks:
                if self._operator_url:
                    tasks.start_soon(self._run_operator, metadata)
                while True:
                    try:
                        await self.begin(metadata, tasks)
                    except DriveError as error:
                        await anyio.sleep(self._failures.note(error))
                    else:
                        self._failures.clear()
                        await self._pause()
        finally:
            self._watch.listeners.remove(self._hear)
            await self._lease.leave(metadata)
            with anyio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        """Close all connections."""
        while self._outbounds:
            await self._outbounds.popitem()[1].close()

    def _outbound(self, *, operator: bool) -> Outbound:
        """Return what calls the addresses of users, or that of the operator, which may be anywhere."""
        if operator not in self._outbounds:
            from godrive.bridge.outbound import Outbound  # noqa: PLC0415 - an HTTP client, which few drives need

            self._outbounds[operator] = Outbound(None if operator else self._networks, timeout=self._timeout)
        return self._outbounds[operator]

    def _hear(self, owner_ids: Iterable[UserId]) -> None:
        self._news.set()

    async def _pause(self) -> None:
        """Wait for news, but at least a moment, so that much news costs little."""
        await anyio.sleep(SOON)
        with anyio.move_on_after(EVERY):
            await self._news.wait()
        self._news.clear()

    async def begin(self, metadata: Ref[Metadata], tasks: TaskGroup) -> None:
        """Begin a turn of each webhook that is due, as far as there are slots."""
        if not await self._lease.hold(metadata):
            return
        due = await metadata.ask(DueWebhooks(DUE))
        self._counts["waiting"], self._counts["failing"] = len(due), sum(each.failures > 0 for each in due)
        self._queue(due)
        for webhook in sorted(due, key=lambda webhook: (self._places[webhook.owner_id], self._places[webhook.id])):
            if webhook.id not in self._busy and self._has_slot(webhook):
                self._busy[webhook.id] = webhook
                self._begun += 1
                self._places[webhook.id] = self._places[webhook.owner_id] = self._begun
                tasks.start_soon(self._turn, metadata, webhook)

    def _queue(self, due: Sequence[DueWebhook]) -> None:
        """Give those that are due a place behind all that wait already, and forget the rest."""
        waiting = {key for webhook in due for key in (webhook.id, webhook.owner_id)}
        self._places = {key: self._places.get(key, self._begun) for key in waiting}
        now = self._clock.monotonic()
        self._slow = {owner_id: until for owner_id, until in self._slow.items() if until > now}

    def _has_slot(self, webhook: DueWebhook) -> bool:
        doubtful = self._is_doubtful(webhook)
        alike = sum(self._is_doubtful(busy) == doubtful for busy in self._busy.values())
        own = sum(busy.owner_id == webhook.owner_id for busy in self._busy.values())
        return alike < (DOUBTFUL_AT_ONCE if doubtful else AT_ONCE) and own < PER_USER

    def _is_doubtful(self, webhook: DueWebhook) -> bool:
        return webhook.failures > 0 or webhook.owner_id in self._slow

    async def _turn(self, metadata: Ref[Metadata], webhook: DueWebhook) -> None:
        try:
            await self.deliver(metadata, webhook)
        except DriveError as error:  # not at once again, and in its slot: the catalog is in trouble
            await anyio.sleep(self._turn_failures.note(error))
        else:
            self._turn_failures.clear()
        finally:
            del self._busy[webhook.id]
            self._news.set()

    async def deliver(self, metadata: Ref[Metadata], webhook: DueWebhook) -> None:
        """Send the changes after the cursor of the webhook, at most a batch, and move the cursor."""
        by, cursor = HostUser(user_id=webhook.owner_id), webhook.cursor
        outbound = self._outbound(operator=False)
        try:
            page = await metadata.ask(ListChanges(by, cursor, BATCH))
            messages = [_change_message(webhook.owner_id, change) for change in page.changes]
        except CursorReset:
            page = await metadata.ask(ListChanges(by))
            data = ResetData(owner_id=webhook.owner_id, cursor=page.cursor)
            messages = [WebhookMessage(id=page.cursor, type="cursor_reset", data=data)]
        except NotFound:  # the user was disabled or deleted
            return
        problem, final, began = None, False, self._clock.monotonic()
        for message in messages:
            named = msgspec.structs.replace(message, id=f"{webhook.id}.{message.id}")
            problem, final = await self._send(outbound, webhook.url, webhook.secret, named)
            if problem is not None:
                break
            cursor = message.id
            if self._clock.monotonic() - began >= TURN:
                break
        else:
            cursor = page.cursor
        ended = self._clock.monotonic()
        if ended - began >= SLOW:
            self._slow[webhook.owner_id] = ended + SLOW_FOR
        await metadata.ask(
            SettleWebhook(
                webhook_id=webhook.id,
                before=webhook.cursor,
                cursor=cursor,
                seen=webhook.number if cursor == page.cursor and not page.has_more else 0,
                problem=problem,
                final=final,
            )
        )

    async def _send(
        self, outbound: Outbound, url: str, secret: str, message: WebhookMessage
    ) -> tuple[str | None, bool]:
        """Send one message.  Returns why it was not accepted, and whether that is final."""
        now = self._clock.now()
        body = _encode({"type": message.type, "timestamp": now, "data": message.data})
        try:
            status = await outbound.post(url, body, sign(secret, message.id, int(now.timestamp()), body))
        except (AddressRefused, Failed) as error:
            self._counts["refused" if isinstance(error, AddressRefused) else "failed"] += 1
            return str(error), False
        if 200 <= status < 300:
            self._counts["delivered"] += 1
            return None, False
        self._counts["failed"] += 1
        return f"The answer was {status}.", status == _GONE

    async def _run_operator(self, metadata: Ref[Metadata]) -> None:
        while True:
            try:
                sent = await self.broadcast(metadata)
            except (DriveError, Failed) as error:
                await anyio.sleep(self._operator_failures.note(error))
            else:
                self._operator_failures.clear()
                if not self._turns.are_more:
                    await anyio.sleep(SOON if sent else EVERY / 2)

    async def broadcast(self, metadata: Ref[Metadata]) -> int:
        """Send the oldest changes of the users whose turn it is to the webhook of the operator.  Returns their number.

        Raises ``Failed``; changes that were accepted before are not sent again.
        """
        if not await self._lease.hold(metadata):
            self._turns.begin_again()
            return 0
        accepted, problem, outbound = [], None, self._outbound(operator=True)
        try:
            for each in await self._turns.next(metadata):
                message = msgspec.structs.replace(
                    _change_message(each.owner_id, each.change), id=f"{each.owner_id}.{each.number}"
                )
                problem, _ = await self._send(outbound, self._operator_url, self._operator_secret, message)
                if problem is not None:
                    break
                accepted.append(each)
            if accepted:
                await metadata.ask(MarkDelivered(accepted))
            if problem is not None:
                raise Failed(problem)
        except BaseException:
            self._turns.begin_again()
            raise
        return len(accepted)


def _change_message(owner_id: UserId, change: Change) -> WebhookMessage:
    data = ChangeData(
        owner_id=owner_id, change=change.change.value, id=change.id, kind=change.kind.value, entry=change.entry
    )
    return WebhookMessage(id=change.cursor, type=f"{change.kind.value}.{change.change.value}", data=data)
