"""The catalog in one SQLite file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from godrive.catalog import Tx

T = TypeVar("T")


class SqliteCatalog:
    """A catalog in the file *path*, made when absent.

    *outbox* has every change of a file leave an event in the same transaction.
    """

    def __init__(self, path: Path, *, allow_network_fs: bool = False, outbox: bool = False) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T: ...

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T: ...
