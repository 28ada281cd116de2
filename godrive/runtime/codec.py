"""Encodes messages, replies and errors.  No other module serialises them.

The format is MessagePack.  The name of a message is not part of its bytes but of
the subject that it is sent to.

The two ends may be of different releases.  Fields that have their default are
not sent, so a message that makes no use of what is new is understood by an older
process.  A message that does, or that is not known at all, is refused as
``NotUnderstood`` and never half understood: a field that is not known may be
what limits the message.  In a reply, fields that are not known are ignored.  A
malformed reply is an ``AskTimeout``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from godrive.errors import BY_CODE, AskTimeout, DriveError, Invalid, NotUnderstood
from godrive.runtime.message import Ask, Contract, Message

HINT = "Run one release in all processes; replace those that run metadata first, and those that serve HTTP last."

_encoder = msgspec.msgpack.Encoder()

# msgspec raises no error of its own for invalid UTF-8 and for deep nesting.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_UNSENDABLE = (OverflowError, UnicodeEncodeError)


class _WireError(msgspec.Struct, frozen=True, array_like=True):
    code: str
    detail: str
    field: str | None = None
    hint: str | None = None
    retry_after: float | None = None


_error_decoder = msgspec.msgpack.Decoder(_WireError)


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_)


def encode(message: Message[Any]) -> bytes:
    """The message's fields.

    Raises ``Invalid`` for an integer of more than 64 bits, a time outside the
    years 1 to 9999 in UTC, and a text with half a surrogate pair.
    """
    try:
        return _encoder.encode(message)
    except _UNSENDABLE:
        wrong = next((name for name in message.__struct_fields__ if not _is_sendable(getattr(message, name))), None)
        raise Invalid("A text, number or time in the request is out of range.", field=wrong) from None


def _is_sendable(value: Any) -> bool:
    try:
        _encoder.encode(value)
    except _UNSENDABLE:
        return False
    return True


def decode(contract: type[Contract], name: str, data: bytes) -> Ask[Any, Any]:
    """The message called *name* of *contract*.  Raises ``NotUnderstood``."""
    try:
        type_ = contract.messages[name]
    except KeyError:
        raise NotUnderstood(f"The {contract.name} actor knows no message {name!r}.", hint=HINT) from None
    try:
        message: Ask[Any, Any] = _decoder(type_).decode(data)
    except _MALFORMED as error:
        raise NotUnderstood(f"The {contract.name} actor does not know this {name}: {error}", hint=HINT) from None
    return message


def encode_reply(value: Any) -> bytes:
    """The reply to an ask."""
    return _encoder.encode(value)


def decode_reply(message: type[Ask[Any, Any]], data: bytes) -> Any:
    """The reply to an ask of that type.  Raises ``AskTimeout`` if it is malformed: nobody knows what was done."""
    try:
        return _decoder(message.reply).decode(data)
    except _MALFORMED as error:
        raise AskTimeout(f"Malformed reply to {message.__name__}, the outcome is unknown: {error}") from None


def encode_error(error: DriveError) -> bytes:
    """An error as a reply."""
    return _encoder.encode(_WireError(error.code, error.detail, error.field, error.hint, error.retry_after))


def decode_error(data: bytes) -> DriveError:
    """The error that was sent; a plain ``DriveError`` if its code is unknown."""
    try:
        wire = _error_decoder.decode(data)
    except _MALFORMED as error:
        return AskTimeout(f"Malformed error, the outcome is unknown: {error}")
    kind = BY_CODE.get(wire.code, DriveError)
    return kind(wire.detail, field=wire.field, hint=wire.hint, retry_after=wire.retry_after)
