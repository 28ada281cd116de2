"""Fixtures that every test may ask for."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import shared
from tests.servers import CephGateway, MissingProgram, NatsServer, PostgresServer, Server

pytest_plugins = ["tests.balance", "tests.engines", "tests.npm"]


SLOW = {"clients", "e2e", "hostile"}
"""Folders of tests that run the real process, which takes half a second to start."""

SLOW_WITHIN = 600
"""Seconds that a slow test may take: on a busy machine it takes many times as long as on one that is not."""

_NOT_QUICK = SLOW | {
    "client",  # a server, and commands beside it
    "doctor",
    "test_appends.py",
    "test_asgi.py",  # FastAPI, Starlette and Django take longer to import than the tests
    "test_authority.py",  # every route against everyone
    "test_blob_store.py",
    "test_cli.py",
    "test_content_get.py",
    "test_content_put.py",
    "test_exposure.py",  # three thousand requests
    "test_faults.py",  # a fault at every operation
    "test_lifecycle_model.py",
    "test_logs.py",  # processes
    "test_messages.py",
    "test_resuming.py",
    "test_schemathesis.py",
    "test_storing.py",
    "test_transfers.py",
    "test_tus.py",
}
"""Folders and files that a quick run does not even import: processes, matrices, models and bodies on both stores."""

_SERVERS = {"nats_server", "postgres_server", "ceph_gateway", "own_servers"}


_YOUNG_COLLECTIONS = 5
"""Collections of young objects, each of 20 000, after which all are looked at."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of a developer's loop."""
    parser.addoption("--quick", action="store_true", help="leave out what is marked slow or servers")


def pytest_configure(config: pytest.Config) -> None:
    """Select the tests, and join the run: the process that the developer started leads, and its workers follow."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job of a shell's background; programs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.set_threshold(5_000, 20, 20)
    settings.register_profile("untimed", deadline=None)  # no test asserts on a duration, as Hypothesis does by itself
    if settings.get_current_profile_name() == "default":
        settings.load_profile("untimed")
    if config.getoption("quick"):
        given = f"({config.option.markexpr}) and " if config.option.markexpr else ""
        config.option.markexpr = given + "not slow and not servers"
        Server.allowed = False
    if hasattr(config, "workerinput"):
        shared.follow()
    else:
        shared.lead()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what has nothing for a quick run."""
    return True if config.getoption("quick") and collection_path.name in _NOT_QUICK else None


@pytest.hookimpl(tryfirst=True)  # before the marks select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark folders, what is slow, and what asks for a server; a test that starts one by itself carries the mark."""
    for item in items:
        if SLOW.intersection(item.path.parts):
            item.add_marker("slow")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_WITHIN))
        if _SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what stays anyway: the modules, and 5000 tests."""
    _settle()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Collect between tests, where little is alive, and leave alone what stays: a test that imports leaves modules.

    A drive that has been served leaves half a megabyte in cycles, so it is done often.
    """
    if gc.get_count()[1] >= _YOUNG_COLLECTIONS:
        _settle()


def _settle() -> None:
    gc.collect()
    gc.freeze()
    # Within a test, look at the youngest objects only: at all of them again costs more than all that tests leave.
    gc.set_threshold(20_000, _YOUNG_COLLECTIONS * 10, 1)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """GoDrive runs on asyncio: aiohttp does."""
    return ("asyncio", {"use_uvloop": True})


def require(server: type[Server]) -> None:
    """Skip where the server is not installed; in CI, which installs all of them, fail."""
    try:
        server.missing()
    except MissingProgram as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


def require_program(name: str, package: str) -> str:
    """Where a client program is; skips or fails as :func:`require` does."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        reason = f"{name} not found: apt-get install -y --no-install-recommends {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def own_servers() -> None:
    """For fixtures that start servers of their own: it marks the tests that use them."""


@pytest.fixture(scope="session")
def nats_server() -> NatsServer:
    """NATS with JetStream, one for the whole run: a test uses a namespace and streams of its own."""
    require(NatsServer)
    return shared.running(NatsServer)


@pytest.fixture(scope="session")
def postgres_server() -> PostgresServer:
    """PostgreSQL, one for the whole run: a test uses a database of its own (``create_database``)."""
    require(PostgresServer)
    return shared.running(PostgresServer)


@pytest.fixture(scope="session")
def ceph_gateway() -> Iterator[CephGateway]:
    """An S3 store, one for the whole run: a test uses a bucket of its own."""
    require(CephGateway)
    with pytest.MonkeyPatch.context() as patch:
        # Where set, it makes S3 clients expect TLS trust settings even of a plain endpoint.
        patch.delenv("AWS_CA_BUNDLE", raising=False)
        yield shared.running(CephGateway)
