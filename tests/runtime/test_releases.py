"""What a process says to one of another release: understood, or refused whole."""

from __future__ import annotations

import msgspec
import pytest

from godrive.errors import NotUnderstood
from godrive.runtime import Ask, Contract, codec


class Old(Contract, name="desk"):
    pass


class New(Contract, name="desk"):
    pass


class Found(msgspec.Struct, frozen=True):
    name: str


class FoundMore(msgspec.Struct, frozen=True):
    name: str
    size: int


class OldRelease:
    class Find(Ask[Old, Found]):
        name: str


class NewRelease:
    class Find(Ask[New, FoundMore]):
        name: str
        only_in: str | None = None


OldFind, NewFind = OldRelease.Find, NewRelease.Find


def test_a_newer_process_that_uses_nothing_new_is_understood() -> None:
    message = codec.decode(Old, "Find", codec.encode(NewFind(name="a")))
    assert message == OldFind(name="a")


def test_a_field_that_is_not_known_is_refused_because_it_may_be_a_limit() -> None:
    with pytest.raises(NotUnderstood, match="only_in") as refused:
        codec.decode(Old, "Find", codec.encode(NewFind(name="a", only_in="b")))
    assert refused.value.hint == codec.HINT


def test_a_message_of_an_older_process_has_the_default_of_what_it_lacks() -> None:
    message = codec.decode(New, "Find", codec.encode(OldFind(name="a")))
    assert message == NewFind(name="a", only_in=None)


def test_a_message_or_a_field_that_only_the_receiver_needs_is_refused() -> None:
    for name, data in (("Count", b"\x80"), ("Find", b"\x80")):
        with pytest.raises(NotUnderstood):
            codec.decode(New, name, data)


def test_what_a_newer_reply_has_more_is_ignored() -> None:
    assert codec.decode_reply(OldFind, codec.encode_reply(FoundMore("a", 1))) == Found("a")
