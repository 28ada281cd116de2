"""Webhooks over HTTP: made with a secret that is shown once, listed, replayed, removed."""

from __future__ import annotations

import aiohttp
import pytest

from tests.http.client import Person
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio

URL = "https://example.org/hook?x=1"


async def test_a_webhook_is_made_listed_replayed_and_removed(ann: Person) -> None:
    made = await ann("POST", "/v1/webhooks", {"url": URL})
    assert (made.status, made.headers["Cache-Control"]) == (201, "no-store")
    assert made.headers["Location"] == f"{ann.url}/v1/webhooks/{made.json['id']}"
    assert made.json["secret"].startswith("whsec_")
    shown = {name: value for name, value in made.json.items() if name != "secret"}
    assert shown == {
        "id": made.json["id"],
        "url": URL,
        "created_at": made.json["created_at"],
        "disabled": False,
        "failures": 0,
    }
    assert (await ann("GET", "/v1/webhooks")).json == {"webhooks": [shown]}
    cursor = (await ann("GET", "/v1/changes")).json["cursor"]
    for body in (None, {}, {"cursor": cursor}):
        replayed = await ann("POST", f"/v1/webhooks/{shown['id']}/replay", body)
        assert (replayed.status, replayed.json) == (200, shown)
    assert (await ann("DELETE", f"/v1/webhooks/{shown['id']}")).status == 204
    assert (await ann("GET", "/v1/webhooks")).json == {"webhooks": []}


async def test_what_cannot_be_a_webhook_is_refused(ann: Person, bob: Person) -> None:
    for body, field in (
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "http://example.org/"}, "url"),
        ({"url": URL, "secret": "short"}, "secret"),
        ({"url": URL, "events": []}, "events"),
        ({}, "url"),
    ):
        answer = await ann("POST", "/v1/webhooks", body)
        assert (answer.status, answer.json["field"]) == (422, field)
    webhook = (await ann("POST", "/v1/webhooks", {"url": URL})).json
    foreign = (await bob("GET", "/v1/changes")).json["cursor"]
    answer = await ann("POST", f"/v1/webhooks/{webhook['id']}/replay", {"cursor": foreign})
    assert (answer.status, answer.json["code"]) == (410, "cursor_reset")


async def test_a_user_has_as_many_as_the_operator_allows(open_site: OpenSite, http: aiohttp.ClientSession) -> None:
    async with open_site(webhooks={"per_user": 1}) as site:
        ann = await Person(http, site.url).enter()
        assert (await ann("POST", "/v1/webhooks", {"url": URL})).status == 201
        refused = await ann("POST", "/v1/webhooks", {"url": URL})
        assert (refused.status, refused.json["field"]) == (507, "webhooks")
