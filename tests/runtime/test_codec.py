"""Messages, replies and errors survive the wire; anything else is refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.errors import BY_CODE, AskTimeout, DriveError, Invalid, NotUnderstood
from godrive.runtime import Ask, Contract, codec
from tests.cases import each


class Post(Contract, name="post"):
    """Takes letters."""


class Letter(msgspec.Struct, frozen=True):
    to: str
    sent_at: datetime
    pages: list[bytes] = []


class Send(Ask[Post, list[Letter]]):
    """Send a letter.  Idempotent."""

    letter: Letter
    copies: int = 1


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def test_a_message_survives_the_wire() -> None:
    message = Send(Letter("you", NOW, [b"\x00\xff"]), 3)
    assert codec.decode(Post, "Send", codec.encode(message)) == message


@each("message, field", [
    (Send(Letter("you", datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))))), "letter"),
    (Send(Letter("\ud800", NOW)), "letter"),
    (Send(Letter("you", NOW), 2**64), "copies"),
])  # fmt: skip
def test_what_the_wire_cannot_carry_is_a_mistake_of_the_request(message: Send, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec.encode(message)
    assert caught.value.field == field


def test_a_reply_survives_the_wire() -> None:
    reply = [Letter("you", NOW), Letter("me", NOW, [b"x"])]
    assert codec.decode_reply(Send, codec.encode_reply(reply)) == reply


@each("kind", BY_CODE.values())
def test_every_error_survives_the_wire(kind: type[DriveError]) -> None:
    error = kind("what", field="name", hint="do", retry_after=2.5)
    back = codec.decode_error(codec.encode_error(error))
    assert type(back) is kind
    assert (back.detail, back.field, back.hint, back.retry_after) == ("what", "name", "do", 2.5)
    assert codec.decode_error(codec.encode_error(kind())).retry_after == kind().retry_after


def test_an_error_of_a_newer_peer_is_still_an_error() -> None:
    back = codec.decode_error(msgspec.msgpack.encode(["from_the_future", "what"]))
    assert (type(back), back.detail) == (DriveError, "what")


def test_a_message_nobody_knows_is_invalid() -> None:
    with pytest.raises(NotUnderstood, match="knows no message 'Burn'"):
        codec.decode(Post, "Burn", b"\x80")


VALID = codec.encode(Send(Letter("you", NOW, [b"a"]), 3))


@given(st.binary(max_size=200) | st.builds(lambda cut: VALID[:cut], st.integers(0, len(VALID) - 1)))
def test_whatever_arrives_a_message_is_whole_or_refused(data: bytes) -> None:
    try:
        message = codec.decode(Post, "Send", data)
    except NotUnderstood:
        return
    assert isinstance(message, Send)
    assert codec.decode(Post, "Send", codec.encode(message)) == message


@given(st.binary(max_size=200))
def test_whatever_arrives_a_reply_is_whole_or_the_outcome_is_unknown(data: bytes) -> None:
    with suppress(AskTimeout):
        assert isinstance(codec.decode_reply(Send, data), list)
    assert isinstance(codec.decode_error(data), DriveError)


@pytest.mark.parametrize("data", [b"\xa3ab\xff", b"\x91" * 100_000], ids=["not UTF-8", "bottomless"])
def test_text_that_is_not_text_and_bottomless_nesting_are_refused(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        codec.decode(Post, "Send", b"\x81\xa6letter" + data)
    with pytest.raises(NotUnderstood):
        codec.decode(Post, "Send", b"\x81\xa6colour" + data)
    with pytest.raises(AskTimeout):
        codec.decode_reply(Send, data)
    assert isinstance(codec.decode_error(b"\x92" + data), AskTimeout)
