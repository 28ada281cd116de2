"""What a client is told of a value that does not fit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from godrive.http.api.wording import in_words
from tests.cases import each

TIME = "Must be a time as in RFC 3339, with its offset: 2026-01-31T12:00:00Z"


@each(
    "case",
    [
        (5, str, "Must be a string, not a whole number"),
        (None, str, "Must be a string, not null"),
        ([], bool | int | str, "Must be a string or a whole number or true or false, not an array"),
        (1.5, int, "Must be a whole number, not a number with a fraction"),
        (5, str | None, "Must be a string or null, not a whole number"),
        ("x", dict[str, int], "Must be an object, not a string"),
        ("short", Annotated[str, Meta(min_length=8)], "Must have at least 8 characters"),
        ("longer", Annotated[str, Meta(max_length=3)], "Must have at most 3 characters"),
        ([1, 2], Annotated[list[int], Meta(max_length=1)], "Must have at most 1 item"),
        (0, Annotated[int, Meta(ge=1)], "Must be at least 1"),
        (-7, Annotated[int, Meta(ge=-5)], "Must be at least -5"),
        (9, Annotated[int, Meta(le=5)], "Must be at most 5"),
        ("a b", Annotated[str, Meta(pattern="^[a-z]+$")], "Is malformed"),
        ("soon", datetime, TIME),
        ("2026-01-31T12:00:00", Annotated[datetime, Meta(tz=True)], TIME),
        (5, datetime, "Must be a time, not a whole number"),
        ({}, msgspec.defstruct("Body", [("name", str)]), "Object missing required field `name`"),
    ],
)
def test_what_does_not_fit_is_told_in_the_words_of_json(case: tuple[Any, Any, str]) -> None:
    value, type_, told = case
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(value, type_)
    assert in_words(str(refused.value)) == told
