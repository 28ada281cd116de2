"""What became of the uploads that a reconciliation checked."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto

from godrive.errors import DriveError
from godrive.messages.ingest import Reconciled
from godrive.model import Upload, UploadId


class Settled(Enum):
    """Result for one due upload.  ``LATER`` is an attempt; ``POSTPONED`` is not, because the store is down."""

    PUBLISHED = auto()
    FAILED = auto()
    EXPIRED = auto()
    LATER = auto()
    POSTPONED = auto()


class Count(Counter[Settled]):
    """Results of one reconciliation, the uploads to postpone, and the first problem."""

    def __init__(self) -> None:
        super().__init__()
        self.postponed: list[UploadId] = []
        self.problem = ""

    def note(self, upload: Upload, error: DriveError) -> None:
        """Keep the first failure of an upload for the operator."""
        self.problem = self.problem or f"upload {upload.id}: {error.code}: {error.detail}"

    def include(self, other: Count) -> None:
        """Add the results of another count."""
        self.update(other)
        self.postponed += other.postponed
        self.problem = self.problem or other.problem

    def reconciled(self) -> Reconciled:
        """Return the counts as a reply."""
        return Reconciled(
            checked=self.total(),
            published=self[Settled.PUBLISHED],
            failed=self[Settled.FAILED],
            expired=self[Settled.EXPIRED],
            postponed=self[Settled.POSTPONED],
            problem=self.problem,
        )
