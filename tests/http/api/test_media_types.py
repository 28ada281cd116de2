"""Media types, read as RFC 9110 writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.errors import Invalid
from godrive.http.api.media_types import MediaType, parse_media_type
from tests.cases import each


@each(
    ("text", "name", "parameters"),
    [
        ("text/plain", "text/plain", {}),
        (" Text/Plain\t", "text/plain", {}),
        ("text/plain;charset=utf-8", "text/plain", {"charset": "utf-8"}),
        ('text/plain ; Charset="UTF-8" ; format=flowed', "text/plain", {"charset": "UTF-8", "format": "flowed"}),
        ("text/plain; charset = utf-8", "text/plain", {"charset": "utf-8"}),
        ("text/plain;;; a=b;", "text/plain", {"a": "b"}),
        ('a/b; c="d;e, \\"f\\""', "a/b", {"c": 'd;e, "f"'}),
        ("a/b; c=1; C=2", "a/b", {"c": "1"}),
        ("application/vnd.api+json", "application/vnd.api+json", {}),
    ],
)
def test_a_media_type_is_its_name_and_its_parameters(text: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(text) == MediaType(name, tuple(parameters.items()))


@each(
    "text",
    [
        "",
        "text",
        "text/",
        "/plain",
        "text/plain, text/html",
        "text /plain",
        'a/b; c="d',
        "a/b; c",
        "a/b; c=d e",
        "a/b/c",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_media_type(text)


@given(st.text(max_size=60) | st.text('a/;= \t"\\\\,', max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        media_type = parse_media_type(text)
    except Invalid:
        return
    assert parse_media_type(text).agrees_with(media_type)
