"""Accounts over a socket."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from tests.cases import each
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SIGN_UP = {"email": "ann@example.org", "password": "correct horse"}


@pytest.mark.parametrize("path", ["/signup", "/v1/signup"])
async def test_signing_up_answers_201_with_the_fields_of_the_original(stranger: Person, path: str) -> None:
    answer = await stranger("POST", path, SIGN_UP)
    assert answer.status == 201
    assert answer.json.keys() >= {"id", "email", "created_at"}
    assert answer.json["email"] == "ann@example.org"
    assert INSTANT.fullmatch(answer.json["created_at"])
    assert answer.headers["Location"] == f"{stranger.url}/v1/me"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "password" not in answer.content.decode()


async def test_an_address_that_is_taken_is_a_conflict_with_a_code_of_its_own(ann: Person) -> None:
    answer = await ann("POST", "/signup", SIGN_UP)
    assert (answer.status, answer.json["code"]) == (409, "email_taken")


@pytest.mark.parametrize("path", ["/login", "/v1/login"])
async def test_logging_in_answers_tokens_that_no_cache_may_keep(ann: Person, path: str) -> None:
    answer = await ann("POST", path, SIGN_UP)
    assert answer.status == 200
    assert answer.json.keys() == {"token", "expires_at", "refresh_token", "refresh_expires_at"}
    assert datetime.fromisoformat(answer.json["refresh_expires_at"]) > datetime.fromisoformat(answer.json["expires_at"])
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(ann: Person) -> None:
    wrong = await ann("POST", "/v1/login", {**SIGN_UP, "password": "wrong horse"}, headers={"X-Request-Id": "a"})
    unknown = await ann("POST", "/v1/login", {**SIGN_UP, "email": "x@example.org"}, headers={"X-Request-Id": "a"})
    assert wrong.status == unknown.status == 401
    assert wrong.content == unknown.content


@each(
    ("body", "field"),
    [
        ({"email": "ann@example.org"}, "password"),
        ({"password": "correct horse"}, "email"),
        ({**SIGN_UP, "email": "not an address"}, "email"),
        ({**SIGN_UP, "email": 7}, "email"),
        ({**SIGN_UP, "email": None}, "email"),
        ({**SIGN_UP, "email": "a" * 300 + "@example.org"}, "email"),
        ({**SIGN_UP, "email": "a\0@example.org"}, "email"),
        ({**SIGN_UP, "password": "short"}, "password"),
        ({**SIGN_UP, "password": "x" * 1025}, "password"),
        ({**SIGN_UP, "passwort": "x"}, "passwort"),
        ({**SIGN_UP, "is_admin": True}, "is_admin"),
    ],
)
async def test_wrong_input_to_sign_up_is_refused_by_name(stranger: Person, body: Any, field: str) -> None:
    answer = await stranger("POST", "/v1/signup", body)
    assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "invalid", field)


async def test_a_password_of_many_bytes_is_neither_cut_nor_a_failure(stranger: Person) -> None:
    password = "é" * 1024
    assert (await stranger("POST", "/v1/signup", {**SIGN_UP, "password": password})).status == 201
    assert (await stranger("POST", "/v1/login", {**SIGN_UP, "password": password})).status == 200
    assert (await stranger("POST", "/v1/login", {**SIGN_UP, "password": password[:-1]})).status == 401


async def test_a_lost_refresh_is_answered_again_to_the_same_client_and_to_no_other(ann: Person) -> None:
    body, browser = {"refresh_token": ann.tokens["refresh_token"]}, {"User-Agent": "Browser/1.0"}
    renewed = await ann("POST", "/v1/token/refresh", body, headers=browser)
    again = await ann("POST", "/v1/token/refresh", body, headers=browser)
    assert (renewed.status, again.status) == (200, 200)
    assert again.json["refresh_token"] == renewed.json["refresh_token"] != ann.tokens["refresh_token"]
    thief = await ann("POST", "/v1/token/refresh", body, headers={"User-Agent": "Browser/2.0"})
    assert (thief.status, thief.json["code"]) == (401, "unauthenticated")
    ended = await ann("POST", "/v1/token/refresh", {"refresh_token": renewed.json["refresh_token"]}, headers=browser)
    assert ended.status == 401
    assert (await ann("GET", "/v1/me")).status == 401


async def test_two_tabs_that_refresh_at_once_stay_logged_in(ann: Person) -> None:
    body = {"refresh_token": ann.tokens["refresh_token"]}
    answers = await asyncio.gather(*(ann("POST", "/v1/token/refresh", body) for _ in range(2)))
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json["refresh_token"] == answers[1].json["refresh_token"]
    for answer in answers:
        ann.token = answer.json["token"]
        assert (await ann("GET", "/v1/me")).status == 200


async def test_a_refresh_token_is_no_access_token_nor_the_other_way_round(ann: Person) -> None:
    assert (await ann("POST", "/v1/token/refresh", {"refresh_token": ann.token})).status == 401
    ann.token = ann.tokens["refresh_token"]
    assert (await ann("GET", "/v1/me")).status == 401


async def test_logging_out_ends_the_token_at_once(ann: Person) -> None:
    answer = await ann("POST", "/v1/logout")
    assert (answer.status, answer.content) == (204, b"")
    assert (await ann("GET", "/v1/me")).status == 401


async def test_me_tells_what_is_used(ann: Person) -> None:
    await ann.upload("a.txt", b"12345")
    answer = await ann("GET", "/v1/me")
    assert answer.json["usage"] == {
        "used_bytes": 5,
        "live_bytes": 5,
        "trash_bytes": 0,
        "version_bytes": 0,
        "reserved_bytes": 0,
    }
    assert answer.json["quota_bytes"] is None


async def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(ann: Person) -> None:
    other = (await ann("POST", "/v1/login", SIGN_UP)).json["token"]
    change = {"current_password": "correct horse", "password": "battery staple"}
    assert (await ann("PATCH", "/v1/me", change)).status == 200
    assert (await ann("GET", "/v1/me")).status == 200
    assert (await ann("GET", "/v1/me", headers={"Authorization": f"Bearer {other}"})).status == 401
    assert (await ann("POST", "/v1/login", SIGN_UP)).status == 401


async def test_changing_the_account_takes_the_current_password(ann: Person) -> None:
    answer = await ann("PATCH", "/v1/me", {"current_password": "wrong horse", "email": "b@example.org"})
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    answer = await ann("PATCH", "/v1/me", {"email": "b@example.org"})
    assert (answer.status, answer.json["field"]) == (422, "current_password")
    answer = await ann("PATCH", "/v1/me", {"current_password": "correct horse", "email": "b@example.org"})
    assert (answer.status, answer.json["email"]) == (200, "b@example.org")


async def test_a_deleted_account_is_gone_with_its_tokens(ann: Person) -> None:
    refused = await ann("DELETE", "/v1/me", {"password": "wrong horse"})
    assert (refused.status, refused.json["field"]) == (403, "password")
    assert (await ann("DELETE", "/v1/me", {"password": "correct horse"})).status == 204
    assert (await ann("GET", "/v1/me")).status == 401
    assert (await ann("POST", "/v1/login", SIGN_UP)).status == 401


async def test_sessions_can_be_listed_and_ended_one_by_one(ann: Person) -> None:
    other = (await ann("POST", "/v1/login", SIGN_UP, headers={"User-Agent": "tést agent"})).json["token"]
    sessions = (await ann("GET", "/v1/sessions")).json["sessions"]
    assert [session["current"] for session in sessions].count(True) == 1
    (there,) = [session for session in sessions if not session["current"]]
    assert (there["address"], there["user_agent"]) == ("127.0.0.1", "tést agent")
    assert (await ann("DELETE", f"/v1/sessions/{there['id']}")).status == 204
    assert (await ann("GET", "/v1/me", headers={"Authorization": f"Bearer {other}"})).status == 401
    assert (await ann("DELETE", f"/v1/sessions/{there['id']}")).status == 404


async def test_somebody_elses_session_is_not_found(ann: Person, bob: Person) -> None:
    (theirs,) = (await bob("GET", "/v1/sessions")).json["sessions"]
    assert (await ann("DELETE", f"/v1/sessions/{theirs['id']}")).status == 404
    assert (await bob("GET", "/v1/me")).status == 200


@each(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer ünïcödé",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
        "Bearer " + "x" * 4000,
    ],
)
async def test_what_is_no_token_is_401_with_a_challenge(stranger: Person, header: str | None) -> None:
    answer = await stranger("GET", "/v1/me", headers={} if header is None else {"Authorization": header})
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("scheme", ["Basic", "Token", "Bearerx", ""])
async def test_a_token_of_another_scheme_is_no_token(ann: Person, scheme: str) -> None:
    assert (await ann("GET", "/v1/me", headers={"Authorization": f"bearer  {ann.token}"})).status == 200
    assert (await ann("GET", "/v1/me", headers={"Authorization": f"{scheme} {ann.token}"})).status == 401


async def test_a_token_in_the_query_is_no_token(ann: Person) -> None:
    token, ann.token = ann.token, None
    assert (await ann("GET", f"/v1/me?access_token={token}")).status == 401


async def test_sign_ups_and_failed_log_ins_count_against_the_address_and_right_passwords_do_not(
    http: aiohttp.ClientSession, open_site: Any
) -> None:
    async with open_site(auth={"attempts_per_address": 3}) as site:
        ann = await Person(http, site.url).enter()  # a sign-up
        for _ in range(30):
            assert (await ann("POST", "/v1/login", SIGN_UP)).status == 200
        bob = {"email": "bob@example.org", "password": "correct horse"}
        assert (await ann("POST", "/v1/signup", bob)).status == 201
        assert (await ann("POST", "/v1/login", {**bob, "password": "wrong horse"})).status == 401
        for path, body in (("/v1/signup", {**bob, "email": "d@e.f"}), ("/v1/login", bob)):
            answer = await ann("POST", path, body)
            assert (answer.status, answer.headers["Retry-After"]) == (429, "60"), path
        assert (await ann("POST", "/v1/login", SIGN_UP)).status == 200


async def test_a_proxy_that_is_not_trusted_is_told_of_only_when_it_forwards(
    http: aiohttp.ClientSession, open_site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for trusted, header, told in (
        ([], {}, 0),
        ([], {"X-Forwarded-For": "198.51.100.7"}, 1),
        ([], {"Forwarded": "for=198.51.100.7"}, 1),
        ([], {"X-Real-IP": "198.51.100.7"}, 1),
        (["127.0.0.1"], {"X-Forwarded-For": "198.51.100.7"}, 0),
    ):
        caplog.clear()
        async with open_site(server={"trusted_proxies": trusted}) as site:
            for number in range(4):
                person = {"email": f"user{number}@example.org", "password": "correct horse"}
                stranger = Person(http, site.url)
                assert (await stranger("POST", "/v1/signup", person)).status == 201
                assert (await stranger("POST", "/v1/login", person, headers=header)).status == 200
        found = [record for record in caplog.records if "proxy_not_trusted" in record.getMessage()]
        assert len(found) == told, (trusted, header)


async def test_too_many_log_ins_are_told_when_to_come_back(http: aiohttp.ClientSession, open_site: Any) -> None:
    async with open_site(auth={"attempts_per_account": 3}) as site:
        ann = Person(http, site.url)
        answers = [await ann("POST", "/v1/login", SIGN_UP) for _ in range(4)]
    assert [answer.status for answer in answers] == [401, 401, 401, 429]
    assert answers[-1].json["code"] == "too_many_requests"
    assert int(answers[-1].headers["Retry-After"]) >= 1


async def test_closed_sign_up_is_forbidden(http: aiohttp.ClientSession, open_site: Any) -> None:
    async with open_site(auth={"signup": "closed"}) as site:
        answer = await Person(http, site.url)("POST", "/v1/signup", SIGN_UP)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")


async def test_the_address_counts_as_forwarded_only_by_a_trusted_proxy(
    http: aiohttp.ClientSession, open_site: Any, site: Site
) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.9, 203.0.113.7"}

    async def address(url: str) -> str:
        ann = Person(http, url)
        await ann("POST", "/v1/signup", SIGN_UP)
        login = await ann("POST", "/v1/login", SIGN_UP, headers=forwarded)
        ann.token = login.json["token"]
        (session,) = (await ann("GET", "/v1/sessions")).json["sessions"]
        return str(session["address"])

    assert await address(site.url) == "127.0.0.1"
    async with open_site(server={"trusted_proxies": ["127.0.0.0/8"]}) as behind_a_proxy:
        assert await address(behind_a_proxy.url) == "203.0.113.7"
