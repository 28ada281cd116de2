"""Pages of sizes: two streams side by side have each key of both once, in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.memory import MemoryBlobStore
from godrive.blobs.pages import Page, aligned, size_pages
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
    await store.close()
