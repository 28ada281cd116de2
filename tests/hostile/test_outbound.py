"""Server-side request forgery: whatever URL a user gives, nothing in the network of the operator is called."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from godrive.bridge.look_ups import MOST
from godrive.bridge.outbound import Outbound
from godrive.bridge.webhooks import AT_ONCE, DOUBTFUL_AT_ONCE
from godrive.callbacks import AddressRefused, Failed, is_public
from godrive.errors import Invalid
from godrive.messages.webhooks import AddWebhook
from godrive.network import network
from godrive.testing import open_drive, sign_up
from tests.cases import each
from tests.daemon import free_port
from tests.principals import acting

pytestmark = pytest.mark.anyio

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "5f00::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::",
]

URLS = [
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "//example.org/",
    "example.org",
    "https:///x",
    "https:example.org",
    "http://example.org/",
    "https://user@example.org/",
    "https://user:password@example.org/",
    "https://example.org:22/",
    "https://example.org:25/",
    "https://example.org:0/",
    "https://example.org:99999/",
    "https://example.org/#fragment",
    "https://localhost@127.0.0.1/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0/",
    "https://0x7f000001/x",
    "https://0177.0.0.1/",
    "https://0x7f.0.0.1/",
    "https://127.0.0.1./",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://[::]/",
    "https://169.254.169.254/latest/",
    "https://1.1.1.1:22/",
    "http://1.1.1.1/",
    "https://exa\\mple.org/",
    "https://example.org\\@127.0.0.1/",
    "https://EXAMPLE.org@127.0.0.1/",
    "https://ⓔxample.org/",
    "https://example.org/é",
]


@each("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_told(address: str) -> None:
    assert not is_public(ip_address(address))


@each("address", PUBLIC)
def test_an_address_of_the_public_internet_is_told(address: str) -> None:
    assert is_public(ip_address(address))


async def test_a_url_that_must_not_be_called_is_refused_when_it_is_given_or_before_anything_is_sent() -> None:
    outbound = Outbound([], timeout=2.0)
    async with open_drive() as drive:
        owner = (await sign_up(drive)).id
        for url in (*URLS, "https://example.org/ x", "https://example.org/\n", "https://" + "x" * 3000):
            if url not in HOSTS_TO_RESOLVE:
                with pytest.raises(Invalid) as raised:
                    await drive.metadata.ask(AddWebhook(acting(owner), url))
                assert raised.value.field == "url", url
            with pytest.raises((AddressRefused, Failed)):
                await outbound.post(url, b"{}", {})
    await outbound.close()


HOSTS_TO_RESOLVE = {"https://0x7f000001/x", "https://" + "x" * 3000}
"""Only a look-up tells what these are."""


@asynccontextmanager
async def server(handler: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner, port = web.AppRunner(app, access_log=None), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def answers(monkeypatch: pytest.MonkeyPatch, *lists: list[str]) -> list[str]:
    """Let look-ups of host names answer with these addresses, one list after the other.  Returns what was looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: Any, **options: Any) -> Any:
        if not host.endswith(".test"):
            return real(host, port, **options)
        found = lists[min(len(asked), len(lists) - 1)]
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"])
async def test_a_host_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    async def never(request: web.Request) -> web.Response:
        raise AssertionError("nothing may arrive")

    answers(monkeypatch, [address])
    outbound = Outbound([network("192.168.7.0/24")], timeout=2.0)
    async with server(never) as port:
        for scheme in ("http", "https"):
            with pytest.raises(AddressRefused, match="not public"):
                await outbound.post(f"{scheme}://inside.test:{port}/", b"{}", {})
    await outbound.close()


async def test_a_host_is_looked_up_once_and_only_addresses_that_may_be_called_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the first answer is harmless, the second is not."""
    reached: list[str] = []

    async def reach(request: web.Request) -> web.Response:
        reached.append(request.headers["Host"])
        return web.Response()

    asked = answers(monkeypatch, ["10.1.2.3", "127.0.0.1"], ["10.1.2.3"])
    outbound = Outbound([network("127.0.0.0/8")], timeout=2.0)
    async with server(reach) as port:
        assert await outbound.post(f"http://rebinding.test:{port}/", b"{}", {}) == 200
    assert asked == ["rebinding.test"]
    assert reached == [f"rebinding.test:{port}"]
    await outbound.close()


async def test_hosts_whose_look_up_hangs_delay_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ["127.0.0.1"])
    look_up, ended, hanging = socket.getaddrinfo, threading.Event(), threading.Semaphore(0)

    def slow_look_up(host: str, port: Any, **options: Any) -> Any:
        if host.startswith("slow"):
            hanging.release()
            assert ended.wait(60)
        return look_up(host, port, **options)

    async def reach(request: web.Request) -> web.Response:
        return web.Response()

    monkeypatch.setattr(socket, "getaddrinfo", slow_look_up)
    outbound = Outbound([network("127.0.0.0/8")], timeout=10.0)
    most = AT_ONCE + DOUBTFUL_AT_ONCE - 1
    async with server(reach) as port:
        slow = [asyncio.ensure_future(outbound.post(f"http://slow{n}.test:{port}/", b"{}", {})) for n in range(most)]
        try:
            await asyncio.to_thread(hanging.acquire)
            assert await outbound.post(f"http://quick.test:{port}/", b"{}", {}) == 200
        finally:
            ended.set()
        assert await asyncio.gather(*slow) == [200] * most
        await outbound.close()


def test_a_look_up_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, socket, threading\n"
        "from godrive.bridge.outbound import Outbound\n"
        "from godrive.callbacks import Failed\n"
        "socket.getaddrinfo = lambda *_, **__: threading.Event().wait()\n"
        "async def main():\n"
        "    outbound = Outbound([], timeout=0.2)\n"
        "    try:\n"
        "        await outbound.post('https://slow.test/', b'{}', {})\n"
        "    except Failed as failed:\n"
        "        print(failed)\n"
        "    await outbound.close()\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30)
    assert ended.stdout == "There was no answer within 0.2 seconds.\n"


async def test_a_host_that_is_not_found_is_a_failure_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    outbound = Outbound([], timeout=30.0)
    for _ in range(MOST + 1):
        with pytest.raises(Failed, match="the host name cannot be resolved"):
            await outbound.post("https://nowhere.test/", b"{}", {})
    await outbound.close()


async def test_plain_http_and_other_ports_are_only_for_networks_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, ["1.1.1.1"])
    outbound = Outbound([network("127.0.0.0/8")], timeout=2.0)
    with pytest.raises(AddressRefused, match="https"):
        await outbound.post("http://public.test/", b"{}", {})
    with pytest.raises(AddressRefused, match="port"):
        await outbound.post("https://public.test:25/", b"{}", {})
    await outbound.close()


async def test_no_redirect_is_followed_and_of_a_long_answer_little_is_read() -> None:
    paths: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        if request.path == "/redirect":
            return web.Response(status=307, headers={"Location": "/inside"})
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    outbound = Outbound([network("127.0.0.0/8")], timeout=5.0)
    async with server(answer) as port:
        assert await outbound.post(f"http://127.0.0.1:{port}/redirect", b"{}", {}) == 307
        assert await outbound.post(f"http://127.0.0.1:{port}/endless", b"{}", {}) == 200
        assert paths == ["/redirect", "/endless"]
        await outbound.close()


class Closing:
    """A receiver that closes each connection without having announced it: while it gets the second request."""

    def __init__(self) -> None:
        self.got: list[int] = []
        """For each request, the number of its connection."""
        self.connections = 0
        self.answered = 1
        """Requests of each connection that get an answer."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        for _ in range(self.answered):
            await self._request(reader, number)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await self._request(reader, number)
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, number: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"{}"
        self.got.append(number)


@asynccontextmanager
async def closing(receiver: Closing) -> AsyncIterator[str]:
    async with await asyncio.start_server(receiver.handle, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"


async def test_a_request_that_a_used_connection_did_not_answer_is_sent_again_at_once() -> None:
    receiver, outbound = Closing(), Outbound([network("127.0.0.0/8")], timeout=10.0)
    async with closing(receiver) as url:
        for _ in range(3):
            assert await outbound.post(url, b"{}", {}) == 204
        assert receiver.got == [1, 1, 2, 2, 3]
        receiver.answered = 0
        with pytest.raises(Failed, match="disconnected"):
            await outbound.post(url, b"{}", {})
        assert receiver.got == [1, 1, 2, 2, 3, 3, 4]
        await outbound.close()


async def test_a_receiver_that_says_nothing_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    outbound = Outbound([network("127.0.0.0/8")], timeout=0.2)
    port = listener.sockets[0].getsockname()[1]
    with anyio.fail_after(30), pytest.raises(Failed, match="within"):
        await outbound.post(f"http://127.0.0.1:{port}/", b"{}", {})
    await outbound.close()
    listener.close()


async def test_a_certificate_that_nobody_trusts_is_refused(tmp_path: Path) -> None:
    async def never(request: web.Request) -> web.Response:
        raise AssertionError("nothing may arrive")

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out {certificate}"
    subprocess.run([*command.split(), "-days", "1", "-subj", "/CN=127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    outbound = Outbound([network("127.0.0.0/8")], timeout=5.0)
    async with server(never, context) as port:
        with pytest.raises(Failed, match="certificate"):
            await outbound.post(f"https://127.0.0.1:{port}/", b"{}", {})
    await outbound.close()
