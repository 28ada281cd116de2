"""Every suite of an actor runs over near refs, over refs that send everything through the codec, and over NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from godrive.drive import GoDrive
from godrive.model import User
from godrive.testing import LoopbackDrive, ManualClock, open_drive, sign_up
from tests.nats_drive import NatsDrive
from tests.servers import NatsServer


def over_nats(server: NatsServer) -> type[GoDrive]:
    """A drive whose actors reach one another through that server."""

    class OverNats(NatsDrive):
        server_url = server.url

    return OverNats


@pytest.fixture(
    params=[
        pytest.param(GoDrive, id="local"),
        pytest.param(LoopbackDrive, id="loopback"),
        pytest.param(NatsDrive, id="nats", marks=pytest.mark.servers),
    ]
)
def drive_class(request: pytest.FixtureRequest) -> type[GoDrive]:
    """How the actors reach one another."""
    chosen: type[GoDrive] = request.param
    return over_nats(request.getfixturevalue("nats_server")) if chosen is NatsDrive else chosen


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def drive(drive_class: type[GoDrive], clock: ManualClock, anyio_backend: object) -> AsyncIterator[GoDrive]:
    async with open_drive(drive_class=drive_class, clock=clock) as drive:
        yield drive


@pytest.fixture
async def owner(drive: GoDrive) -> User:
    return await sign_up(drive)
