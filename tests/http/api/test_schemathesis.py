"""The description and the server say the same: schemathesis asks by the one and checks what the other answers."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import requests

from godrive.http.app import OPERATIONS

LABELS = [f"{operation.method} {path}" for operation in OPERATIONS for path in operation.paths]


def test_every_operation_is_described() -> None:
    from tests.http.api.promises import OPERATION

    assert sorted(OPERATION) == sorted(LABELS)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.slow
def test_the_server_keeps_what_the_description_promises(label: str, url: str, session: requests.Session) -> None:
    from tests.http.api.promises import OPERATION, Known, ask

    ask(OPERATION[label], url, Known(url, session), session)


def test_the_installed_schemathesis_was_checked() -> None:
    assert version("schemathesis").startswith("4.32."), "build_operation_test is private"
