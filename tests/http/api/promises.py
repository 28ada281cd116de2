"""What schemathesis asks by the description, and what it checks of the answers.

A module of its own, because schemathesis takes a second and a half to import: only the processes that ask import it.
"""

from __future__ import annotations

import os
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test

from godrive.http.api.openapi import document
from godrive.http.app import OPERATIONS

load_all_checks()
schemathesis.serializer.alias(
    ["application/offset+octet-stream", "application/partial-upload"], "application/octet-stream"
)

SCHEMA = schemathesis.openapi.from_dict(document(OPERATIONS, base_url="http://drive.test"))
# A URL that is too long, and another version of tus, are refused before anybody looks at what else is wrong.
SCHEMA.config.checks.negative_data_rejection.expected_statuses += ["414", "412"]
EXAMPLES = int(os.environ.get("GODRIVE_TEST_EXAMPLES", "1"))
"""Random requests to each operation, beside those that schemathesis derives from its description."""

PROMISES: list[Any] = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "negative_data_rejection",
        "unsupported_method",
        "ignored_auth",
    )
]


class Known:
    """A person with a file, a file in the trash and an upload, made anew for each operation."""

    count = 0

    def __init__(self, url: str, session: requests.Session) -> None:
        def post(path: str, **options: Any) -> Any:
            return session.post(url + path, headers=self.headers, timeout=10, **options).json()

        Known.count += 1
        account = {"email": f"p{Known.count}@example.org", "password": "correct horse"}
        self.headers: dict[str, str] = {}
        post("/v1/signup", json=account)
        self.headers = {"Authorization": f"Bearer {post('/v1/login', json=account)['token']}"}
        self.file_id, trashed = (post(f"/v1/files?name={name}", data=b"")["id"] for name in ("a.txt", "b.txt"))
        session.delete(f"{url}/v1/files/{trashed}", headers=self.headers, timeout=10)
        intent = {"filename": "c.txt", "mime": "text/plain", "size_bytes": 0}
        self.upload_id = post("/v1/files/upload-intent", json=intent)["upload_id"]
        self.ids = {"file_id": [self.file_id, trashed], "upload_id": [self.upload_id], "session_id": []}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def _keeps_its_promises(case: schemathesis.Case[Any], url: str, known: Known, session: requests.Session) -> None:
    for name, value in (case.path_parameters or {}).items():
        there = known.ids.get(name)
        if there and len(str(value)) % 2:
            case.path_parameters[name] = there[len(str(value)) // 2 % len(there)]
    timeout = 0.2 if case.operation.path == "/v1/events" else 20.0  # a stream does not end by itself
    case.call_and_validate(base_url=url, session=session, headers=known.headers, checks=PROMISES, timeout=timeout)


DESCRIBED: list[Any] = list(SCHEMA.get_all_operations())
OPERATION = {each.ok().label: each.ok() for each in DESCRIBED}
"""Each that is described, by its method and path."""


def ask(operation: Any, url: str, known: Known, session: requests.Session) -> None:
    """Make the requests of an operation.  ``SCHEMA.parametrize`` would derive those of all as it collects the tests."""
    derived = build_operation_test(
        config=SCHEMA.config,
        operation=operation,
        test_func=_keeps_its_promises,
        given_kwargs={},
        feedback=FeedbackSources(),
    )
    derived(url=url, known=known, session=session)
