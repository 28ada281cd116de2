"""Search by name and by properties of files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from godrive.errors import Invalid, NotFound
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import EntryId, FileList, Limit, PageToken, spot_of
from godrive.messages.files import SearchFiles
from godrive.model import FileType
from godrive.principal import Scope

routes = Routes("search")

Instant = Annotated[datetime, Meta(tz=True)]
Bytes = Annotated[int, Meta(ge=0)]


class SearchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"within": "in"}):
    """What to find.  At least ``q`` or a filter is required."""

    q: Annotated[str, Meta(max_length=1000, description="Words that the name contains, in any order.")] | None = None
    type: Annotated[FileType, Meta(description="A kind of entry or of media.")] | None = None
    min_size: Annotated[Bytes, Meta(description="At least so many bytes.")] | None = None
    max_size: Annotated[Bytes, Meta(description="At most so many bytes.")] | None = None
    modified_after: Annotated[Instant, Meta(description="Modified at this time or later.")] | None = None
    modified_before: Annotated[Instant, Meta(description="Modified before this time.")] | None = None
    within: Annotated[EntryId, Meta(description="A folder to search in, at any depth; `root` is the default.")] = "root"
    limit: Limit = 100
    page: PageToken | None = None


@routes.get(
    "/v1/search",
    needs=Scope.FILES_READ,
    costly=True,
    fields={"text": "q", "parent_id": "in"},
    raises=[Invalid, NotFound],
)
async def search_files(call: Call, query: SearchQuery) -> FileList:
    """Find files and folders by name, at any depth.

    Names that equal `q` come first, then those that begin with it, then those in which every word of `q` begins a word,
    then all others; among equals, the newest come first. The order covers the newest 1000 matches; older ones follow on
    later pages.
    """
    page = await call.drive.metadata.ask(
        SearchFiles(
            by=call.by,
            where=spot_of(query.within),
            text=query.q,
            type=query.type,
            min_size=query.min_size,
            max_size=query.max_size,
            modified_after=query.modified_after,
            modified_before=query.modified_before,
            limit=query.limit,
            page=query.page,
        )
    )
    return FileList.of(page)
