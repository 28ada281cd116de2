"""Search by name: what is found, in which order, by whom, and how the index follows."""

from __future__ import annotations

from typing import Any

import pytest

from godrive.errors import Invalid
from godrive.messages.files import SearchFiles
from godrive.messages.system import CheckNames, IndexNames
from godrive.model import File, UserId
from godrive.principal import Principal
from godrive.rules.names import begins_word, search_key
from tests.contracts.rig import ROOT, Rig, host

pytestmark = pytest.mark.anyio


async def find(rig: Rig, by: Principal | UserId, text: str | None = None, **options: Any) -> list[str]:
    """The names that a search finds, by way of as many pages as it takes."""
    return [file.name for file in await found(rig, by, text, **options)]


async def found(rig: Rig, by: Principal | UserId, text: str | None = None, **options: Any) -> list[File]:
    """The entries that a search finds."""
    who = host(by) if isinstance(by, str) else by
    ask = {"where": ROOT, "text": text, **options}
    page = await rig.ask(SearchFiles(by=who, **ask))
    items = page.items
    while page.next_page is not None:
        page = await rig.ask(SearchFiles(by=who, page=page.next_page, **ask))
        items = items + page.items
    return items


async def index(rig: Rig, limit: int = 100) -> None:
    """Let the index follow to the end, and compare it with the entries."""
    while await rig.ask(IndexNames(limit=limit)):
        pass
    assert (await rig.ask(CheckNames())).wrong == []
    if type(rig.catalog).__name__ == "SqliteCatalog":
        await rig.run("INSERT INTO names_fts (names_fts, rank) VALUES ('integrity-check', 1)")


async def files(rig: Rig, owner: UserId, *names: str, **options: Any) -> list[File]:
    """Files of these names, each newer than the one before."""
    made = []
    for name in names:
        rig.clock.advance(1)
        made.append(await rig.file(owner, name, **options))
    return made


async def test_a_search_ranks_exact_prefix_word_and_substring_then_the_newest(rig: Rig) -> None:
    owner = await rig.user()
    await files(rig, owner, "xreport.md", "report", "old-report.md", "report b", "my report.txt", "report a", "reports")
    expected = ["report", "reports", "report a", "report b", "my report.txt", "old-report.md", "xreport.md"]
    assert await find(rig, owner, "report") == expected
    await index(rig)
    assert await find(rig, owner, "report") == expected
    assert await find(rig, owner, "REPORT", limit=2) == expected
    assert await find(rig, owner, "report my") == ["my report.txt"]
    assert await find(rig, owner, "  my   report ") == ["my report.txt"]


NAMES = [
    "a.txt", "100%_done.txt", "!bang!.txt", 'quote "x".txt', "star*.txt", "a OR b.txt",
    "NEAR(x y)", "a'b.txt", "-minus", "^caret", "{text}: x", "年度报告.pdf", "レポート.pdf",
    "보고서.hwp", "รายงาน.txt", "हिन्दी.txt", "a😀b.txt", "❤️love.png", "👨‍👩‍👧 family.jpg",
    "🇩🇪 flag.png", "İstanbul.jpg", "Straße.txt", "ﬁle.txt", "e\u0301tude.txt",
    "x\u0301y.txt", "Ångström.md", "Σίσυφος.txt", "Ёлка.doc", "名", "a", "ab",
    "  two  spaces  ", "tab_name.TAR.GZ", "ǅ.txt", "i\u0307.txt", "x" * 255, "日" * 255,
]  # fmt: skip
QUERIES = [
    "a", "ab", "txt", "%", "_", "100%", "%_d", "!", "!!", "!b", '"', '"x"', "*", "star*", "OR",
    "a OR b", "NEAR(x", "NEAR", "'", "-", "-m", "^", "^c", "{", "{text}:", "text:x", "年", "年度",
    "报告", "度报", "年度报告", "ポー", "ト", "고서", "งาน", "हि", "न्दी", "😀", "a😀b", "❤", "❤️", "lo",
    "love", "👨", "👧", "🇩🇪", "istanbul", "is", "ISTANBUL", "\u0131stanbul", "strasse", "STRASSE", "ß",
    "ss", "fi", "ﬁ", "file", "étude", "e\u0301t", "\u0301", "x\u0301", "x", "xy", "ångström",
    "a\u030an", "σίσυφος", "ΣΊΣΥΦΟΣ", "ς", "ёлка", "ел", "名", "two spaces", "  ", " two",
    "tar.gz", ".g", "gz", "ǆ", "x" * 255, "x" * 256, "x" * 1000, "日" * 200,
    " ".join("xyz" for _ in range(250)), "\x01", "\x01\x01a", "\u200d", "\ufe0f", "q" * 3,
]  # fmt: skip


def naive(names: list[str], text: str) -> set[str]:
    """What a search must find, by the definition."""
    words = search_key(text).split()

    def holds(key: str, word: str) -> bool:
        places = [at for at in range(len(key)) if key.startswith(word, at)]
        return any(len(word) > 2 or begins_word(key, at) for at in places)

    return {
        name
        for name in names
        if all(holds(search_key(name), word) for word in words) or search_key(name).startswith(" ".join(words))
    }


async def test_texts_of_every_kind_are_literal_and_find_by_what_names_contain(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    for name in NAMES:
        await rig.file(owner, name)
        await rig.file(other, name)
    for indexed in (False, True):
        for text in QUERIES:
            if text.strip():
                assert set(await find(rig, owner, text)) == naive(NAMES, text), (indexed, text)
            else:
                with pytest.raises(Invalid) as refused:
                    await find(rig, owner, text)
                assert refused.value.field == "text"
        await index(rig)
