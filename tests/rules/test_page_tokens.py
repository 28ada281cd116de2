"""Page tokens: ours come back, all others are refused."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from godrive.errors import Invalid
from godrive.rules.page_tokens import PageTokens

TOKENS = PageTokens([b"0123456789abcdef"])
SCOPE = ("files", "owner", None)
POSITIONS = st.tuples(
    st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    st.text(st.characters(codec="utf-8"), max_size=40),
)


@given(POSITIONS)
def test_a_token_comes_back_as_its_position(position: tuple[int | str, str]) -> None:
    assume(len(str(position[0])) < 300)
    token = TOKENS.make(SCOPE, position)
    assert TOKENS.read(SCOPE, token) == position
    assert token.isascii()


@given(st.text(max_size=100))
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid) as caught:
        TOKENS.read(SCOPE, token)
    assert caught.value.field == "page"


@given(st.integers(0, 1000), st.characters())
def test_a_token_with_one_character_changed_is_refused(place: int, character: str) -> None:
    token = TOKENS.make(SCOPE, (123456, "id"))
    place %= len(token) + 1
    for edited in (
        token[:place] + character + token[place + 1 :],
        token[:place] + character + token[place:],
        token[:place],
    ):
        if edited != token:
            with pytest.raises(Invalid):
                TOKENS.read(SCOPE, edited)


@pytest.mark.parametrize(
    "scope", [("files", "owner"), ("files", "other", None), ("files", "owner", ""), ("filesowner", None)]
)
def test_a_token_of_another_list_is_refused(scope: tuple[object, ...]) -> None:
    token = TOKENS.make(SCOPE, (1, "x"))
    with pytest.raises(Invalid):
        TOKENS.read(scope, token)


@pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 65])
def test_a_key_that_is_too_short_or_too_long_is_a_bug(key: bytes) -> None:
    with pytest.raises(ValueError, match="16 to 64"):
        PageTokens([b"k" * 16, key])


def test_without_a_key_there_are_no_tokens() -> None:
    with pytest.raises(ValueError, match="must be a key"):
        PageTokens([])


def test_a_token_survives_a_rotation_until_its_key_is_gone() -> None:
    old, new = b"o" * 16, b"n" * 16
    token = PageTokens([old]).make(SCOPE, (1, "x"))
    rotated = PageTokens([new, old])
    assert rotated.read(SCOPE, token) == (1, "x")
    assert rotated.make(SCOPE, (1, "x")) == PageTokens([new]).make(SCOPE, (1, "x")) != token
    with pytest.raises(Invalid):
        PageTokens([new]).read(SCOPE, token)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    token = TOKENS.make(SCOPE, (123456, "id"))
    monkeypatch.setattr("godrive.rules.page_tokens.compare_digest", lambda one, other: False)
    with pytest.raises(Invalid):
        TOKENS.read(SCOPE, token)
