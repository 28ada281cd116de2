"""Webhooks: what is delivered where, and how far.

A webhook has a cursor of the log of changes.  The dispatcher reads from it and
moves it after each delivery, so every change is delivered at least once and in
order.  ``seen`` is the change number of the owner when there was nothing more to
deliver; a webhook is due when the number is higher.
"""

from __future__ import annotations

from godrive import webhook_signature
from godrive.backoff import Backoff
from godrive.callbacks import callback_url, literal_refusal
from godrive.catalog import Row, Tx
from godrive.catalog.ancestors import VISIBLE
from godrive.errors import Invalid, NotFound, QuotaExceeded
from godrive.messages.broadcasts import (
    BroadcastChange,
    DueBroadcast,
    MarkDelivered,
    UsersToBroadcast,
    UserToBroadcast,
)
from godrive.messages.changes import Change, ListChanges
from godrive.messages.system import DueWebhook, DueWebhooks, SettleWebhook
from godrive.messages.webhooks import AddWebhook, ListWebhooks, RemoveWebhook, ReplayWebhook, Webhook
from godrive.model import FileId, FileKind, UserId, new_id
from godrive.network import network
from godrive.rules import feed, rows
from godrive.rules.registry import Env, rule

_LONGEST_URL = 2048
_LONGEST_PROBLEM = 500
_BACKOFF = Backoff(5.0, 3600.0)
_PATIENT_FAILURES = 10
"""A webhook is not disabled before so many failures, however far the clock has jumped."""

_COLUMNS = "id, url, created_at, failures, failing_since, problem, disabled"
_OF = "SELECT {} FROM webhooks WHERE owner_id = $1"
_WAITING = (
    "SELECT w.id, w.owner_id, w.url, w.secret, w.cursor, w.failures, u.changes FROM webhooks w "
    "JOIN users u ON u.id = w.owner_id "
    "WHERE w.disabled = 0 AND w.next_at {} AND u.changes > w.seen AND u.state = 'active' ORDER BY w.next_at LIMIT $2"
)
_DUE, _SET_BACK = _WAITING.format("<= $1"), _WAITING.format("> $1 AND (w.failures = 0 OR w.next_at > $3)")
_TEXTS = 2, 3
"""The indices of URL and secret among these columns."""


def _webhook(row: Row, secret: str | None = None) -> Webhook:
    return Webhook(
        id=row[0],
        url=row[1],
        created_at=rows.instant(row[2]),
        failures=row[3],
        failing_since=rows.maybe_instant(row[4]),
        problem=row[5],
        disabled=bool(row[6]),
        secret=secret,
    )


@rule(AddWebhook, writes=True)
async def add(tx: Tx, ask: AddWebhook, env: Env) -> Webhook:
    """As ``AddWebhook`` says."""
    await tx.grow()
    owner_id, secret = ask.by.user_id, _secret(ask.secret)
    if len(ask.url) > _LONGEST_URL:
        raise Invalid(f"A URL has at most {_LONGEST_URL} characters.", field="url")
    allowed = [network(text) for text in env.config.webhooks.allow_networks]
    try:
        problem = literal_refusal(callback_url(ask.url), allowed=allowed)
    except ValueError as error:
        problem = f"The URL cannot be used: {error}."
    if problem is not None:
        raise Invalid(problem, field="url")
    await tx.lock(owner_id)
    (count,) = rows.found(await tx.one(_OF.format("COUNT(*)"), owner_id), "user")
    if count >= env.config.webhooks.per_user:
        raise QuotaExceeded(f"A user has at most {env.config.webhooks.per_user} webhooks.", field="webhooks")
    now = await feed.page(tx, ListChanges(ask.by), env)
    row = await tx.one(
        "INSERT INTO webhooks (id, owner_id, url, secret, cursor, seen, created_at) "
        f"VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_COLUMNS}",
        new_id(),
        owner_id,
        ask.url,
        secret,
        now.cursor,
        now.number,
        rows.micros(env.now),
    )
    return _webhook(rows.found(row, "webhook"), secret)


def _secret(given: str | None) -> str:
    """Return the secret, or a new one.  Raises ``Invalid``."""
    if given is None:
        return webhook_signature.new_secret()
    try:
        webhook_signature.key_of(given)
    except ValueError as error:
        raise Invalid(f"The secret cannot be used: {error}.", field="secret") from None
    return given


@rule(ListWebhooks)
async def list_all(tx: Tx, ask: ListWebhooks, env: Env) -> list[Webhook]:
    """As ``ListWebhooks`` says."""
    return [_webhook(row) for row in await tx.all(_OF.format(_COLUMNS) + " ORDER BY id", ask.by.user_id)]


@rule(RemoveWebhook, writes=True)
async def remove(tx: Tx, ask: RemoveWebhook, env: Env) -> None:
    """As ``RemoveWebhook`` says."""
    if not await tx.run("DELETE FROM webhooks WHERE id = $1 AND owner_id = $2", ask.webhook_id, ask.by.user_id):
        raise NotFound("You have no such webhook.")


@rule(ReplayWebhook, writes=True)
async def replay(tx: Tx, ask: ReplayWebhook, env: Env) -> Webhook:
    """As ``ReplayWebhook`` says."""
    owner_id = ask.by.user_id
    await tx.lock(owner_id)
    cursor = ask.cursor or await feed.first_cursor(tx, owner_id)
    await feed.page(tx, ListChanges(ask.by, cursor, 1), env)  # which refuses a cursor that is not valid
    row = await tx.one(
        "UPDATE webhooks SET cursor = $3, seen = 0, next_at = 0, failures = 0, failing_since = NULL, problem = NULL, "
        f"disabled = 0 WHERE id = $1 AND owner_id = $2 RETURNING {_COLUMNS}",
        ask.webhook_id,
        owner_id,
        cursor,
    )
    if row is None:
        raise NotFound("You have no such webhook.")
    return _webhook(row)


@rule(DueWebhooks)
async def due(tx: Tx, ask: DueWebhooks, env: Env) -> list[DueWebhook]:
    """As ``DueWebhooks`` says.

    A turn in the future, or a next attempt that is too far away, was set before the clock was set back.
    """
    now = rows.micros(env.now)
    found = [*await tx.all(_DUE, now, ask.limit)]
    found += await tx.all(_SET_BACK, now, ask.limit - len(found), rows.later(env.now, _BACKOFF.longest))
    found = found[: rows.that_fit(found, ask.limit, _TEXTS)]
    return [
        DueWebhook(
            id=row[0], owner_id=UserId(row[1]), url=row[2], secret=row[3], cursor=row[4], failures=row[5], number=row[6]
        )
        for row in found
    ]


@rule(SettleWebhook, writes=True)
async def settle(tx: Tx, ask: SettleWebhook, env: Env) -> None:
    """As ``SettleWebhook`` says."""
    if ask.problem is None:
        await tx.run(
            "UPDATE webhooks SET cursor = $3, seen = $4, next_at = $5, failures = 0, failing_since = NULL, "
            "problem = NULL WHERE id = $1 AND cursor = $2",
            ask.webhook_id,
            ask.before,
            ask.cursor,
            ask.seen,
            rows.micros(env.now),  # behind those that have waited since
        )
        return
    row = await tx.one(
        "SELECT failures, failing_since FROM webhooks WHERE id = $1 AND cursor = $2", ask.webhook_id, ask.before
    )
    if row is None:  # removed or replayed meanwhile
        return
    now, worked = rows.micros(env.now), ask.cursor != ask.before
    failures = 1 if worked else row[0] + 1
    since = now if worked or row[1] is None or row[1] > now else row[1]
    waited = (now - since) / 1_000_000
    gives_up = failures >= _PATIENT_FAILURES and waited >= env.config.webhooks.give_up_after
    await tx.run(
        "UPDATE webhooks SET cursor = $3, failures = $4, failing_since = $5, problem = $6, next_at = $7, disabled = $8 "
        "WHERE id = $1 AND cursor = $2",
        ask.webhook_id,
        ask.before,
        ask.cursor,
        failures,
        since,
        ask.problem[:_LONGEST_PROBLEM],
        rows.later(env.now, _BACKOFF.jittered(failures)),
        int(gives_up or ask.final),
    )


_UNDELIVERED = (
    "SELECT c.owner_id, c.change, c.what, c.kind, c.entry_id, {visible}, {live} FROM changes c "
    "LEFT JOIN entries ON entries.id = c.entry_id AND entries.state = 'live' "
    "WHERE c.owner_id = $1 AND c.change >= $2 AND c.delivered = 0 ORDER BY c.change LIMIT $3"
)
_WITH_UNDELIVERED = (  # COALESCE keeps SQLite from the primary key, in which it would read what is delivered too
    "SELECT COALESCE(owner_id, '') AS who, MIN(change) FROM changes "
    "WHERE delivered = 0 AND COALESCE(owner_id, '') > $1 GROUP BY who ORDER BY who LIMIT $2"
)


@rule(UsersToBroadcast)
async def users_to_broadcast(tx: Tx, ask: UsersToBroadcast, env: Env) -> list[UserToBroadcast]:
    """As ``UsersToBroadcast`` says."""
    found = await tx.all(_WITH_UNDELIVERED, ask.after, ask.limit)
    return [UserToBroadcast(user_id=UserId(owner_id), number=number) for owner_id, number in found]


@rule(DueBroadcast)
async def due_broadcast(tx: Tx, ask: DueBroadcast, env: Env) -> list[BroadcastChange]:
    """As ``DueBroadcast`` says."""
    statement = _UNDELIVERED.format(visible=VISIBLE, live=feed.LIVE)
    found = [await tx.all(statement, user.user_id, user.number, ask.each) for user in ask.users]
    return [_broadcast(row) for rows in found for row in rows]


def _broadcast(row: Row) -> BroadcastChange:
    owner_id, number, what, kind, entry_id, visible = row[:6]
    entry = rows.live_file(UserId(owner_id), row[6:]) if row[6] is not None and visible else None
    change = Change(change=feed.KINDS[what], id=FileId(entry_id), kind=FileKind(kind), cursor="", entry=entry)
    return BroadcastChange(owner_id=UserId(owner_id), number=number, change=change)


@rule(MarkDelivered, writes=True)
async def mark_delivered(tx: Tx, ask: MarkDelivered, env: Env) -> None:
    """As ``MarkDelivered`` says."""
    await tx.run_each(
        "UPDATE changes SET delivered = 1 WHERE owner_id = $1 AND change = $2 AND delivered = 0",
        [(change.owner_id, change.number) for change in ask.changes],
    )
