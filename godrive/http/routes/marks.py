"""Find entries by what clients keep with them: favorites and properties."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from godrive.errors import Invalid
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import FileList, Limit, PageToken
from godrive.http.routes.trash import PageQuery
from godrive.messages.files import ListByProperty, ListFavorites
from godrive.model import PropertyValue
from godrive.principal import Scope

routes = Routes("marks")

_read_value = msgspec.json.Decoder(PropertyValue).decode


class PropertyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects entries by a property, and a page."""

    key: Annotated[str, Meta(min_length=1, max_length=64, description="The key of the property.")]
    value: (
        Annotated[str, Meta(max_length=1200, description='The value as JSON: `"draft"`, `5`, `true`. Absent: any.')]
        | None
    ) = None
    limit: Limit = 100
    page: PageToken | None = None


@routes.get("/v1/favorites", needs=Scope.FILES_READ, raises=[Invalid])
async def list_favorites(call: Call, query: PageQuery) -> FileList:
    """List the favorite files and folders, newest first. Nothing in the trash is listed."""
    page = await call.drive.metadata.ask(ListFavorites(by=call.by, limit=query.limit, page=query.page))
    return FileList.of(page)


@routes.get("/v1/properties", needs=Scope.FILES_READ, raises=[Invalid], costly=True)
async def list_by_property(call: Call, query: PropertyQuery) -> FileList:
    """List the files and folders that have a property, newest first. Nothing in the trash is listed.

    With `value`, list only those whose property has that value. `1` equals `1.0`; the text `"1"` does not equal the
    number `1`.
    """
    value = None
    if query.value is not None:
        try:
            value = _read_value(query.value)
        except msgspec.DecodeError:
            raise Invalid('A value is JSON: a text such as "draft", a number, or a boolean.', field="value") from None
    page = await call.drive.metadata.ask(
        ListByProperty(by=call.by, key=query.key, value=value, limit=query.limit, page=query.page)
    )
    return FileList.of(page)
