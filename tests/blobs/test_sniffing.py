"""The type of content that nobody declared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.disposition import UNKNOWN, may_be_shown
from godrive.blobs.sniffing import HEAD, is_utf_8, sniff
from tests.cases import each

STARTS = """
BM MZ PK GIF89a GIF87a ID3 OggS RIFF fLaC FLV BZh II* MM Rar! 7z %!PS %PDF <html> <!DOCTYPE <?xml <svg #!/bin/sh CWS
FWS MIME-Version:1.0 \ufeffBOM P6 SIMPLE wOFF true ftyp LZIP From: BEGIN:VCARD { 8BPS
"""


@each("start", STARTS.split())
def test_bytes_that_are_text_are_text_whatever_they_begin_with(start: str) -> None:
    assert sniff(f"{start} invoice 2024\n".encode(), "notes") == "text/plain"
    assert sniff(f"{start} Grüße, 世界".encode(), "a.html") == "text/plain"


@each(
    ("head", "name", "mime"),
    [
        (b"a,b\n", "a.CSV", "text/csv"),
        (b"# hi\n", "README.md", "text/markdown"),
        (b"hi\n", "md", "text/plain"),
        (b"hi\n", ".json", "text/plain"),
        (b"{}\n", "a.json", "application/json"),
        (b"", "a.txt", "text/plain"),
        (b"", "a.html", UNKNOWN),
        (b"", "a", UNKNOWN),
        (b"%PDF-1.4\n1 0 obj\n", "a", "application/pdf"),
        (b"{\\rtf1\\ansi hello}", "a", "application/rtf"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a", "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "a", "image/jpeg"),
        (b"PK\x03\x04" + bytes(100), "a", "application/zip"),
        (b"\0asm\1\0\0\0" + bytes(100), "a.wasm", UNKNOWN),
        (b"<html>\x01", "a.html", UNKNOWN),
        (bytes(100), "a.js", UNKNOWN),
    ],
)
def test_the_type_is_what_bytes_and_name_say(head: bytes, name: str, mime: str) -> None:
    assert sniff(head, name) == mime


@given(
    st.binary(max_size=300),
    st.sampled_from(["html", "svg", "xml", "js", "swf", "wasm", "mht", "eml", "xhtml", "jar", "txt"]),
)
def test_no_bytes_are_of_a_type_that_a_browser_runs(head: bytes, suffix: str) -> None:
    for data in (head, b"<svg>" + head, b"<html>" + head, b"\xff\xfe" + head, b"CWS" + head, b"\0asm" + head):
        mime = sniff(data, f"a.{suffix}")
        run = ("html", "xml", "javascript", "svg", "flash", "wasm", "rfc822", "multipart", "java", "ecmascript")
        assert not any(word in mime for word in run), mime
        assert may_be_shown(mime) or mime == mime.strip().lower()


def test_only_a_full_head_may_end_within_a_character() -> None:
    assert is_utf_8(b"a" + "é".encode() * (HEAD // 2))
    assert is_utf_8((b"a" + "é".encode() * HEAD)[:HEAD])
    assert not is_utf_8("é".encode()[:1])
    assert not is_utf_8((b"a" * HEAD)[:-1] + b"\xff")


@pytest.mark.parametrize("control", ["\0", "\x07", "\x0b", "\x1b", "\x7f", "\x85", "\x9f"])
def test_control_characters_make_it_no_text(control: str) -> None:
    assert not is_utf_8(f"a{control}b".encode())
    assert is_utf_8(b"tab\t line\r\n form\f")


def test_noise_is_unknown() -> None:
    assert sniff(b"\x00\xfe" + bytes(range(255, 128, -1)), "a") == UNKNOWN
