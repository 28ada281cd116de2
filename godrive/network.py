"""Normalise the addresses, networks, origins and URLs of a configuration.

Each function raises ``ValueError`` for text that could never match.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import idna

Network = IPv4Network | IPv6Network

ANY = "*"
"""Listen on every address of both families; ``::`` means the same."""

UNIX = "unix:"
"""What ``server.host`` begins with when it names a Unix socket."""

DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def host(text: str) -> str:
    """Return a host name in lower case and ASCII, or an IP address in its shortest form, without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError:
        if bare != text:
            raise
    try:
        name = bare.lower() if bare.isascii() else idna.encode(bare, uts46=True).decode("ascii")
    except UnicodeError:
        raise ValueError(f"{text!r} is not a host name") from None
    labels = name.removesuffix(".").split(".")
    # A name that ends in a number would be read as an address (RFC 1123, section 2.1): 0, 127.1, 256.0.0.1.
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdecimal():
        raise ValueError(f"{text!r} is not a host name or an IP address")
    return name


def bind_addresses(text: str) -> list[str]:
    """Return the addresses to listen on for ``server.host``; for every address, one of each family."""
    if text == ANY:
        return ["::", "0.0.0.0"]  # noqa: S104 - what the operator has asked for
    address = host(text)
    return bind_addresses(ANY) if address == "::" else [address]


def socket_path(text: str) -> Path | None:
    """Return the path of a Unix socket if ``server.host`` names one, as ``unix:/run/godrive/http``."""
    return Path(text.removeprefix(UNIX)) if text.startswith(UNIX) else None


def binds_every_address(text: str) -> bool:
    """Whether ``server.host`` means every address of a family."""
    return socket_path(text) is None and bind_addresses(text)[-1] == "0.0.0.0"  # noqa: S104


def binds_loopback(text: str) -> bool:
    """Whether only this machine reaches ``server.host``: a Unix socket, or a loopback address."""
    if socket_path(text) is not None:
        return True
    address = bind_addresses(text)[-1]
    try:
        return client_address(address).is_loopback
    except ValueError:
        return address == "localhost" or address.endswith(".localhost")


@lru_cache(maxsize=64)  # answers name it in Location
def local_url(text: str, port: int, scheme: str = "http") -> str:
    """Return the URL of a server on ``server.host`` for a client on the same machine."""
    address = "127.0.0.1" if text == ANY else host(text)
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return base(scheme, address, port)


def url(text: str) -> str:
    """Return an ``http(s)`` URL to append a path to, without query, credentials and final slash."""
    parts = _split(text)
    if parts.scheme not in DEFAULT_PORTS or parts.hostname is None:
        raise ValueError(f"{text!r} is not an http(s) URL")
    address = host(parts.hostname)
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{_in_url(address)}{port}{parts.path.rstrip('/')}"


@lru_cache(maxsize=64)
def base_url(text: str) -> str:
    """Like :func:`url`, but refuse hosts that clients cannot reach."""
    if urlsplit(url(text)).hostname in ("0.0.0.0", "::"):  # noqa: S104 - to refuse it
        raise ValueError(f"{text!r} names no address that a client can reach")
    return url(text)


def authority(text: str) -> tuple[str, int | None]:
    """Return the host and the port, or ``None``, of ``host`` or ``host:port``."""
    parts = _split(f"//{text}")
    if parts.netloc != text or parts.hostname is None or text.endswith(":"):
        raise ValueError(f"{text!r} is not host or host:port")
    return host(parts.hostname), parts.port


def base(scheme: str, address: str, port: int | None) -> str:
    """Return the start of a URL.  *address* is what :func:`host` has returned."""
    return f"{scheme}://{_in_url(address)}" + ("" if port is None else f":{port}")


def origin(text: str) -> str:
    """Return an origin as browsers send it (RFC 6454, section 6.2): lower case, ASCII, without the default port.

    ``*`` and ``null`` are returned unchanged.  Schemes of applications
    (``tauri://localhost``) are allowed.
    """
    if text in (ANY, "null"):
        return text
    parts = _split(text)
    if not _SCHEME.fullmatch(parts.scheme) or parts.hostname is None or parts.path:
        raise ValueError(f"{text!r} is not an origin")
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{_in_url(host(parts.hostname))}{port}"


def network(text: str) -> Network:
    """Return an address or a network.  IPv4-mapped IPv6 becomes IPv4, as for addresses of clients."""
    parsed = ip_network(text, strict=False)
    if isinstance(parsed, IPv6Network) and parsed.prefixlen >= 96:
        mapped = parsed.network_address.ipv4_mapped
        if mapped is not None:
            return ip_network(f"{mapped}/{parsed.prefixlen - 96}")
    return parsed


def client_address(text: str) -> IPv4Address | IPv6Address:
    """Return the address of a client, to compare with a :func:`network`."""
    parsed = ip_address(text.partition("%")[0])
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _split(text: str) -> SplitResult:
    if re.search(r"[\s\\?#@*\x00-\x1f]", text):
        raise ValueError(f"{text!r} has a character that does not belong there")
    parts = urlsplit(text)
    if parts.port == 0:
        raise ValueError(f"{text!r} has the port 0")
    return parts


def _in_url(address: str) -> str:
    """Return a host for a URL (RFC 3986, section 3.2.2; RFC 6874 for the zone of an address)."""
    return f"[{address.replace('%', '%25')}]" if ":" in address else address
