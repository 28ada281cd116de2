"""The description of the API says what the server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from godrive.http.api.openapi import document
from godrive.http.api.operations import Operation
from godrive.http.app import OPERATIONS
from tests.cases import each

DOCUMENT = document(OPERATIONS, base_url="http://drive.test")


@each("operation", OPERATIONS)
@pytest.mark.slow
def test_what_may_be_wrong_with_any_request_is_described_for_each(
    operation: Operation, url: str, session: requests.Session
) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    path = re.sub(r"{\w+}", "x", operation.path)
    for query, headers, status in (
        ("?a=" + "b" * 9000, {}, 414),
        ("", {"X-Long": "b" * 20_000}, 431),
        ("", {"Authorization": "Bearer " + "b" * 20_000}, 431),
        ("", {"Expect": "tea"}, 417),
    ):
        answer = session.request(operation.method, f"{url}{path}{query}", headers=headers, timeout=10)
        if not operation.signed:  # which looks at the URL, and only then at what is expected
            assert answer.status_code == status
        assert str(answer.status_code) in described
    assert "500" in described


def test_the_document_is_the_one_that_is_served_but_for_its_address(url: str) -> None:
    served = requests.get(f"{url}/openapi.json", timeout=10).json()
    assert served == DOCUMENT


def test_every_tag_is_described_and_every_description_is_markdown_without_code_by_accident() -> None:
    operations = [operation for item in DOCUMENT["paths"].values() for operation in item.values()]
    described = {tag["name"] for tag in DOCUMENT["tags"]}
    assert described == {tag for operation in operations for tag in operation["tags"]}
    texts = [operation.get("description", "") for operation in operations]
    texts += [response["description"] for operation in operations for response in operation["responses"].values()]
    texts += [schema.get("description", "") for schema in DOCUMENT["components"]["schemas"].values()]
    assert [text for text in texts if "\n    " in text] == []


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
