"""A catalog that reports after each commit whose drives have changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from godrive.catalog import Catalog, Tx
from godrive.errors import DriveError
from godrive.model import UserId

T = TypeVar("T")

OnChange = Callable[[set[UserId]], None]


class NoticedCatalog:
    """Passes everything to *catalog*, and calls *on_change* with the owners of the changes that were committed."""

    def __init__(self, catalog: Catalog, on_change: OnChange) -> None:
        self._catalog = catalog
        self._on_change = on_change

    async def open(self) -> None:
        await self._catalog.open()

    async def close(self) -> None:
        await self._catalog.close()

    @property
    def problem(self) -> DriveError | None:
        return self._catalog.problem

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        return await self._catalog.read(operation, chore=chore, large=large)

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        changed = set[UserId]()

        async def noted(tx: Tx) -> T:
            tx.changed.clear()
            value = await operation(tx)
            if tx.changed:
                changed.update(tx.changed)
            return value

        value = await self._catalog.write(noted, chore=chore, answers=answers)
        if changed:
            self._on_change(changed)
        return value
