"""The files of pages that were read lately: most of them will be in the next reading of the same page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from godrive.model import File
from godrive.rules.lists import Known

MOST_FILES = 4_096
"""Files of all pages together: some 4 MB."""


class KnownPages:
    """Files by page, each by its id and revision, which no two states of a file share.  The oldest pages go first."""

    def __init__(self, most: int = MOST_FILES) -> None:
        self._most = most
        self._pages: OrderedDict[Hashable, Known] = OrderedDict()
        self._count = 0

    def get(self, page: Hashable) -> Known | None:
        """Return the files of the page when it was read last."""
        return self._pages.get(page)

    def put(self, page: Hashable, files: list[File]) -> None:
        """Keep the files of the page."""
        self._count += len(files) - len(self._pages.pop(page, ()))
        self._pages[page] = {(file.id, file.revision): file for file in files}
        while self._count > self._most:
            self._count -= len(self._pages.popitem(last=False)[1])
