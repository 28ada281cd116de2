"""Names: which are allowed, which are the same, and how one is numbered."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.errors import Invalid
from godrive.model import name_key
from godrive.rules.names import MOST_NAME_CHARACTERS, after_prefix, check_name, numbered, search_key
from tests.cases import each

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\"), min_size=1)


@each(
    "name",
    [
        "a",
        "日本語.txt",
        "...",
        " ",
        "a b",
        ".hidden",
        "con",
        "x" * 255,
        "é" * 255,
        "🎉" * 255,
        "e\u0301" * 255,
        "\u0958" * 170,
        "\u202ea",
        "👩‍👩‍👧",
    ],
)
def test_a_name_is_taken_as_it_was_sent(name: str) -> None:
    assert check_name(name) == name


@each(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "/",
        "a\\b",
        "a\x00",
        "\n",
        "a\x7f",
        "a\x85",
        "x" * 256,
        "é" * 256,
        "🎉" * 256,
        "e\u0301" * 256,
        "e\u0301\u0323" * 255,
        "\u0958" * 255,
        "\U0001d164" * 255,
        "\ud800",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_name(name)
    assert caught.value.field == "name"


@given(st.text())
def test_a_name_is_taken_or_refused_by_field_and_nothing_else(name: str) -> None:
    try:
        assert check_name(name) == name
    except Invalid as error:
        assert error.field == "name"  # noqa: PT017


@given(NAMES.filter(lambda name: len(name) <= MOST_NAME_CHARACTERS))
def test_what_the_indices_hold_of_a_name_fits_into_a_page_of_postgres(name: str) -> None:
    try:
        check_name(name)
    except Invalid:
        return
    assert len(name_key(name).encode()) <= 1024
    assert len(search_key(name).encode()) <= 2048


@given(NAMES)
def test_a_search_does_not_tell_normal_forms_or_cases_apart(name: str) -> None:
    key = search_key(name)
    assert search_key(unicodedata.normalize("NFD", name)) == key
    assert search_key(key) == key


@pytest.mark.parametrize(
    ("name", "sought"),
    [
        ("İSTANBUL", "istanbul"),
        ("istanbul", "İstanbul"),
        ("ISTANBUL", "\u0131stanbul"),
        ("KIRMIZI", "k\u0131rm\u0131z\u0131"),
        ("KIRMIZI", "kirmizi"),
        ("I\u0307STANBUL", "istanbul"),
        ("i\u0307\u0307", "I"),
        ("Í\u0307", "í\u0307"),
        ("STRASSE", "straße"),
        ("GROẞ", "groß"),
        ("ΟΔΟΣ", "οδος"),
        ("ﬃcient", "FFICIENT"),
        ("\u1fbc", "\u03b1\u03b9"),
    ],
)
def test_a_search_folds_case_in_full_and_turkish_letters_too(name: str, sought: str) -> None:
    assert search_key(name) == search_key(sought)


@given(NAMES, NAMES)
def test_a_prefix_bounds_exactly_what_begins_with_it(prefix: str, other: str) -> None:
    end = after_prefix(prefix)
    for text in (prefix + other, other, prefix):
        raw, low = text.encode(), prefix.encode()
        inside = raw >= low and (end is None or raw < end.encode())
        assert inside == text.startswith(prefix)


def test_nothing_is_greater_than_the_greatest_prefix() -> None:
    assert after_prefix("\U0010ffff") is None
    assert after_prefix("a\U0010ffff") == "b"
    assert after_prefix("\ud7ff") == "\ue000"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "a (7).txt"),
        ("a", "a (7)"),
        ("a.tar.gz", "a.tar (7).gz"),
        (".profile", ".profile (7)"),
        ("Mr. Smith went to Washington", "Mr. Smith went to Washington (7)"),
        ("x" * 255, "x" * 251 + " (7)"),
        ("🎉" * 255, "🎉" * 251 + " (7)"),
        ("x" * 250 + ".txt", "x" * 247 + " (7).txt"),
    ],
)
def test_a_number_goes_before_the_suffix(name: str, expected: str) -> None:
    assert numbered(name, 7) == expected


@given(NAMES.filter(lambda name: len(name) <= MOST_NAME_CHARACTERS), st.integers(1, 10**6))
def test_a_numbered_name_is_a_name(name: str, number: int) -> None:
    if name not in (".", ".."):
        assert check_name(numbered(name, number)) != name
