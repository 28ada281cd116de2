"""The private parts of aiohttp that we rely on: all listed, all there, and only in versions that were looked at."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

import godrive.http
from godrive.http.wire import aiohttp_internals
from godrive.http.wire.aiohttp_internals import CHECKED, HANDLER, PROTOCOL, READER, REQUEST, RESPONSE
from godrive.http.wire.bytes_response import BytesResponse
from godrive.http.wire.connection import Connection
from tests.cases import each

HTTP = Path(godrive.http.__file__).parent
PRIVATE = re.compile(r"_[a-z]\w*")


def test_the_installed_version_was_checked() -> None:
    minor = ".".join(aiohttp.__version__.split(".")[:2])
    assert minor in CHECKED, f"aiohttp {minor} was not checked: see the docstring of {aiohttp_internals.__name__}"


def test_the_dependency_is_limited_to_the_versions_that_were_checked() -> None:
    project = tomllib.loads((HTTP.parent.parent / "pyproject.toml").read_text())["project"]
    (limit,) = [each for each in project["dependencies"] if each.startswith("aiohttp")]
    major, minor = max(tuple(map(int, version.split("."))) for version in CHECKED)
    assert limit.endswith(f"<{major}.{minor + 1}")


def test_what_is_listed_is_there() -> None:
    slots = {*RequestHandler.__slots__, *BaseProtocol.__slots__}
    assert HANDLER.keys() <= slots
    assert READER.keys() <= set(StreamReader.__slots__)
    assert PROTOCOL.keys() <= set(BaseProtocol.__slots__)
    assert all(hasattr(web.BaseRequest, name) for name in REQUEST)
    assert all(hasattr(web.Response, name) for name in RESPONSE)


def test_an_answer_uses_no_other_private_attribute() -> None:
    own = {name for name in vars(BytesResponse) if not name.startswith("__") and name != "_abc_impl"}
    assert {name for name in own if hasattr(web.Response, name)} == {"prepare"}
    assert set(_private_names(HTTP / "wire" / "bytes_response.py", of="self")) - own == RESPONSE.keys()


def test_a_connection_uses_no_other_private_attribute_and_hides_none() -> None:
    inherited = {*RequestHandler.__slots__, *BaseProtocol.__slots__}
    own = set(Connection.__slots__) | vars(Connection).keys()
    assert not own & inherited
    used = set(_private_names(HTTP / "wire" / "connection.py", of="self"))
    assert used - own == HANDLER.keys()


def test_no_module_reaches_into_another_object() -> None:
    found = {
        f"{path.relative_to(HTTP)}: {name}"
        for path in HTTP.rglob("*.py")
        for name in _private_names(path, of=None)
        if path.name != "aiohttp_internals.py"
    }
    assert found == set()


def test_private_names_are_imported_in_one_place() -> None:
    found = {
        f"{path.relative_to(HTTP)}: {node.module}.{alias.name}"
        for path in HTTP.rglob("*.py")
        if path.name != "aiohttp_internals.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp")
        for alias in node.names
        if PRIVATE.fullmatch(alias.name)
    }
    assert found == set()


def _private_names(path: Path, *, of: str | None) -> Iterator[str]:
    """Private attributes of the name *of*, or of anything but ``self`` and ``cls``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or not PRIVATE.fullmatch(node.attr):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if owner == of or (of is None and owner not in ("self", "cls")):
            yield node.attr


@each("name", sorted(HANDLER))
def test_every_attribute_says_what_it_is(name: str) -> None:
    assert HANDLER[name]
