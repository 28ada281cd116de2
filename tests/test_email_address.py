"""E-mail addresses: one grammar, one form that is kept, one key for all spellings."""

# ruff: noqa: RUF001 - characters that look alike are what some of these tests are about

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from godrive import email_address
from godrive.errors import Invalid
from tests.cases import each


@each(
    ("given", "kept"),
    [
        ("ann@example.org", "ann@example.org"),
        (" Ann+Drive@Example.ORG ", "Ann+Drive@example.org"),
        ("O'Brien@localhost", "O'Brien@localhost"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@BÜCHER.Example", "ann@xn--bcher-kva.example"),
        ("ann@bu\u0308cher.example", "ann@xn--bcher-kva.example"),
        ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
        ("ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"),
        ("ann@faß.example", "ann@xn--fa-hia.example"),
        ("ann@ｅｘａｍｐｌｅ.org", "ann@example.org"),
        ("ann@موقع.example", "ann@xn--4gbrim.example"),
        ("ann@ab--cd.example", "ann@ab--cd.example"),
    ],
)
def test_an_address_is_kept_with_its_domain_in_lower_case_and_ascii(given: str, kept: str) -> None:
    assert email_address.clean(given) == kept
    assert email_address.clean(kept) == kept
    assert email_address.key(given) == email_address.key(kept) == kept.lower()


@each(
    "text",
    ["", "ann", "@example.org", "ann@", "a nn@example.org", "ann@exa mple.org", "ann@@example.org", "ann@example..org",
     ".ann@example.org", "ann.@example.org", "a..n@example.org", "ann@-example.org", "ann@example-.org", "ann@.org",
     "ann@example.org.", "ann@example.org\n", "ann\0@example.org", "ann@example.org\0", '"ann"@example.org',
     "ann@[127.0.0.1]", "ann <ann@example.org>", "a" * 65 + "@example.org", "a@" + "b" * 64 + ".org",
     "ann@ex\u202eample.org", "ann@ex_ample.org", "ann@xn--.org", "ann@xn--zzzzzzzz99999.org", "ann@xn--a.org",
     "ann@xn--BCHER-KVA-.org", "ann@bü_cher.org", "ann@-bücher.org", "ann@bücher。", "ann@\u0301a.org", "ann@א1a.org",
     "ann@bücher.org＠evil.org", "ann@☕.example", "ann@" + "ü" * 64 + ".org", "ann@\ud800.org", "\ud800@example.org",
     "ann@ex\u200dample.org", "ann@" + "ü" * 10_000 + ".org"],
)  # fmt: skip
@each("utf8", [False, True])
def test_what_is_no_address_is_refused(text: str, utf8: bool) -> None:
    with pytest.raises(Invalid) as caught:
        email_address.clean(text, utf8=utf8)
    assert caught.value.field == "email"


@each("text", ["änn@example.org", "用户@例え.テスト", "ὀδυσσεύς.1@example.org", "д'артаньян@example.org"])
def test_letters_beyond_ascii_before_the_at_are_accepted_only_where_allowed(text: str) -> None:
    with pytest.raises(Invalid, match="ASCII"):
        email_address.clean(text)
    kept = email_address.clean(text, utf8=True)
    assert kept.partition("@")[0] == text.partition("@")[0]


@each(
    "local",
    ["a\u202enn", "ａnn", "ﬁona", "ſusan", "a\u200bnn", "a\u034fnn", "a\u00a0nn", "\u0301ann", "ann.\u0301a", "😀",
     "a\ufe0f", "ann\u3000", "é" * 33, "ann\u0085", "\u115fann", "ann\ue000"],
)  # fmt: skip
def test_characters_that_look_like_others_or_cannot_be_seen_are_refused(local: str) -> None:
    with pytest.raises(Invalid, match="not an e-mail"):
        email_address.clean(f"{local}@example.org", utf8=True)


@each(
    ("one", "other", "same"),
    [
        ("Änn@example.org", "a\u0308nn@EXAMPLE.org", True),
        ("ann@bücher.example", "ANN@xn--bcher-kva.example", True),
        ("straße@example.org", "strasse@example.org", False),
        ("ann@faß.example", "ann@fass.example", False),
        ("İnci@example.org", "inci@example.org", False),
        ("not an address", " NOT AN ADDRESS", True),
    ],
)
def test_two_spellings_are_one_address_or_two(one: str, other: str, same: bool) -> None:
    assert (email_address.key(one) == email_address.key(other)) == same


def test_an_address_has_64_octets_before_the_at_and_254_in_all() -> None:
    domain = ".".join(["x" * 63] * 4)
    assert email_address.clean(f"a@{domain[:252]}") == f"a@{domain[:252]}"
    for text in (f"a@{domain[:253]}", "a@" + ".".join(["ü" * 50] * 5)):
        with pytest.raises(Invalid):
            email_address.clean(text)
    assert email_address.clean("é" * 32 + "@b.c", utf8=True) == "é" * 32 + "@b.c"


@given(st.text(max_size=40) | st.from_regex(r"[^@]{1,5}@[^@]{1,8}\.[^@]{1,3}", fullmatch=True))
@example("ann@İ.org")
def test_any_text_is_refused_or_has_one_form_with_an_ascii_domain(text: str) -> None:
    try:
        kept = email_address.clean(text, utf8=True)
    except Invalid:
        return
    assert email_address.clean(kept, utf8=True) == kept
    assert kept.partition("@")[2].isascii()
    assert kept.isprintable()
    assert email_address.key(kept) == email_address.key(text)
    assert email_address.key(email_address.key(text)) == email_address.key(text)
