"""The addresses that a server listens on."""

from __future__ import annotations

import socket

import anyio
import pytest

from godrive.errors import AddressUnavailable, ConfigError
from godrive.http.wire.server import serve
from godrive.testing import open_drive
from tests.daemon import answers

pytestmark = pytest.mark.anyio


def answers_at(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex((address, port)) == 0


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="the machine has no IPv6: enable it in the kernel")
@pytest.mark.parametrize("host", ["::", "*", "[::]", "0::0"])
async def test_every_address_is_those_of_both_families_on_one_port(host: str) -> None:
    async with open_drive() as drive, serve(drive, host, 0) as urls:
        first, second = urls
        port = int(first.rpartition(":")[2])
        assert (first, second) == (f"http://[::]:{port}", f"http://0.0.0.0:{port}")
        assert answers_at("127.0.0.1", port)
        assert answers_at("::1", port)


async def test_one_family_is_enough_where_the_machine_lacks_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    class NoIPv6(socket.socket):
        def __init__(self, family: int = -1, *more: int, **options: object) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *more, **options)  # type: ignore[arg-type]

    async with open_drive() as drive:
        monkeypatch.setattr(socket, "socket", NoIPv6)
        async with serve(drive, "::", 0) as (url,):
            monkeypatch.setattr(socket, "socket", real)
            assert answers(int(url.rpartition(":")[2]))


async def test_every_ipv4_address_is_no_ipv6_one() -> None:
    async with open_drive() as drive, serve(drive, "0.0.0.0", 0) as (url,):
        assert url.startswith("http://0.0.0.0:")


async def test_an_address_that_the_machine_lacks_may_come_up_later() -> None:
    async with open_drive() as drive:
        with pytest.raises(AddressUnavailable, match=r"192\.0\.2\.1 port 1234"):
            async with serve(drive, "192.0.2.1", 1234):
                pass


@pytest.mark.parametrize("host", ["no.such.name.invalid.", "0"])
async def test_a_host_that_cannot_be_listened_on_is_a_mistake_or_may_come_up(host: str) -> None:
    async with open_drive() as drive:
        with pytest.raises((ConfigError, AddressUnavailable)):
            async with serve(drive, host, 0):
                pass


async def test_a_port_that_is_taken_is_a_mistake_and_leaves_no_socket_open() -> None:
    async with open_drive() as drive:
        with socket.create_server(("0.0.0.0", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match="Address already in use"):
                async with serve(drive, "*", port):
                    pass
        async with serve(drive, "*", port) as urls:
            assert urls
    await anyio.lowlevel.checkpoint()
