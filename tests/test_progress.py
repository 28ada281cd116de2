"""Progress of long work, on a terminal and elsewhere."""

from __future__ import annotations

import asyncio
import io
import sys

import pytest

from godrive.commands import one_line, size_text
from godrive.commands.progress import telling
from godrive.errors import Conflict

pytestmark = pytest.mark.anyio


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
async def test_an_error_of_the_work_comes_out_as_itself(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(Conflict):
        async with telling(lambda: "3 blobs"):
            await asyncio.sleep(0)
            raise Conflict("No.")
    shown = stream.getvalue()
    assert ("3 blobs" in shown) == stream.isatty(), "elsewhere a line comes now and then"
    assert shown.endswith("\r\x1b[K") == stream.isatty(), "the line is removed at the end"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**52, "4096.0 TiB")],
)
def test_a_size_is_for_people(number: int, text: str) -> None:
    assert size_text(number) == text


def test_a_name_never_leaves_its_line_or_speaks_to_the_terminal() -> None:
    assert one_line("a\nb\x1b[2J\u2028\u202ec\u00e9 d") == "a\\nb\\x1b[2J\\u2028\\u202ec\u00e9 d"
