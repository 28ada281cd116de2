"""Lists that are too long for the memory, in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

from godrive.blobs.failures import is_full
from godrive.errors import StorageFull

T = TypeVar("T")

_LENGTH = 4


class Spool(Generic[T]):
    """Items of one *type_*, written page by page to a new file, and read again in the same pages."""

    def __init__(self, path: Path, type_: type[T]) -> None:
        self._file = path.open("w+b")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[type_]).decode  # type: ignore[valid-type]

    def __enter__(self) -> Spool[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a page for which there was no room is still in the buffer
            self._file.close()

    def add(self, page: list[T]) -> None:
        """Append a page.  Raises ``StorageFull``."""
        data = self._encode(page)
        try:
            self._file.write(len(data).to_bytes(_LENGTH, "big") + data)
            self._file.flush()
        except OSError as error:
            if is_full(error):
                raise StorageFull("The disk of the data folder has no room for what the backup notes.") from error
            raise

    def pages(self) -> Iterator[list[T]]:
        """Yield all pages.  Nothing is added meanwhile."""
        self._file.seek(0)
        while length := self._file.read(_LENGTH):
            yield self._decode(self._file.read(int.from_bytes(length, "big")))
