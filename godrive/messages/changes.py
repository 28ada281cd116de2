"""Messages to the metadata actor about the log of changes."""

from __future__ import annotations

from enum import StrEnum

from godrive.messages.metadata import Metadata
from godrive.model import File, FileId, FileKind, Value
from godrive.principal import Principal
from godrive.runtime import Ask


class ChangeKind(StrEnum):
    """What a change did, as clients see it.

    ``moved`` means a new name or a new folder.  ``removed`` means that the
    entry has left what the client may see.
    """

    CREATED = "created"
    UPDATED = "updated"
    MOVED = "moved"
    TRASHED = "trashed"
    RESTORED = "restored"
    PURGED = "purged"
    REMOVED = "removed"


class Change(Value, kw_only=False):
    """One change of an entry, or of the top of a tree.

    *entry* is the current state, absent if the client cannot see it any more.
    *cursor* is the position after this change.  Not keyword-only, because a page
    has up to 1000.
    """

    change: ChangeKind
    id: FileId
    kind: FileKind
    cursor: str
    entry: File | None = None


class ChangePage(Value):
    """Some changes, and the cursor after them.  *number* is the change number that the cursor stands for."""

    changes: list[Change]
    cursor: str
    has_more: bool
    number: int


class ListChanges(Ask[Metadata, ChangePage]):
    """Return the changes of the drive of *by* after *cursor*, oldest first.

    Without *cursor*, return no changes and the cursor for now.  A principal that
    is confined to a folder gets the changes below it, and ``removed`` for an
    entry that has left it.  The cursor of the page is where the next page
    begins, also if the page has no changes.

    Raises ``CursorReset`` if the log does not reach back to the cursor, or the
    cursor is from another user, or from a state of the catalog that a restored
    backup does not have; ``Invalid`` for text that is not a cursor.
    """

    by: Principal
    cursor: str | None = None
    limit: int = 100
