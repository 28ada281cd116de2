"""Record a change of a drive: usage, the owner's change number, and a row of the log.

While an owner's change number is the same, their lists are the same.  A new
number is the time of the change in microseconds, or the last number plus one if
that is greater.  Therefore it always rises, and a catalog restored from a
backup never repeats a number.  Revisions of entries work the same way.

The log has one row for each change that a client may want to know: of one
entry, or of the top of a tree.  The row has the change number, which is raised
under the lock of the owner's row.  So for one owner, the order of the numbers is
the order of the commits, and a reader that has seen a number never misses a
lower one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from godrive.catalog import Final, Tx
from godrive.catalog.chains import ChainStep, chain
from godrive.catalog.many import inserting, over
from godrive.config import Auth
from godrive.errors import NotFound, QuotaExceeded
from godrive.model import File, FileEventKind, FileId, FileKind, UserId
from godrive.rules import rows

_CHARGE = (
    "UPDATE users SET live_bytes = live_bytes + $2, trash_bytes = trash_bytes + $3, "
    "version_bytes = version_bytes + $4, reserved_bytes = reserved_bytes + $5, "
    "entry_count = entry_count + $6, upload_count = upload_count + $7, version_count = version_count + $8"
)
_ROOM = (
    "SELECT upload_count, entry_count, version_count, quota_bytes, "
    "live_bytes + trash_bytes + version_bytes + reserved_bytes FROM users WHERE id = $1"
)
_RAISED = "changes = CASE WHEN changes < ${0} THEN ${0} ELSE changes + 1 END, log_rows = log_rows + ${1} WHERE id = $1"
_CHANGE = f"{_CHARGE}, {_RAISED.format(9, 10)}"
_CHANGE_ALONE = f"UPDATE users SET {_RAISED.format(2, 3)}"
_LOG = (
    "INSERT INTO changes (owner_id, change, at, what, entry_id, kind, parent_id, from_id, published, delivered, file) "
    "SELECT $1, charged.changes, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM charged"
)

_LOG_EACH = inserting(_LOG.replace("charged.changes", "$11").replace(" FROM charged", ""))
FIRST_OF_CHARGED = 7
"""The number of the first column of a condition for :func:`charging`."""
_CHANGE_EACH = (
    "UPDATE OR FAIL users SET live_bytes = live_bytes + new.column2, reserved_bytes = reserved_bytes - new.column3, "
    "entry_count = entry_count + new.column4, upload_count = upload_count - new.column5, "
    "changes = CASE WHEN changes < new.column6 THEN new.column6 ELSE changes + 1 END + new.column4 - 1, "
    "log_rows = log_rows + new.column4 FROM (VALUES {rows}) new WHERE id = new.column1 "
    f"AND (new.column{FIRST_OF_CHARGED} IS NULL OR "
)
"""Without ``OR FAIL``, SQLite copies the page before it changes, because of RETURNING."""
_CHARGED = f"({', '.join(f'${number}' for number in range(1, FIRST_OF_CHARGED + 4))})"

REVISE = "revision = CASE WHEN revision < $1 THEN $1 ELSE revision + 1 END"
"""SQL: the next revision of an entry.  ``$1`` is the time in microseconds."""

_NO_USAGE = (0,) * 7
_NOT_PROVIDED = (None,) * 4
_encode = msgspec.json.Encoder().encode


class Trace(msgspec.Struct, frozen=True, gc=False):
    """What the log says about an entry: its kind, its folder, and its folder before the change (``''``: the root)."""

    kind: FileKind
    parent_id: str
    from_id: str


async def record(
    tx: Tx,
    kind: FileEventKind | None,
    owner_id: UserId,
    file_id: FileId | None,
    file: File | None,
    *,
    now: datetime,
    trace: Trace | None = None,
    live: int = 0,
    trash: int = 0,
    versions: int = 0,
    reserved: int = 0,
    entries: int = 0,
    uploads: int = 0,
    version_rows: int = 0,
) -> None:
    """Record one change: add to the owner's usage, raise their change number, write a row of the log.

    *versions* are bytes of earlier versions, *version_rows* their number.
    *file* is the state after the change.  *trace* is required without *file*, or
    if the entry has changed its folder.  Without *kind*, the change affects
    lists but is not in the log.
    """
    usage = live, trash, versions, reserved, entries, uploads, version_rows
    if kind is None or file_id is None:
        _check_found(await chain(tx, _charged(owner_id, usage, rows.micros(now), logged=0)))
    else:
        if trace is None:
            assert file is not None  # noqa: S101 - a caller without a file gives a trace
            trace = _trace_of(file)
        steps = _steps(tx, kind, owner_id, file_id, file, now=now, trace=trace, usage=usage)
        _check_found(await chain(tx, *steps))
    tx.changed.add(owner_id)


async def record_created(
    tx: Tx,
    file: File,
    *steps: ChainStep,
    now: datetime,
    reserved: int,
    uploads: int,
    provided: tuple[str, tuple[object, ...]] | None = None,
) -> bool:
    """Run *steps* and, if the first finds something, record that *file* was created.  Whether it was.

    With *provided*, a condition on the owner's row and its values, that comes
    first, and *steps* follow the step ``charged``.  All of it is the last
    statement of the operation (see ``Tx.final``).
    """
    trace = _trace_of(file)
    usage = file.size_bytes, 0, 0, reserved, 1, uploads, 0
    kind, after = FileEventKind.CREATED, "" if provided else steps[0].name
    charged, logged = _steps(
        tx, kind, file.owner_id, file.id, file, now=now, trace=trace, usage=usage, after=after, provided=provided
    )
    order = (charged, *steps, logged) if provided else (*steps, charged, logged)
    made = await chain(tx, *order, final=Final(file.id, file.owner_id))
    if made:
        tx.changed.add(file.owner_id)
    return made


async def record_with(
    tx: Tx,
    kind: FileEventKind,
    file: File,
    step: ChainStep,
    *,
    key: str,
    now: datetime,
    provided: tuple[str, tuple[object, ...]],
) -> bool:
    """Record a change and run *step*, if *provided* is true of the owner's row: see :func:`record_created`.

    The condition begins with ``$4``.  The column of *step* is *key*.  *file* is the state after the change, whose
    usage is the same.
    """
    trace = _trace_of(file)
    charged, logged = _steps(
        tx, kind, file.owner_id, file.id, file, now=now, trace=trace, usage=_NO_USAGE, provided=provided
    )
    made = await chain(tx, charged, logged, step, final=Final(key, file.owner_id))
    if made:
        tx.changed.add(file.owner_id)
    return made


Logged = tuple[object, ...]
"""A row of the log."""


class Created(NamedTuple):
    """New files of one owner.

    *published* uploads, which have reserved as many bytes as *reserved*, become files.  *provided* are four values of a
    condition on the owner's row; without values there is none.
    """

    owner_id: UserId
    files: Sequence[File]
    reserved: int
    published: int
    provided: tuple[int, int, int, int] | None


def charging(condition: str) -> str:
    """Return what :func:`charge_created` runs, with a condition on the values that are *provided*."""
    return f"{_CHANGE_EACH}{condition}) RETURNING id, changes"


async def charge_created(tx: Tx, sql: str, created: Sequence[Created], *, now: datetime) -> dict[UserId, list[Logged]]:
    """Add new files to the usage of their owners, and return the rows of the log for :func:`log_each`.

    Leaves out an owner who is not there, or of whose row the condition in *sql* is not true.  SQLite only.
    """
    at = rows.micros(now)
    values = [
        (
            each.owner_id,
            sum([file.size_bytes for file in each.files]),
            each.reserved,
            len(each.files),
            each.published,
            at,
            *(each.provided or _NOT_PROVIDED),
        )
        for each in created
    ]
    found = await tx.all(*over(sql, _CHARGED, values))
    charged = {UserId(owner_id): number for owner_id, number in found}
    tx.changed.update(charged)
    return {
        each.owner_id: [
            (*_logged(tx, FileEventKind.CREATED, file.owner_id, file.id, file, at=at, trace=_trace_of(file)), number)
            for number, file in enumerate(each.files, charged[each.owner_id] - len(each.files) + 1)
        ]
        for each in created
        if each.owner_id in charged
    }


async def log_each(tx: Tx, logged: Sequence[Logged]) -> None:
    """Write rows of the log."""
    await tx.run(*over(*_LOG_EACH, logged))


def _check_found(found: bool) -> None:
    if not found:
        raise NotFound("There is no such user.")


def _steps(
    tx: Tx,
    kind: FileEventKind,
    owner_id: UserId,
    file_id: FileId,
    file: File | None,
    *,
    now: datetime,
    trace: Trace,
    usage: tuple[int, ...],
    after: str = "",
    provided: tuple[str, tuple[object, ...]] | None = None,
) -> tuple[ChainStep, ChainStep]:
    at = rows.micros(now)
    values = _logged(tx, kind, owner_id, file_id, file, at=at, trace=trace)
    charged = _charged(owner_id, usage, at, logged=1, after=after, provided=provided)
    return charged, ChainStep("logged", _LOG, values, "entry_id")


def _logged(
    tx: Tx, kind: FileEventKind, owner_id: UserId, file_id: FileId, file: File | None, *, at: int, trace: Trace
) -> Logged:
    """The values of a row of the log, without the change number."""
    return (
        owner_id,
        at,
        str(kind),  # 0.1 us; kind.value takes 0.4
        file_id,
        str(trace.kind),
        trace.parent_id,
        trace.from_id,
        0 if tx.sinks.nats else 1,
        0 if tx.sinks.webhook else 1,
        _encode(file).decode() if tx.sinks.nats and file is not None else None,
    )


def _trace_of(file: File) -> Trace:
    """The trace of an entry that stays in its folder."""
    return Trace(file.kind, file.parent_id or "", file.parent_id or "")


FIRST_PROVIDED = 11
"""The number of the first parameter of a condition for :func:`record_created`; ``$1`` is the owner."""


def _charged(
    owner_id: UserId,
    usage: tuple[int, ...],
    at: int,
    *,
    logged: int,
    after: str = "",
    provided: tuple[str, tuple[object, ...]] | None = None,
) -> ChainStep:
    """The step that adds to the usage, if there is something to add, and raises the change number."""
    condition = f" AND EXISTS (SELECT 1 FROM {after})" if after else ""
    sql, values = (_CHANGE, (owner_id, *usage, at, logged)) if any(usage) else (_CHANGE_ALONE, (owner_id, at, logged))
    if provided is not None:
        condition, values = f" AND {provided[0]}", (*values, *provided[1])
    if condition:  # otherwise it is one text, of which the hash is known
        sql += condition
    return ChainStep("charged", sql, values, "changes", again="users WHERE id = $1")


async def charge(
    tx: Tx,
    owner_id: UserId,
    *,
    live: int = 0,
    trash: int = 0,
    versions: int = 0,
    reserved: int = 0,
    entries: int = 0,
    uploads: int = 0,
    version_rows: int = 0,
) -> None:
    """Add to the usage of an owner without changing their lists."""
    values = live, trash, versions, reserved, entries, uploads, version_rows
    await tx.run(f"{_CHARGE} WHERE id = $1", owner_id, *values)


async def check_room(
    tx: Tx,
    owner_id: UserId,
    limits: Auth,
    *,
    entries: int = 0,
    uploads: int = 0,
    versions: int = 0,
    size: int | None = None,
) -> None:
    """Raises ``QuotaExceeded`` unless the owner may have so many more rows and, if *size* is given, more bytes.

    ``field`` of the error names the limit: ``uploads``, ``entries``, ``versions`` or ``size_bytes``.
    A pending upload counts as the entry and as the version that it may become.
    """
    row = rows.found(await tx.one(_ROOM, owner_id), "user")
    pending, entry_count, version_count, quota_bytes, used_bytes = row
    limit = limits.max_pending_uploads
    if uploads and pending + uploads > limit:
        raise QuotaExceeded(f"A user can have at most {limit} pending uploads.", field="uploads")
    limit = limits.max_entries
    if entries and pending + entry_count + entries > limit:
        raise QuotaExceeded(
            f"A drive has at most {limit} files and folders: {pending + entry_count + entries - limit} too many.",
            field="entries",
        )
    limit = limits.max_versions
    if versions and pending + version_count + versions > limit:
        raise QuotaExceeded(f"A drive has at most {limit} earlier versions of files.", field="versions")
    if size is not None and quota_bytes is not None and used_bytes + size > quota_bytes:
        raise QuotaExceeded(
            f"This needs {size} bytes, and the quota has {max(quota_bytes - used_bytes, 0)} left: "
            f"{used_bytes + size - quota_bytes} bytes are missing.",
            field="size_bytes",
        )
