"""The private parts of nats-py that we rely on: all listed, all there, and only in versions that were checked."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

import godrive.bridge
from godrive.bridge import nats_internals
from godrive.bridge.nats_internals import CHECKED, CLIENT, SUBSCRIPTION, TRANSPORT, PromptClient

BRIDGE = Path(godrive.bridge.__file__).parent
INTERNALS = Path(nats_internals.__file__)
PRIVATE = re.compile(r"_[a-z]\w*")


def test_the_installed_version_was_checked() -> None:
    minor = ".".join(version("nats-py").split(".")[:2])
    assert minor in CHECKED, f"nats-py {minor} was not checked: see the docstring of {nats_internals.__name__}"


def test_the_dependency_is_limited_to_the_versions_that_were_checked() -> None:
    project = tomllib.loads((BRIDGE.parent.parent / "pyproject.toml").read_text())["project"]
    (limit,) = [each for each in project["optional-dependencies"]["nats"] if each.startswith("nats-py")]
    checked = sorted(tuple(map(int, version.split("."))) for version in CHECKED)
    (oldest, least), (major, minor) = checked[0], checked[-1]
    assert limit == f"nats-py[nkeys]>={oldest}.{least},<{major}.{minor + 1}"


def test_what_is_listed_is_there() -> None:
    for class_, names in ((Client, CLIENT), (TcpTransport, TRANSPORT), (Subscription, SUBSCRIPTION)):
        assigned = set(re.findall(r"self\.(_\w+)", inspect.getsource(class_))) | vars(class_).keys()
        assert names.keys() <= assigned, class_


def test_our_client_uses_what_is_listed_and_hides_nothing() -> None:
    used = set(_private_names(INTERNALS)) | set(re.findall(r'"(_\w+)", None', INTERNALS.read_text()))
    own = {"_hang_up"}
    assert used - own == {*CLIENT, *TRANSPORT, *SUBSCRIPTION}
    inherited = set(re.findall(r"self\.(_\w+)", inspect.getsource(Client))) | vars(Client).keys()
    assert not own & inherited
    assert {name for name in vars(PromptClient) if PRIVATE.fullmatch(name)} - own <= CLIENT.keys()


def test_no_other_module_reaches_into_another_object() -> None:
    found = {
        f"{path.name}: {name}"
        for path in BRIDGE.glob("*.py")
        if path != INTERNALS
        for name in _private_names(path, but=("self", "cls"))
    }
    assert found == set()


def _private_names(path: Path, *, but: tuple[str, ...] = ()) -> Iterator[str]:
    """Private attributes of anything but these names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in but:
                yield node.attr
