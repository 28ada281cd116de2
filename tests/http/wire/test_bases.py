"""The URLs that answers have: by which Host a client may reach the server, and by which it may not be sent away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address

import aiohttp
import pytest
from yarl import URL

from tests.cases import each
from tests.http.client import Person, Site
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio

OWN = "http://127.0.0.1:8080"
"""The listener, as its configuration says; the port on which it really listens is ``{port}``."""
MAPPED = ip_address("::ffff:10.1.2.3")
"""As this release of Python writes it."""

HOSTS = ["drive.example", "files.example:8443", "Dr\u00f6ve.example", "203.0.113.7"]


async def urls(person: Person, **headers: str) -> tuple[str, str, str]:
    """Where a new upload is, where its bytes go, and where those of a file are."""
    intent = {"filename": f"{headers}.txt".replace("/", "")[:200], "size_bytes": 1, "on_conflict": "rename"}
    begun = await person("POST", "/v1/files/upload-intent", intent, headers=headers)
    assert begun.status == 200, begun.content
    file = (await person("GET", "/v1/files/by-path/file")).json
    download = await person("GET", f"/v1/files/{file['id']}/download", headers=headers)
    return begun.headers["Location"], begun.json["upload_url"], download.json["url"]


@pytest.fixture
async def allowing(open_site: OpenSite, http: aiohttp.ClientSession) -> AsyncIterator[Person]:
    """Somebody with a file, on a server without a public URL that allows some hosts."""
    async with open_site(server={"public_url": "", "allowed_hosts": HOSTS}) as site:
        ann = await Person(http, site.url).enter()
        await ann.upload("file")
        yield ann


async def bases(person: Person, **headers: str) -> set[str]:
    found = set()
    for url in await urls(person, **headers):
        base, slash, _ = url.partition("/v1/")
        assert slash, url
        found.add(base)
    return found


@each(
    ("sent", "base"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}"),
        ("127.9.9.9:{port}", "http://127.9.9.9:{port}"),
        ("10.1.2.3:{port}", "http://10.1.2.3:{port}"),
        ("192.168.0.9:{port}", "http://192.168.0.9:{port}"),
        ("169.254.0.9:{port}", "http://169.254.0.9:{port}"),
        ("[::1]:{port}", "http://[::1]:{port}"),
        ("[fd00::1]:{port}", "http://[fd00::1]:{port}"),
        ("[::ffff:10.1.2.3]:{port}", f"http://[{MAPPED}]:{{port}}"),
        ("drive.example", "http://drive.example"),
        ("DRIVE.Example:{port}", "http://drive.example:{port}"),
        ("files.example:8443", "http://files.example:8443"),
        ("xn--drve-6qa.example", "http://xn--drve-6qa.example"),
        ("203.0.113.7", "http://203.0.113.7"),
        # Another machine may answer there, or a server of somebody else.
        ("127.0.0.1", OWN),
        ("127.0.0.1:1", OWN),
        ("10.1.2.3", OWN),
        ("8.8.8.8:{port}", OWN),
        ("0.0.0.0:{port}", OWN),
        ("[::]:{port}", OWN),
        ("[2001:4860::1]:{port}", OWN),
        ("[::ffff:8.8.8.8]:{port}", OWN),
        ("localhost.evil.example:{port}", OWN),
        ("127.0.0.1.evil.example:{port}", OWN),
        ("evil.example", OWN),
        ("evil.example:{port}", OWN),
        ("drive.example.evil.example", OWN),
        ("evil-drive.example", OWN),
        ("drive.example:1", OWN),
        ("files.example", OWN),
        ("files.example:{port}", OWN),
        ("drive.example@evil.example", OWN),
        ("drive.example:", OWN),
        ("drive.example:0x50", OWN),
        ("drive.example:999999", OWN),
        ("drive.example/evil", OWN),
        ("drive.example, evil.example", OWN),
        ("127.1:{port}", OWN),
        ("2130706433:{port}", OWN),
        ("[fe80::1%25eth0]:{port}", OWN),
        ("[::1", OWN),
    ],
)
async def test_a_host_counts_only_if_it_is_allowed_or_near(allowing: Person, sent: str, base: str) -> None:
    port = URL(allowing.url).port
    assert await bases(allowing, Host=sent.format(port=port)) == {base.format(port=port)}


async def test_a_public_url_is_the_only_base(site: Site, ann: Person) -> None:
    await ann.upload("file")
    for host in ("evil.example", f"10.0.0.1:{site.port}", "drive.example"):
        headers = {"X-Forwarded-Host": host, "X-Forwarded-Proto": "https", "Forwarded": f"host={host};proto=https"}
        assert await bases(ann, Host=host, **headers) == {site.url}


async def test_a_scheme_is_believed_from_a_trusted_proxy_only(open_site: OpenSite) -> None:
    tables = {"public_url": "", "allowed_hosts": ["drive.example"]}
    for trusted, schemes in (([], ("http", "http")), (["127.0.0.1"], ("https", "http"))):
        async with open_site(server={**tables, "trusted_proxies": trusted}) as site, aiohttp.ClientSession() as http:
            ann = await Person(http, site.url).enter()
            await ann.upload("file")
            for said, scheme in zip(("https", "ftp"), schemes, strict=True):
                headers = {"Host": "drive.example", "X-Forwarded-Proto": said, "X-Forwarded-Host": "evil.example"}
                assert await bases(ann, **headers) == {f"{scheme}://drive.example"}


async def test_a_signature_is_good_by_every_name_of_the_server(open_site: OpenSite) -> None:
    async with open_site(server={"public_url": "", "allowed_hosts": HOSTS}) as site, aiohttp.ClientSession() as http:
        ann = await Person(http, site.url).enter()
        await ann.upload("file", b"content")
        *_, url = await urls(ann, Host="drive.example")
        here = URL(site.url)
        by_address = URL(url, encoded=True).with_host(str(here.host)).with_port(here.port)
        async with http.get(by_address, headers={"Host": "other.example"}) as response:
            assert (response.status, await response.read()) == (200, b"content")
