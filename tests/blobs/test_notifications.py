"""Bucket events of every dialect, recorded or written after the store's own source, as one value."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.notifications import MalformedRecord, ObjectCreated, parse
from godrive.errors import Invalid
from godrive.model import ETag
from tests.cases import each

FIXTURES = Path(__file__).parents[1] / "fixtures" / "bucket-events"
FILES = sorted(FIXTURES.glob("*.jsonl"))
SAMPLES = [json.loads(line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]


def arrivals(name: str) -> list[list[ObjectCreated]]:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    return [created(line) for line in lines]


def created(body: bytes | str) -> list[ObjectCreated]:
    return [found for found in parse(body) if isinstance(found, ObjectCreated)]


EXPECTED = ObjectCreated(
    bucket="drive",
    key="drive/objects/018f2c3a/018f2c3a-h ü+%.txt",
    size_bytes=2,
    etag=ETag("49f68a5c8493ec2c0bf489821c21fc3b"),
    event_id="187A5F1B2C9D0A11",
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minio-shape.jsonl", [1, 1, 0, 0]),
        ("rustfs-shape.jsonl", [1, 1, 0]),
        ("aws-sqs-shape.jsonl", [1, 1, 1]),
        ("aws-eventbridge-shape.jsonl", [1, 0]),
        ("seaweedfs-filer-shape.jsonl", [1, 0, 0, 0]),
    ],
)
def test_what_was_created_is_one_value_in_every_dialect(name: str, expected: list[int]) -> None:
    found = arrivals(name)
    assert [len(batch) for batch in found] == expected
    for arrival in (arrival for batch in found for arrival in batch):
        assert (arrival.bucket, arrival.key) == (EXPECTED.bucket, EXPECTED.key)
        assert (arrival.size_bytes, arrival.etag) == (EXPECTED.size_bytes, EXPECTED.etag)


def test_what_a_real_ceph_gateway_sent_is_read_with_its_keys_as_they_are() -> None:
    found = [arrival for batch in arrivals("ceph-rgw-16.2.jsonl") for arrival in batch]
    assert [arrival.key for arrival in found[:4]] == ["dir/h ü+%.txt", "presigned.bin", "mp", "cp"]
    assert found[0] == ObjectCreated(
        bucket="notif-686f48",
        key="dir/h ü+%.txt",
        size_bytes=5,
        etag=ETag("5d41402abc4b2a76b9719d911017c592"),
        event_id="1795329807.241298.5d41402abc4b2a76b9719d911017c592",
        at=datetime(2026, 11, 22, 6, 43, 27, 238206, tzinfo=UTC),
        metadata={"who": "me"},
    )
    assert len({arrival.event_id for arrival in found}) == len(found)


@each(
    ("described", "metadata"),
    [
        ({"metadata": [{"key": "x-amz-meta-A", "val": "1"}, {"key": "x-amz-date", "val": "2"}]}, {"a": "1"}),
        ({"userMetadata": {"X-Amz-Meta-A": "1", "content-type": "text/plain"}}, {"a": "1"}),
        ({"metadata": {"x-amz-meta-a": "1"}}, {}),
        ({"metadata": [1, {"key": 1, "val": "x"}, {"key": "x-amz-meta-a"}]}, {}),
        ({"userMetadata": ["x-amz-meta-a"]}, {}),
        ({"userMetadata": {"x-amz-meta-a": None}}, {}),
        ({}, {}),
    ],
)
def test_user_metadata_is_read_as_each_store_sends_it_and_never_makes_an_event_malformed(
    described: dict[str, Any], metadata: dict[str, str]
) -> None:
    record = {
        "eventSource": "ceph:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": "k", **described}},
    }
    (found,) = created(json.dumps({"Records": [record]}))
    assert found.metadata == metadata


@each(
    ("text", "at"),
    [
        ("2026-11-22T07:00:11.341Z", datetime(2026, 11, 22, 7, 0, 11, 341000, tzinfo=UTC)),
        ("2026-11-22T08:00:11+01:00", datetime(2026, 11, 22, 7, 0, 11, tzinfo=UTC)),
        ("2026-11-22T07:00:11", None),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_the_time_of_an_event_is_an_instant_or_unknown(text: str, at: datetime | None) -> None:
    described = {"bucket": {"name": "b"}, "object": {"key": "k"}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "eventTime": text, "s3": described}
    (found,) = created(json.dumps({"Records": [record]}))
    assert found.at == at


def test_a_topic_of_aws_tells_of_creations_only_and_its_test_is_nothing() -> None:
    tried, created, removed = arrivals("aws-sns-shape.jsonl")
    assert (tried, removed) == ([], [])
    assert [arrival.key for arrival in created] == ["dir/h ü+%.txt"]


def test_a_confirmation_is_nothing_to_act_on() -> None:
    assert arrivals("aws-sns-confirmation-shape.jsonl") == [[]]


@each(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"\xff",
        b'{"Records": [{}]}',
        b'{"Records": [null]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put"}]}',
        b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": 1}, "object": {"key": "k"}}}]}',
        b'{"TopicArn": "t", "Message": "not JSON"}',
        b'{"source": "aws.s3", "detail-type": "Object Created"}',
        b"[" * 100_000,
    ],
)
def test_what_no_store_sends_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid):
        parse(body)


def test_a_malformed_record_is_found_beside_those_that_can_be_read_in_whatever_envelope() -> None:
    good = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}
    odd = {"eventName": "ObjectCreated:Put", "of": 10**400}
    message = json.dumps({"Records": [0, good, odd, good]})
    queued = json.dumps({"Records": [{"body": message}, {"body": json.dumps({"TopicArn": "t", "Message": message})}]})
    for body, times in ((message, 1), (message.encode(), 1), (queued, 2)):
        assert [each.key for each in created(body)] == ["k", "k"] * times
        malformed = [each for each in parse(body) if isinstance(each, MalformedRecord)]
        assert [json.loads(each.record) for each in malformed] == [0, odd] * times
        assert "s3" in malformed[1].reason
        with pytest.raises(Invalid):
            parse(b'{"Records": [%b]}' % malformed[0].record)


def test_envelopes_are_not_opened_without_end() -> None:
    message = json.dumps({"Records": []})
    for _ in range(20):
        message = json.dumps({"TopicArn": "t", "Message": message})
    with pytest.raises(Invalid):
        parse(message)
    record: dict[str, Any] = {}
    for _ in range(20):
        record = {"data": record}
    with pytest.raises(Invalid):
        parse(json.dumps({"Records": [record]}))


@pytest.mark.parametrize("size", [-1, 2**63, 2**70, 10**400])
def test_a_size_that_none_can_be_is_unknown_and_fits_into_a_message(size: int) -> None:
    """An ask to another process has no room for it."""
    s3 = {"bucket": {"name": "b"}, "object": {"key": "k", "size": size}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}
    (arrival,) = created(json.dumps({"Records": [record]}))
    assert arrival.size_bytes is None


def is_harmless(body: bytes | str) -> bool:
    try:
        found = parse(body)
    except Invalid:
        return True
    return all(isinstance(each, ObjectCreated | MalformedRecord) for each in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def _mutated(draw: Callable[[Any], Any], value: Any) -> Any:
    """*value* with something in it replaced or left out."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: inner for name, inner in value.items() if name != key}
        return rest if draw(st.booleans()) else {**rest, key: _mutated(draw, value[key])}
    if isinstance(value, list) and value:
        return [_mutated(draw, value[0]), *value[1:]]
    return draw(JSON)


@st.composite
def damaged(draw: Callable[[Any], Any]) -> Any:
    return _mutated(draw, draw(st.sampled_from(SAMPLES)))


@given(JSON)
def test_no_json_at_all_does_harm(message: Any) -> None:
    assert is_harmless(json.dumps(message))


@given(damaged())
def test_a_real_event_with_anything_in_it_replaced_does_no_harm(message: Any) -> None:
    assert is_harmless(json.dumps(message))


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(body: bytes) -> None:
    assert is_harmless(body)


@given(st.text(min_size=1, max_size=50), st.sampled_from(["aws:s3", "minio:s3", "rustfs:s3"]))
def test_any_key_comes_out_as_the_client_named_it(key: str, source: str) -> None:
    record = {"eventSource": source, "eventName": "ObjectCreated:Put"}
    record |= {"s3": {"bucket": {"name": "b"}, "object": {"key": quote_plus(key, errors="surrogatepass")}}}  # type: ignore[dict-item]
    assert created(json.dumps({"Records": [record]}))[0].key == key
