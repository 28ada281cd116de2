"""Whose address counts."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from godrive.http.wire import addresses
from godrive.http.wire.addresses import TrustedProxies
from tests.cases import each


@each(
    ("peer", "lines", "address"),
    [
        ("198.51.100.1", ["203.0.113.5"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["1.2.3.4", "203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["203.0.113.5, 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.5, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.5, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.5:4711"], "203.0.113.5"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["٣.٣.٣.٣"], "10.0.0.1"),
        ("", ["203.0.113.5"], ""),
        ("10.0.0.1", ["1.2.3.4, " * 40 + "203.0.113.5"], "203.0.113.5"),
    ],
)
def test_only_what_a_trusted_proxy_has_seen_itself_is_believed(peer: str, lines: list[str], address: str) -> None:
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=peer)
    assert TrustedProxies(["10.0.0.0/8", "fd00::/8"]).address(request) == address


@each(
    ("peer", "headers", "disregarded"),
    [
        ("10.0.0.1", {}, False),
        ("198.51.100.1", {}, False),
        ("198.51.100.1", {"X-Forwarded-For": "203.0.113.5"}, True),
        ("198.51.100.1", {"Forwarded": "for=203.0.113.5"}, True),
        ("198.51.100.1", {"X-Real-IP": "203.0.113.5"}, True),
        ("10.0.0.1", {"X-Forwarded-For": "203.0.113.5"}, False),
        ("10.0.0.1", {"X-Forwarded-For": "10.0.0.3, 10.0.0.2"}, False),
        ("10.0.0.1", {"X-Forwarded-For": "203.0.113.5, 198.51.100.1"}, True),
        ("10.0.0.1", {"X-Forwarded-For": "nonsense"}, True),
        ("10.0.0.1", {"Forwarded": "for=203.0.113.5"}, True),
        ("10.0.0.1", {"X-Forwarded-For": "203.0.113.5", "X-Real-IP": "203.0.113.5"}, False),
    ],
)
def test_a_client_that_forwarded_headers_name_in_vain_is_noticed(
    peer: str, headers: dict[str, str], disregarded: bool
) -> None:
    request = make_mocked_request("GET", "/", headers=CIMultiDict(headers)).clone(remote=peer)
    assert TrustedProxies(["10.0.0.0/8"]).disregards(request) == disregarded


def test_clients_are_kept_for_the_next_request_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_KEPT", 2)
    proxies = TrustedProxies(["10.0.0.0/8"])
    for number in (1, 2, 3, 3):
        headers = CIMultiDict({"X-Forwarded-For": f"203.0.113.{number}"})
        request = make_mocked_request("GET", "/", headers=headers).clone(remote="10.0.0.1")
        assert proxies.address(request) == f"203.0.113.{number}"
    kept = proxies._find_again.cache_info()
    assert (kept.hits, kept.currsize) == (1, 2)


def test_no_client_of_a_long_header_is_kept() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    headers = CIMultiDict({"X-Forwarded-For": "1.2.3.4, " * 40 + "203.0.113.5"})
    proxies.address(make_mocked_request("GET", "/", headers=headers).clone(remote="10.0.0.1"))
    assert proxies._find_again.cache_info().currsize == 0
