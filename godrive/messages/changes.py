"""Messages to the metadata actor about the log of changes."""

from __future__ import annotations

from godrive.messages.metadata import Metadata
from godrive.model import ChangePage
from godrive.principal import Principal
from godrive.runtime import Ask


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
