"""What became of the files of a folder."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ImportFault(StrEnum):
    """Why something of the folder is not in the drive, or is there otherwise."""

    SKIPPED = "skipped"
    """It is neither a file nor a folder."""
    REFUSED = "refused"
    """The drive cannot have it under that name, or at all."""
    DIFFERS = "differs"
    """The drive has something else under that name."""
    CHANGED = "changed"
    """It kept changing while it was read."""
    UNREADABLE = "unreadable"


class ImportProblem(msgspec.Struct, frozen=True):
    """One problem with the file at *path*, below the folder that is imported."""

    problem: ImportFault
    path: str
    detail: str


class ImportCounts(msgspec.Struct):
    """How far an import is.  *present* files were there already; *bytes* are those of the files that were stored."""

    files: int = 0
    folders: int = 0
    bytes: int = 0
    present: int = 0
    shared: int = 0
    linked: int = 0
    skipped: int = 0
    refused: int = 0
    differs: int = 0
    changed: int = 0
    unreadable: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every file and folder is in the drive as it is in the folder."""
        return not (self.refused or self.differs or self.changed or self.unreadable)
