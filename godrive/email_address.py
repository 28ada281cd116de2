"""E-mail addresses: which are accepted, how they are kept, and which are the same.

The grammar is a Mailbox of RFC 5321 without quoted local parts and address
literals: those are mistakes, or worse.  An internationalised domain is kept in
its ASCII form (RFC 5891), so both of its spellings are one address.  A local
part may hold letters beyond ASCII (RFC 6531) where the caller allows it; of
those, only the letters, marks and digits that RFC 8264 lets identifiers hold,
because others look like them or cannot be seen.
"""

from __future__ import annotations

import re
import unicodedata

import idna

from godrive.errors import Invalid

LONGEST = 254
"""Octets of an address (RFC 5321, section 4.5.3.1.3, less its brackets)."""

_LONGEST_LOCAL = 64
_ATOM = r'[^\x00-\x20"(),.:;<>@[\\\]\x7f]+'  # what is left is compiled in a thirtieth of the time that the rest takes
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LETTERS = {"Ll", "Lu", "Lo", "Lm", "Mn", "Mc", "Nd"}  # RFC 8264, section 9.1
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def clean(text: str, *, utf8: bool = False) -> str:
    """The address as it is kept: without spaces around it, its domain in lower case and ASCII.

    *utf8* allows letters beyond ASCII before the ``@``.  Raises ``Invalid``.
    """
    local, at, domain = text.strip(" ").rpartition("@")
    if not at or len(domain) > LONGEST:
        raise _invalid()
    local = unicodedata.normalize("NFC", local)
    if not _LOCAL.fullmatch(local) or len(_octets(local)) > _LONGEST_LOCAL:
        raise _invalid()
    if not local.isascii():
        if not utf8:
            raise Invalid("This server accepts only ASCII before the @ of an e-mail address.", field="email")
        if not _is_identifier(local):
            raise _invalid()
    address = f"{local}@{_ascii_domain(domain)}"
    if len(_octets(address)) > LONGEST:
        raise _invalid()
    return address


def key(text: str) -> str:
    """The same text for all spellings of one address; of no address, the text in lower case."""
    try:
        text = clean(text, utf8=True)
    except Invalid:
        text = text.strip()[:LONGEST]
    # Lower case and not case folding, which makes one address of "ß" and "ss", which are two.
    return unicodedata.normalize("NFC", text.lower())


def _ascii_domain(domain: str) -> str:
    try:
        # The mapping of UTS 46: lower case, one width, one kind of full stop.
        mapped = domain.lower() if domain.isascii() else idna.uts46_remap(domain)
        labels = [_ascii_label(label) for label in mapped.split(".")]
    except UnicodeError:  # what idna raises
        raise _invalid() from None
    if not all(map(_LABEL.fullmatch, labels)):
        raise _invalid()
    return ".".join(labels)


def _ascii_label(label: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        return label
    # There and back, so that only the one ASCII form of a label passes.
    return idna.alabel(idna.ulabel(label)).decode("ascii")


def _is_identifier(local: str) -> bool:
    """Whether the characters beyond ASCII are letters, marks and digits that look like no others."""
    foreign = [character for character in local if not character.isascii()]
    return (
        all(unicodedata.category(character) in _LETTERS for character in foreign)
        and unicodedata.normalize("NFKC", local) == local
        and not _INVISIBLE.search(local)
        and not any(unicodedata.combining(atom[0]) for atom in local.split("."))
    )


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _invalid() -> Invalid:
    return Invalid("That is not an e-mail address.", field="email")
