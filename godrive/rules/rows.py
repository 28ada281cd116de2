"""Convert rows to values: column lists, the values built from them, and instants as integers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import msgspec

from godrive.catalog import Row, Tx
from godrive.errors import Invalid, NotFound, PreconditionFailed
from godrive.model import (
    Counts,
    ETag,
    File,
    FileId,
    FileKind,
    ObjectKey,
    OnConflict,
    PropertyValue,
    Session,
    SessionId,
    Upload,
    UploadId,
    UploadKind,
    UploadState,
    Usage,
    User,
    UserId,
    UserState,
    VersionId,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MOST_BYTES = 2**53
"""The largest size (8 PiB), so that sums of sizes fit into a 64-bit integer."""

_NEAR, _FAR = 0, 2**32 * 1_000_000
"""Between these, the conversion through a float is exact: 1970 and 2106."""
read_properties = msgspec.json.Decoder(dict[str, PropertyValue]).decode
"""Parse the column ``properties``."""
ROOT_ID = FileId("root")
"""The id of the root of a drive, in values.  Messages say ``Root`` or ``At``."""

_fromtimestamp = datetime.fromtimestamp

KINDS = {kind.value: kind for kind in FileKind}
_ON_CONFLICT = {each.value: each for each in OnConflict}
_UPLOAD_STATES = {state.value: state for state in UploadState}
_UPLOAD_KINDS = {kind.value: kind for kind in UploadKind}


def micros(instant: datetime) -> int:
    """Return microseconds since 1970."""
    since = instant - EPOCH  # not // MICROSECOND, which takes twice as long
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def later(instant: datetime, seconds: float) -> int:
    """Return the instant plus *seconds*, in microseconds since 1970."""
    return micros(instant) + round(seconds * 1_000_000)


def instant(value: int) -> datetime:
    """Return the instant for a number of microseconds since 1970.

    The conversion through a float is the fastest.  It is exact until the year
    2106, because until then the floats are less than a microsecond apart.
    """
    return datetime.fromtimestamp(value / 1_000_000, UTC)


def any_instant(value: int) -> datetime:
    """Like :func:`instant`, and exact for every year.  For instants that clients choose."""
    return instant(value) if _NEAR <= value < _FAR else EPOCH + value * MICROSECOND


def in_utc(at: datetime, field: str = "modified_at") -> datetime:
    """Return the time in UTC.  Raises ``Invalid`` if it is outside the years 1 to 9999."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise Invalid("The time must lie in the years 1 to 9999 in UTC.", field=field) from None


def maybe_instant(value: int | None) -> datetime | None:
    """Like :func:`instant`, for a column that may be NULL."""
    return None if value is None else instant(value)


USER = (
    "id, email, created_at, state, quota_bytes, live_bytes, trash_bytes, version_bytes, reserved_bytes, external_id, "
    "entry_count, upload_count, version_count, delete_at"
)


def user(row: Row) -> User:
    """Build a user from the columns :data:`USER`."""
    return User(
        id=UserId(row[0]),
        email=row[1],
        created_at=instant(row[2]),
        state=UserState(row[3]),
        quota_bytes=row[4],
        usage=Usage(live_bytes=row[5], trash_bytes=row[6], version_bytes=row[7], reserved_bytes=row[8]),
        external_id=row[9],
        counts=Counts(entries=row[10], uploads=row[11], versions=row[12]),
        delete_at=maybe_instant(row[13]),
    )


SESSION = "id, user_id, created_at, last_used_at, expires_at, generation, address, user_agent"


def session(row: Row) -> Session:
    """Build a session from the columns :data:`SESSION`."""
    return Session(
        id=SessionId(row[0]),
        user_id=UserId(row[1]),
        created_at=instant(row[2]),
        last_used_at=instant(row[3]),
        expires_at=instant(row[4]),
        generation=row[5],
        address=row[6],
        user_agent=row[7],
    )


LIVE = (
    "id, name, created_at, updated_at, kind, parent_id, mime, size_bytes, sha256, version_id, revision, modified_at, "
    "favorite, properties"
)


def live_file(owner_id: UserId, row: Row) -> File:
    """Build a live entry from the columns :data:`LIVE`."""
    (
        id_, name, created_at, updated_at, kind, parent_id, mime, size_bytes, sha256, version_id, revision, modified_at,
        favorite, properties,
    ) = row  # fmt: skip
    created = _fromtimestamp(created_at / 1_000_000, UTC)  # as instant() does, without a call for each row
    etag: Any = f"{id_}.{revision}"
    return File(
        id_,
        owner_id,
        name,
        created,
        created if updated_at == created_at else _fromtimestamp(updated_at / 1_000_000, UTC),
        created if modified_at == created_at else any_instant(modified_at),
        etag,
        KINDS[kind],
        parent_id or None,
        mime,
        size_bytes,
        sha256,
        version_id,
        None,  # it is not in the trash
        None,
        revision,
        favorite == 1,
        read_properties(properties) if properties else {},
    )


TEXTS = 1, 6, 13
"""The indices of the columns with long text: name, media type and properties."""
MOST_TEXT = 500_000
"""The most bytes of such text in a page.  The rest of 1000 rows is as large, and a reply has at most 1 MiB."""
_properties_of = itemgetter(TEXTS[2])
_SHORT_PAGE = 256
"""Rows of which the names and media types always fit: they have at most 1024 and 255 bytes."""
_LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""


def that_fit(found: Sequence[Row], limit: int, texts: Sequence[int] = TEXTS) -> int:
    """Return how many of the rows fit into one reply: 1 to *limit*, fewer if *texts* are long."""
    if texts is TEXTS and len(found) <= _SHORT_PAGE and not any(map(_properties_of, found)):
        return min(len(found), limit)
    characters = 0
    for text in texts:
        characters += sum(map(len, filter(None, map(itemgetter(text), found))))
    if characters * _LONGEST_CHARACTER <= MOST_TEXT:
        return min(len(found), limit)
    room = MOST_TEXT
    for number, row in enumerate(found[:limit]):
        for text in texts:
            room -= len((row[text] or "").encode())
        if room < 0:
            return max(number, 1)
    return min(len(found), limit)


FILE = LIVE + ", owner_id, trashed_at, purge_at"

BEHIND = "(SELECT CASE WHEN clock_latest > $1 THEN clock_latest - $1 ELSE 0 END FROM catalog)"
"""SQL: by how much the clock, which says ``$1``, has been set back since it was trusted last.

What is kept for a time from now on would not be kept at all once the clock is right again.
"""
OWNER, TRASHED_AT = 14, 15
"""Indices among the columns :data:`FILE`."""


def file(row: Row) -> File:
    """Build an entry in any state from the columns :data:`FILE`."""
    found = live_file(UserId(row[OWNER]), row[:OWNER])
    if row[TRASHED_AT] is None:
        return found
    trashed_at, purge_at = row[TRASHED_AT : TRASHED_AT + 2]
    return msgspec.structs.replace(found, trashed_at=instant(trashed_at), purge_at=maybe_instant(purge_at))


def etag(file_id: FileId, revision: int) -> ETag:
    """Return the ETag of an entry."""
    return ETag(f"{file_id}.{revision}")


def root(owner_id: UserId, created_at: int) -> File:
    """Return the root of a drive as an entry.  It never changes."""
    at = instant(created_at)
    return File(
        id=ROOT_ID,
        owner_id=owner_id,
        name="",
        created_at=at,
        updated_at=at,
        modified_at=at,
        kind=FileKind.FOLDER,
        mime="",
        revision=created_at,
        etag=ETag(f"{owner_id}.{created_at}"),
    )


def with_version(file: File, row: Row) -> File:
    """Return the file with the bytes of another version: its id, type, size, digest and time."""
    version_id, mime, size_bytes, sha256, modified_at, *_ = row
    return msgspec.structs.replace(
        file,
        version_id=VersionId(version_id),
        mime=mime,
        size_bytes=size_bytes,
        sha256=sha256,
        modified_at=any_instant(modified_at),
    )


UPLOAD = (
    "id, owner_id, object_key, name, mime, size_bytes, created_at, expires_at, sha256, parent_id, on_conflict, "
    "state, received_bytes, finished_at, attempts, reason, file_id, modified_at, if_match, kind, deferred, staging, "
    "writer, note, part_size, multipart"
)
UPLOAD_TEXTS = 0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 16, 18, 19, 21, 22, 23, 25
"""The indices of the texts among the columns :data:`UPLOAD`, for :func:`that_fit`."""


def upload(row: Row) -> Upload:
    """Build an upload from the columns :data:`UPLOAD`."""
    return Upload(
        id=UploadId(row[0]),
        owner_id=UserId(row[1]),
        object_key=ObjectKey(row[2]),
        name=row[3],
        mime=row[4],
        size_bytes=row[5],
        created_at=instant(row[6]),
        expires_at=instant(row[7]),
        sha256=row[8],
        parent_id=FileId(row[9]) if row[9] else None,
        on_conflict=_ON_CONFLICT[row[10]],
        state=_UPLOAD_STATES[row[11]],
        received_bytes=row[12],
        finished_at=maybe_instant(row[13]),
        attempts=row[14],
        reason=row[15],
        file_id=FileId(row[16]) if row[16] else None,
        modified_at=None if row[17] is None else any_instant(row[17]),
        if_match=row[18],
        kind=_UPLOAD_KINDS[row[19]],
        deferred=row[20] == 1,
        staging=row[21],
        writer=row[22],
        note=row[23],
        part_size=row[24],
        multipart=row[25],
    )


def found(row: Row | None, what: str = "file") -> Row:
    """Return the row.  Raises ``NotFound`` if there is none."""
    if row is None:
        raise NotFound(f"There is no such {what}.")
    return row


def check_match(file: File, if_match: ETag | None) -> None:
    """Raises ``PreconditionFailed`` unless *if_match* is absent, ``*``, or the ETag of the entry or of its content."""
    if if_match is None or if_match in ("*", file.etag):
        return
    if file.version_id is None or if_match != file.content_etag:
        raise PreconditionFailed("The file has changed since that ETag was given.")


def check_limit(limit: int, most: int = 1000) -> int:
    """Return the page limit.  Raises ``Invalid`` unless it is between 1 and *most*."""
    if not 1 <= limit <= most:
        raise Invalid(f"A page has between 1 and {most} items.", field="limit")
    return limit


AT_ONCE = 50
PLACES = ", ".join(f"${number}" for number in range(1, AT_ONCE + 1))
"""SQL: the first parameters of a statement for :func:`each`."""


async def each(tx: Tx, sql: str, ids: Sequence[str], *values: object) -> list[Row]:
    """Return the rows of *sql* for all ids, with one statement for every 50.  Its other parameters follow the ids."""
    found: list[Row] = []
    for start in range(0, len(ids), AT_ONCE):
        some = [*ids[start : start + AT_ONCE]]
        some += some[-1:] * (AT_ONCE - len(some))
        found += await tx.all(sql, *some, *values)
    return found
