"""Parses the event of every store that an object was created into one value.

=============  ==========================  ================  ============================
store          source                      key               envelope
=============  ==========================  ================  ============================
AWS            ``aws:s3``                  URL-encoded       nothing, SNS, SQS, both
AWS            EventBridge                 as it is          ``detail``
MinIO          ``minio:s3``                URL-encoded       ``EventName`` and ``Key``
RustFS         ``rustfs:s3``               URL-encoded       ``data``, over NATS and AMQP
Ceph           ``ceph:s3``                 as it is          nothing
SeaweedFS      the filer's webhook         a path            nothing
=============  ==========================  ================  ============================

Encoded means as in an HTML form: ``%2F`` for a slash and ``+`` for a space.
Ceph, MinIO and RustFS also send the user metadata of the object.

Sources: Amazon S3 user guide, "Event message structure"; Ceph documentation,
"Bucket Notifications"; MinIO ``internal/event``; RustFS ``crates/notify``;
SeaweedFS ``weed/notification/webhook``.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, TypeAlias
from urllib.parse import unquote_plus

import msgspec

from godrive.errors import Invalid
from godrive.model import ETag, Value

DEEPEST = 4
"""The most nested envelopes.  S3 in SNS in SQS has three."""

_METADATA = "x-amz-meta-"

_BUCKETS = "/buckets/"
"""The folder of SeaweedFS's filer that has its buckets."""

_LARGEST = 2**63 - 1
"""The largest integer in a message to another process."""

_NOTHING_TO_DO = ("SubscriptionConfirmation", "UnsubscribeConfirmation")


class ObjectCreated(Value):
    """An object of a bucket was written.

    ``key`` is the decoded key.  ``event_id`` distinguishes events; it is empty
    if the store sends none.  ``metadata`` is the user metadata of the object,
    by names in lower case; empty if the store sends none.
    """

    bucket: str
    key: str
    size_bytes: int | None = None
    etag: ETag | None = None
    event_id: str = ""
    at: datetime | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class MalformedRecord(Value):
    """A record among others that cannot be read, as JSON, and the reason."""

    record: bytes
    reason: str


class _Batch(msgspec.Struct):
    records: list[msgspec.Raw] = msgspec.field(name="Records")


class _Named(msgspec.Struct):
    name: str


class _Object(msgspec.Struct):
    key: str
    size: int | None = None
    pairs: Any = msgspec.field(default=None, name="metadata")
    """User metadata as Ceph sends it.  Anything else is no reason to refuse the event."""
    fields: Any = msgspec.field(default=None, name="userMetadata")
    """The same as MinIO and RustFS send it."""
    upper_etag: str | None = msgspec.field(default=None, name="eTag")
    lower_etag: str | None = msgspec.field(default=None, name="etag")
    sequencer: str | None = None

    @property
    def etag(self) -> str | None:
        return self.upper_etag or self.lower_etag

    @property
    def metadata(self) -> dict[str, str]:
        found: list[tuple[Any, Any]] = []
        if isinstance(self.pairs, list):
            found += [(pair.get("key"), pair.get("val")) for pair in self.pairs if isinstance(pair, dict)]
        if isinstance(self.fields, dict):
            found += self.fields.items()
        named = [(name.lower(), value) for name, value in found if isinstance(name, str) and isinstance(value, str)]
        return {name.removeprefix(_METADATA): value for name, value in named if name.startswith(_METADATA)}


class _Subject(msgspec.Struct):
    bucket: _Named
    object: _Object


class _Record(msgspec.Struct, rename="camel"):
    event_name: str
    s3: _Subject
    event_source: str = ""
    event_id: str = ""
    event_time: str = ""


class _Attributes(msgspec.Struct):
    file_size: int | None = None
    md5: str | None = None


class _Entry(msgspec.Struct):
    is_directory: bool = False
    attributes: _Attributes | None = None


class _FilerMessage(msgspec.Struct):
    new_entry: _Entry | None = None


class _FilerEvent(msgspec.Struct):
    key: str
    event_type: str
    message: _FilerMessage | None = None


_Found: TypeAlias = ObjectCreated | MalformedRecord

_UNREADABLE = (Invalid, msgspec.MsgspecError, UnicodeError, RecursionError)


def parse(body: bytes | str) -> list[_Found]:
    """The objects created according to a store's message, and its malformed records.  Empty for other events.

    Raises ``Invalid`` for anything but JSON in a known shape, and if no record can be read.
    """
    try:
        found = _parse(body, DEEPEST)
    except _UNREADABLE as error:
        raise Invalid(_reason(error)) from None
    reasons = [each.reason for each in found if isinstance(each, MalformedRecord)]
    if reasons and len(reasons) == len(found):
        raise Invalid(reasons[0])
    return found


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, Invalid) else f"The bucket event cannot be read: {error}"


def _parse(body: bytes | str, depth: int) -> list[_Found]:
    message = msgspec.json.decode(body)
    if isinstance(message, dict) and depth and isinstance(records := message.get("Records"), list):
        return _read_batch(body, records, depth)
    return _read(message, depth)


def _read_batch(body: bytes | str, records: list[Any], depth: int) -> list[_Found]:
    """Read the *records* of the message *body*."""
    found: list[_Found] = []
    malformed: dict[int, str] = {}
    for number, record in enumerate(records):
        try:
            found += _read_record(record, depth)
        except _UNREADABLE as error:
            malformed[number] = _reason(error)
    if malformed:
        raw = msgspec.json.decode(body, type=_Batch).records
        found += [MalformedRecord(record=bytes(raw[number]), reason=reason) for number, reason in malformed.items()]
    return found


def _read(message: Any, depth: int) -> list[_Found]:
    if not isinstance(message, dict) or depth == 0:
        raise Invalid("The bucket event has a shape that no known store sends.")
    if isinstance(message.get("Message"), str) and "TopicArn" in message:
        return [] if message.get("Type") in _NOTHING_TO_DO else _parse(message["Message"], depth - 1)
    if message.get("Event") == "s3:TestEvent":
        return []
    if message.get("source") == "aws.s3" and "detail-type" in message:
        return _read_bridge(message)
    if "event_type" in message and "key" in message:
        return _read_filer(msgspec.convert(message, _FilerEvent))
    raise Invalid("The bucket event has a shape that no known store sends.")


def _read_record(record: Any, depth: int) -> list[_Found]:
    if depth and isinstance(record, dict) and "s3" not in record:
        if isinstance(inner := record.get("data"), dict):  # RustFS
            return _read_record(inner, depth - 1)
        if isinstance(queued := record.get("body"), str):  # SQS, as AWS Lambda passes it on
            return _parse(queued, depth - 1)
        if isinstance(topic := record.get("Sns"), dict):
            return _read({"TopicArn": "", **topic}, depth - 1)
    found = msgspec.convert(record, _Record)
    if not found.event_name.removeprefix("s3:").startswith("ObjectCreated:"):
        return []
    subject = found.s3.object
    key = subject.key if found.event_source == "ceph:s3" else unquote_plus(subject.key)
    return [_arrival(found.s3.bucket.name, key, subject, found.event_id, found.event_time)]


def _read_bridge(message: dict[str, Any]) -> list[_Found]:
    if message["detail-type"] != "Object Created":
        return []
    subject = msgspec.convert(message.get("detail"), _Subject)
    event_id = message.get("id")
    return [
        _arrival(subject.bucket.name, subject.object.key, subject.object, event_id if isinstance(event_id, str) else "")
    ]


def _read_filer(event: _FilerEvent) -> list[_Found]:
    entry = event.message.new_entry if event.message else None
    bucket, slash, key = event.key.removeprefix(_BUCKETS).partition("/")
    in_a_bucket = event.key.startswith(_BUCKETS) and bucket and slash and key
    if event.event_type not in {"create", "update"} or not in_a_bucket or entry is None or entry.is_directory:
        return []
    attributes = entry.attributes or _Attributes()
    found = _Object(key=key, size=attributes.file_size, upper_etag=_hex(attributes.md5))
    return [_arrival(bucket, key, found, "")]


def _arrival(bucket: str, key: str, found: _Object, event_id: str, time: str = "") -> ObjectCreated:
    size = found.size if found.size is not None and 0 <= found.size <= _LARGEST else None
    etag = ETag(found.etag.strip('"')) if found.etag else None
    return ObjectCreated(
        bucket=bucket,
        key=key,
        size_bytes=size,
        etag=etag,
        event_id=event_id or found.sequencer or "",
        at=_instant(time),
        metadata=found.metadata,
    )


def _instant(text: str) -> datetime | None:
    """The instant, if it is one and names its zone."""
    try:
        instant = datetime.fromisoformat(text)
        return None if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _hex(md5: str | None) -> str | None:
    try:
        return base64.b64decode(md5, validate=True).hex() if md5 else None
    except (binascii.Error, ValueError):
        return None
