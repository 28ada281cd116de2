"""A declaration of a route that forgets what matters is refused when its module is imported."""

from __future__ import annotations

from typing import Any

import pytest

from godrive.errors import NotFound
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, SIGNED, Routes
from godrive.model import FileId
from godrive.principal import Scope


async def look(call: Call, file_id: FileId) -> None:
    """Look at a file."""


def test_a_route_that_does_not_say_what_it_needs_is_refused() -> None:
    routes = Routes("files")
    for method in (routes.get, routes.put, routes.post, routes.patch, routes.delete):
        with pytest.raises(TypeError, match="needs"):
            method("/v1/files/{file_id}", raises=[NotFound])(look)  # type: ignore[call-arg]
    assert routes.operations == []


@pytest.mark.parametrize("needs", [None, "", "files:read", True, 0, Scope, [Scope.FILES_READ]])
def test_what_a_route_needs_is_a_scope_or_public_or_signed(needs: Any) -> None:
    routes = Routes("files")
    with pytest.raises(TypeError, match="needs a Scope"):
        routes.get("/v1/files/{file_id}", needs=needs)(look)
    for known in (*Scope, PUBLIC, SIGNED):
        routes.get("/v1/files/{file_id}", needs=known)(look)
    assert [operation.needs for operation in routes.operations] == [*Scope, PUBLIC, SIGNED]


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        Routes("files").get("/v1/files/{file_id}", needs=PUBLIC, colour="red")(look)  # type: ignore[call-arg]


def test_a_handler_takes_exactly_what_its_path_has() -> None:
    with pytest.raises(TypeError, match="file_id"):
        Routes("files").get("/v1/files/{id}", needs=PUBLIC)(look)
