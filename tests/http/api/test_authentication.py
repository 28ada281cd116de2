"""Who sent a request."""

from __future__ import annotations

from typing import Any

import pytest

from godrive.actors.auth import AuthActor
from godrive.messages.auth import Authenticate
from godrive.principal import UserSession
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio


async def test_requests_ask_for_a_caller_once_a_second_and_a_session_ends_at_once(
    site: Site, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    authenticate = AuthActor.handlers[Authenticate]

    async def watched(actor: AuthActor, ask: Authenticate) -> UserSession:
        asked.append(ask)
        session: UserSession = await authenticate(actor, ask)
        return session

    handlers: dict[Any, Any] = AuthActor.handlers
    monkeypatch.setitem(handlers, Authenticate, watched)
    site.drive.known_callers.clear()
    for _ in range(3):
        assert (await ann("GET", "/v1/me")).status == 200
    assert len(asked) == 1
    assert (await ann("POST", "/v1/logout")).status == 204
    assert (await ann("GET", "/v1/me")).status == 401
