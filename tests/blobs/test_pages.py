"""Pages of sizes: two streams side by side have each key of both once, in order.  Pages of keys have every key."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.key_ranges import KeyRanges, keys_in
from godrive.blobs.memory import MemoryBlobStore
from godrive.blobs.pages import END, Page, aligned, key_pages, size_pages
from godrive.model import ObjectKey
from godrive.testing import chunks

pytestmark = pytest.mark.anyio

KEYS = st.sets(st.integers(0, 60))


async def stream(keys: set[int], lengths: list[int]) -> AsyncGenerator[Page, None]:
    """The keys in pages of these lengths, some of which are empty."""
    left = [ObjectKey(f"{key:04}/x") for key in sorted(keys)]
    for length in lengths:
        yield dict.fromkeys(left[:length], 1)
        left = left[length:]
    yield dict.fromkeys(left, 1)


@given(KEYS, KEYS, st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
async def test_aligned_pages_have_every_key_once_and_the_same_range(
    left: set[int], right: set[int], one: list[int], other: list[int]
) -> None:
    upto = ""
    mine: list[str] = []
    theirs: list[str] = []
    async for first, second in aligned(stream(left, one), stream(right, other)):
        assert first or second
        assert min([*first, *second]) > upto
        upto = max([*first, *second])
        mine += first
        theirs += second
    assert mine == [f"{key:04}/x" for key in sorted(left)]
    assert theirs == [f"{key:04}/x" for key in sorted(right)]


@pytest.mark.parametrize("kind", ["memory", "disk", "files", "packs"])
async def test_the_pages_of_a_store_are_its_list(
    tmp_path_factory: pytest.TempPathFactory, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godrive.blobs.disk_moves.AT_ONCE", 3)
    monkeypatch.setattr("godrive.blobs.pages.AT_ONCE", 3)
    below = {"disk": 100, "files": 0, "packs": 10_000}
    store = (
        MemoryBlobStore() if kind == "memory" else DiskBlobStore(tmp_path_factory.mktemp(kind), pack_below=below[kind])
    )
    await store.open()
    assert [page async for page in size_pages(store) if page] == []
    for number in range(40):
        key, size = ObjectKey(f"{number % 7:02}{'-b' * (number % 2)}/{number:03}"), number * 11 % 200
        await store.put(key, chunks(bytes(size), 50), size=size)
    pages = [page async for page in size_pages(store) if page]
    assert len(pages) > 5
    assert [item for page in pages for item in page.items()] == [
        (blob.key, blob.size_bytes) async for blob in store.list()
    ]
    after, found = "", []
    async for page in key_pages(store):
        assert all(after < key <= page.upto for key in page.keys)
        after = page.upto
        found.append(page.keys)
    assert len(found) > 5
    assert after == END
    assert [key for keys in found for key in keys] == [blob.key async for blob in store.list()]
    await store.close()


async def test_the_pages_of_keys_leave_out_what_is_no_blob(tmp_path: Path) -> None:
    store = DiskBlobStore(tmp_path, pack_below=0)
    await store.open()
    for key in ("01/a", "01/b", "02/a"):
        await store.put(ObjectKey(key), chunks(b"some", 4), size=4)
    for name in ("01/a.tmp", "01/A", "01/two words", "01/line\n", f"01/{'x' * 65}", "other", "03.bak"):
        (tmp_path / "objects" / name).write_bytes(b"")
    assert [key async for page in key_pages(store) for key in page.keys] == ["01/a", "01/b", "02/a"]
    await store.close()


@given(st.lists(st.integers(0, 30)), st.integers(0, 31), st.integers(0, 31), st.integers(1, 9))
def test_a_range_of_a_table_is_read_piece_by_piece(rows: list[int], after: int, upto: int, at_once: int) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE named (key TEXT NOT NULL)")
        connection.execute("CREATE INDEX named_key ON named (key)")
        connection.executemany("INSERT INTO named VALUES (?)", [(f"{row:02}/x",) for row in rows])
        reached, end, found = f"{after:02}/x", f"{upto:02}/x", []
        while reached < end:
            before = reached
            reached, text = KeyRanges("named", "key").read(connection, before, end, at_once)
            keys = keys_in(text)
            assert all(before < key <= reached for key in keys)
            assert reached == end or len(keys) >= at_once
            found += keys
        assert sorted(found) == [f"{row:02}/x" for row in sorted(rows) if after < row <= upto]
