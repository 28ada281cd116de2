"""Imports point down: read from the source, so that the drawing in the documentation stays true."""

from __future__ import annotations

import ast
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "godrive"

FLOORS: list[set[str]] = [
    # words
    {"errors", "ids"},
    {
        "backoff",
        "model",
        "clock",
        "counted",
        "email_address",
        "extras",
        "gathering",
        "heap",
        "in_order",
        "logger",
        "memory",
        "network",
        "page_cache",
        "paths",
        "priority",
        "unanswered",
        "undone",
        "webhook_signature",
    },
    {"append_turns", "callbacks", "config", "principal", "rate_limit", "reserve", "wal_lock"},
    {"configfile", "known_callers", "known_room", "known_uploads"},
    # machinery: packages that do not know one another
    {"runtime", "blobs", "catalog", "credentials", "log_writer"},
    # contracts
    {"messages"},
    # behaviour: the rules of a drive, and two packages that do not know one another
    {"rules", "lease", "own_urls", "small_files", "tracing", "watch", "checker"},
    {"log_in_limits"},
    {"actors", "bridge", "scrub", "backup_schedule"},
    # the whole
    {"opening"},
    {"tree"},
    {"drive"},
    {"arriving"},
    {"appended", "transfer", "archive", "parts"},
    {"resumable", "small_transfer"},
    {"files"},
    {"backup", "exchange"},
    # edges
    {"about", "testing", "logs", "http", "doctor", "client"},
    {"simulation"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up.  A module imports from its own package and from floors below, never from others on its own."""

MAY_ASK: dict[str, set[str]] = {
    "http": {"auth", "metadata", "storage", "ingest"},
    "actors.auth": {"auth"},
    "actors.metadata": {"metadata"},
    "actors.storage": {"storage"},
    "actors.ingest": {"ingest", "metadata", "storage"},
    "actors.janitor": {"janitor", "metadata", "storage"},
    "bridge": {"ingest", "metadata"},
    "checker": {"metadata", "storage"},
    "scrub": {"metadata", "storage"},
    "backup_schedule": {"metadata"},
    "lease": {"metadata"},
    "watch": {"auth", "metadata"},
}
"""Importing a contract is the right to talk to its actor; an actor imports its own to be it.

The bridge brings events in (ingest) and takes the outbox out (metadata).
"""

SUBJECTS = {
    "clock": "metadata",
    "expected": "metadata",
    "pending": "metadata",
    "backups": "metadata",
    "versions": "metadata",
    "files": "metadata",
    "batches": "metadata",
    "changes": "metadata",
    "webhooks": "metadata",
    "broadcasts": "metadata",
    "uploads": "metadata",
    "resumable": "metadata",
    "system": "metadata",
    "idempotency": "metadata",
    "users": "auth",
}
"""Modules of messages that are said to an actor of another name."""

OPTIONAL = {
    "nats": {"godrive.bridge"},
    "aiobotocore": {"godrive.blobs.s3"},
    "botocore": {"godrive.blobs.s3", "godrive.simulation.s3_world"},
    "asyncpg": {"godrive.catalog"},
    "opentelemetry": {"godrive.tracing"},
    "nacl": {"godrive.backup"},
}
"""Vendors' libraries, and the only places that may name them."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    return {dotted(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(name: str) -> frozenset[str]:
    """The modules that the module imports, wherever in it: those of ours by their dotted names."""
    found: set[str] = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            found |= {
                whole if (whole := f"{node.module}.{alias.name}") in modules() else node.module for alias in node.names
            }
    return frozenset(found)


def ours(name: str) -> Iterator[str]:
    return (imported for imported in imports(name) if imported.split(".")[0] == "godrive")


def floor_of(name: str) -> int:
    """The floor of a module; that of ``godrive`` itself is below all."""
    parts = name.split(".")
    if len(parts) == 1:
        return -1
    (level,) = [number for number, packages in enumerate(FLOORS) if parts[1] in packages]
    return level


def package_of(name: str) -> str:
    return name.split(".")[1] if "." in name else name


MADE_ON_REQUEST = {("godrive.drive", "godrive.files")}
"""Imports that may point up: ``GoDrive.files`` makes what stands on it."""


def test_every_module_is_on_a_floor() -> None:
    known = set().union(*FLOORS)
    assert {package_of(name) for name in modules() if name != "godrive"} <= known


def test_no_import_points_up_or_across() -> None:
    wrong = [
        f"{name} -> {imported}"
        for name in modules()
        if name != "godrive"  # it stands for the whole, and imports what is asked of it only then
        for imported in ours(name)
        if package_of(imported) != package_of(name)
        and floor_of(imported) >= floor_of(name)
        and (name, imported) not in MADE_ON_REQUEST
    ]
    assert wrong == []


def test_the_system_is_asked_in_a_way_that_tells_no_from_may_not_look() -> None:
    """From Python 3.14 these answer False where a folder may not be searched: use ``godrive.paths``."""
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("exists", "is_file", "is_dir", "isfile", "isdir", "lexists")
    ]
    assert wrong == []


def test_of_the_codes_of_sqlite_only_the_primary_ones_are_named() -> None:
    """The module of the executable, pysqlite3, has no names of the extended ones."""
    named = {
        node.attr
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("sqlite3.SQLITE_")
    }
    assert "SQLITE_FULL" in named
    assert [name for name in sorted(named) if getattr(sqlite3, name) > 0xFF] == []


def test_nothing_but_the_tree_knows_the_actors() -> None:
    knowing = {package_of(name) for name in modules() for imported in ours(name) if package_of(imported) == "actors"}
    assert knowing == {"actors", "tree"}


def test_actors_do_not_know_one_another() -> None:
    stems = {"auth", "metadata", "storage", "ingest", "janitor"}
    for stem in stems:
        others = {f"godrive.actors.{other}" for other in stems - {stem}}
        assert others.isdisjoint(imports(f"godrive.actors.{stem}")), stem


def test_http_and_the_command_line_do_not_know_how_bytes_or_rows_are_kept() -> None:
    drivers = ("godrive.catalog.sqlite", "godrive.catalog.postgres", "godrive.blobs.disk", "godrive.blobs.s3")
    wrong = [
        f"{name} -> {imported}"
        for name in modules()
        if package_of(name) == "http"
        for imported in ours(name)
        if imported.startswith((*drivers, "godrive.bridge", "godrive.opening", "godrive.tree"))
    ]
    assert wrong == []


def contracts_known_to(place: str) -> set[str]:
    prefix = f"godrive.{place}"
    return {
        SUBJECTS.get(subject := imported.split(".")[2], subject)
        for name in modules()
        if name == prefix or name.startswith((prefix + ".", prefix + "_"))
        for imported in ours(name)
        if imported.startswith("godrive.messages.")
    }


def test_nobody_talks_to_an_actor_it_may_not_ask() -> None:
    assert {place: known for place in MAY_ASK if (known := contracts_known_to(place) - MAY_ASK[place])} == {}


def test_who_may_ask_whom_has_no_circle() -> None:
    asks = {place.split(".")[1]: MAY_ASK[place] - {place.split(".")[1]} for place in MAY_ASK if "actors." in place}
    settled: set[str] = set()
    while len(settled) < len(asks):
        ready = {actor for actor, asked in asks.items() if asked <= settled} - settled
        assert ready, f"a circle among {set(asks) - settled}"
        settled |= ready


def test_each_vendor_is_known_to_its_driver_alone() -> None:
    wrong = [
        f"{name} -> {imported}"
        for name in modules()
        for imported in imports(name)
        for vendor, places in OPTIONAL.items()
        if imported.split(".")[0] == vendor
        if not any(name == place or name.startswith(place + ".") for place in places)
    ]
    assert wrong == []


DEFAULTS = """
import asyncio, sys
import godrive
assert [name for name in sys.modules if name.startswith("godrive.")] == [], "importing godrive loads the whole"

from godrive.config import Config
from godrive.drive import GoDrive
from godrive.http.app import create_app

async def main():
    async with GoDrive(Config.embedded(sys.argv[1])) as drive:
        create_app(drive)

asyncio.run(main())
print([name for name in ("nats", "nkeys", "aiobotocore", "botocore", "asyncpg", "jsonschema") if name in sys.modules])
"""


@pytest.mark.slow
def test_a_drive_with_defaults_loads_no_optional_library(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEFAULTS, tmp_path / "data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr


def test_every_module_fits_in_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_modules_and_all_that_is_public_in_them_say_what_they_are() -> None:
    silent = [name for name, module in modules().items() if not ast.get_docstring(module)]
    silent += [
        f"{name}.{node.name}"
        for name, module in modules().items()
        for node in module.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if not node.name.startswith("_") and not ast.get_docstring(node) and not _is_documented_elsewhere(name, node)
    ]
    assert silent == []


def _is_documented_elsewhere(module: str, node: ast.AST) -> bool:
    """The tree of errors is drawn on top of its module, and the tables of config.toml are commented there."""
    if not isinstance(node, ast.ClassDef):
        return False
    return module in {"godrive.errors", "godrive.config"} or any(
        isinstance(base, ast.Name) and base.id == "StrEnum" for base in node.bases
    )


def test_a_protocol_says_what_each_of_its_methods_guarantees() -> None:
    silent = [
        f"{name}.{node.name}.{method.name}"
        for name, module in modules().items()
        for node in module.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_")
        if not ast.get_docstring(method) and f"``{method.name}``" not in (ast.get_docstring(node) or "")
    ]
    assert silent == []


TESTS_OF_THEIR_OWN = {"clients", "bench", "contracts", "e2e", "fixtures", "hostile", "typing"}
"""Folders of tests that belong to no single package: what they test is in their conftest or their modules."""


def test_folders_of_tests_mirror_the_package() -> None:
    tests = ROOT / "tests"
    folders = {
        path.parent.relative_to(tests)
        for path in tests.rglob("test_*.py")
        if path.relative_to(tests).parts[0] not in TESTS_OF_THEIR_OWN
    }
    assert [str(folder) for folder in sorted(folders) if not (PACKAGE / folder).is_dir()] == []


def test_nothing_is_shielded_by_asyncio() -> None:
    """From Python 3.14 ``shield`` reports an inner error as unhandled when the outer wait was cancelled.

    Make a task, and wait for it with ``asyncio.wait``.
    """
    shielding = [
        name
        for name, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "asyncio.shield"
    ]
    assert shielding == []


def test_no_module_is_named_after_nothing() -> None:
    nothing = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}
    assert [name for name in modules() if nothing.intersection(name.split("."))] == []
