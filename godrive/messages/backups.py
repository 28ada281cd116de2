"""Messages to the metadata actor about the backups of the drive."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import Value
from godrive.runtime import Ask, Lane


class MadeBackup(Value):
    """The newest snapshot of the drive in the backup *target*."""

    target: str
    snapshot_id: str
    made_at: datetime
    blobs: int
    bytes: int


class NoteBackup(Ask[Metadata, None]):
    """Record that a snapshot was made."""

    lane: ClassVar[Lane] = Lane.CHORE

    made: MadeBackup


class ListBackups(Ask[Metadata, list[MadeBackup]]):
    """List the newest snapshot in each backup."""

    lane: ClassVar[Lane] = Lane.CHORE
