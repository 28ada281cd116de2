"""The description and the server say the same: schemathesis asks by the one and checks what the other answers."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS, load_all_checks

from godrive.http.api.openapi import document
from godrive.http.api.operations import Operation
from godrive.http.app import OPERATIONS
from godrive.http.routes import changes
from godrive.http.wire.server import serve
from godrive.testing import open_drive
from tests.cases import each

load_all_checks()

DOCUMENT = document(OPERATIONS, base_url="http://drive.test")
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
# A URL that is too long is refused before anybody looks at what is wrong with its parts.
SCHEMA.config.checks.negative_data_rejection.expected_statuses += ["414"]
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


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on a loop and thread of its own: schemathesis asks from this one, and waits."""
    listening: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        limits = {"attempts_per_address": 100_000, "attempts_per_account": 100_000}
        async with open_drive(auth=limits) as drive, serve(drive, "127.0.0.1", 0) as (url,):
            listening.set_result(url)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[run()])
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "LONGEST_WAIT", 0.01)
        yield listening.result(20)
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


class Known:
    """A person with a file, a file in the trash and an upload, made anew for each operation."""

    count = 0

    def __init__(self, url: str) -> None:
        Known.count += 1
        account = {"email": f"p{Known.count}@example.org", "password": "correct horse"}
        requests.post(f"{url}/v1/signup", json=account, timeout=10)
        tokens = requests.post(f"{url}/v1/login", json=account, timeout=10).json()
        self.headers = {"Authorization": f"Bearer {tokens['token']}"}
        self.file_id = self._upload(url, "a.txt")
        trashed = self._upload(url, "b.txt")
        requests.delete(f"{url}/v1/files/{trashed}", headers=self.headers, timeout=10)
        self.upload_id = self._intent(url, "c.txt")["upload_id"]
        self.ids = {"file_id": [self.file_id, trashed], "upload_id": [self.upload_id], "session_id": []}

    def _intent(self, url: str, name: str) -> Any:
        body: dict[str, str | int] = {"filename": name, "mime": "text/plain", "size_bytes": 0}
        return requests.post(f"{url}/v1/files/upload-intent", json=body, headers=self.headers, timeout=10).json()

    def _upload(self, url: str, name: str) -> str:
        intent = self._intent(url, name)
        target = url + intent["upload_url"].removeprefix("http://drive.test")
        file_id: str = requests.put(target, headers=intent["headers"], data=b"", timeout=10).json()["file"]["id"]
        return file_id


@pytest.fixture
def known(url: str) -> Known:
    """Somebody with things of their own."""
    return Known(url)


@SCHEMA.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.slow
def test_the_server_keeps_what_the_description_promises(case: schemathesis.Case[Any], url: str, known: Known) -> None:
    for name, value in (case.path_parameters or {}).items():
        there = known.ids.get(name)
        if there and len(str(value)) % 2:
            case.path_parameters[name] = there[len(str(value)) // 2 % len(there)]
    timeout = 0.2 if case.operation.path == "/v1/events" else 20.0  # a stream does not end by itself
    case.call_and_validate(base_url=url, headers=known.headers, checks=PROMISES, timeout=timeout)


@each("operation", OPERATIONS)
def test_what_may_be_wrong_with_any_request_is_described_for_each(operation: Operation, url: str) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    path = re.sub(r"{\w+}", "x", operation.path)
    for query, headers, status in (
        ("?a=" + "b" * 9000, {}, 414),
        ("", {"X-Long": "b" * 20_000}, 431),
        ("", {"Authorization": "Bearer " + "b" * 20_000}, 431),
        ("", {"Expect": "tea"}, 417),
    ):
        answer = requests.request(operation.method, f"{url}{path}{query}", headers=headers, timeout=10)
        if not operation.signed:  # which looks at the URL, and only then at what is expected
            assert answer.status_code == status
        assert str(answer.status_code) in described
    assert "500" in described


def test_the_document_is_the_one_that_is_served_but_for_its_address(url: str) -> None:
    served = requests.get(f"{url}/openapi.json", timeout=10).json()
    assert served == DOCUMENT


def test_every_reference_of_the_document_leads_somewhere_and_every_operation_has_its_own_name() -> None:
    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for reference in walk(DOCUMENT):
        at: Any = DOCUMENT
        for key in reference.removeprefix("#/").split("/"):
            at = at[key]
    operations = [operation for item in DOCUMENT["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert all(operation["summary"] and operation["responses"] for operation in operations)
