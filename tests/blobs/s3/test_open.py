"""Opening a store: the operator's mistakes get one line each, and credentials that expire are renewed."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from msgspec.structs import replace

from godrive.blobs.s3 import S3BlobStore, transport
from godrive.blobs.s3.client import S3Client
from godrive.blobs.s3.probe import Capabilities
from godrive.config import S3
from godrive.errors import ConfigError, DriveError, NotFound, StoreUnavailable
from godrive.model import ObjectKey
from tests.servers import CephGateway

pytestmark = pytest.mark.anyio

KEY = ObjectKey("018f2c3a/018f2c3a-0000-7000-8000-000000000000")


async def refusal(settings: S3) -> DriveError:
    store = S3BlobStore(settings)
    try:
        with pytest.raises(DriveError) as refused:
            await store.open()
    finally:
        await store.close()
    return refused.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"access_key": "NOBODY"}, "access_key"),
        ({"secret_key": "wrong"}, "secret_key"),
        ({"create_bucket": False}, "create_bucket"),
        ({"bucket": "a.-b"}, "bucket"),
    ],
)
async def test_a_mistake_is_named(s3_settings: S3, changes: dict[str, Any], words: str) -> None:
    error = await refusal(replace(s3_settings, **changes))
    assert isinstance(error, ConfigError), repr(error)
    assert words in f"{error.detail} {error.hint}"
    assert (error.hint or "?") not in error.detail  # both are shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secret_key": ""}, "must be given together"),
        ({"endpoint": "127.0.0.1:9000"}, "blobs.s3.endpoint"),
        ({"public_endpoint": "files.example"}, "blobs.s3.public_endpoint"),
        ({"prefix": "drive"}, "blobs.s3.prefix"),
        ({"bucket": "no such/bucket"}, "blobs.s3.bucket"),
        ({"ca_file": "/nonexistent/ca.pem"}, "blobs.s3.ca_file"),
    ],
)
def test_a_mistake_that_shows_at_once_is_named_before_anything_is_opened(
    s3_settings: S3, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        S3BlobStore(replace(s3_settings, **changes))


async def test_a_clock_that_is_wrong_is_named_and_no_mistake_of_the_operator(
    s3_settings: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a battery starts with a wrong clock.  An init system must try again once NTP has set it."""
    wrong = datetime.now(UTC) - timedelta(hours=2)
    monkeypatch.setattr(transport, "wall_clock", lambda: wrong)
    error = await refusal(s3_settings)
    assert isinstance(error, StoreUnavailable)
    assert "clock" in (error.hint or "")


@pytest.mark.parametrize("busy", [429, 503])
async def test_a_store_that_has_no_time_to_be_tried_has_not_been_found_to_copy_nothing(
    s3_settings: S3, monkeypatch: pytest.MonkeyPatch, busy: int
) -> None:
    """It would be taken for one whose clients need no guards, for as long as the server runs.  Nor is anything left."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(status=busy)

    async def presign(*_: Any, **__: Any) -> str:
        return str(gateway.make_url("/"))

    async with RawTestServer(answer) as gateway:
        monkeypatch.setattr(S3Client, "presign", presign)
        assert isinstance(await refusal(s3_settings), StoreUnavailable)
    store = S3BlobStore(s3_settings, capabilities=Capabilities())
    await store.open()
    left = await store.client.call("list_objects_v2")
    await store.close()
    assert "Contents" not in left


async def test_a_bucket_of_somebody_else_is_named(s3_settings: S3, ceph_gateway: CephGateway) -> None:
    owner = S3BlobStore(s3_settings)
    await owner.open()
    await owner.close()
    ceph_gateway.add_user("other", "OTHERACCESSKEY", "OTHERSECRETKEY")
    error = await refusal(replace(s3_settings, access_key="OTHERACCESSKEY", secret_key="OTHERSECRETKEY"))
    assert isinstance(error, ConfigError)
    assert "s3:ListBucket" in (error.hint or "")


async def test_what_the_aws_tools_would_read_is_not_read_when_the_keys_are_configured(
    s3_settings: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "/nonexistent")
    store = S3BlobStore(s3_settings)
    await store.open()
    with pytest.raises(NotFound):
        await store.head(KEY)
    await store.close()


async def test_without_any_credentials_the_refusal_says_where_they_may_come_from(
    s3_settings: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    error = await refusal(replace(s3_settings, access_key="", secret_key=""))
    assert isinstance(error, ConfigError)
    assert "access_key" in (error.hint or "")


async def test_credentials_that_expire_are_renewed_for_calls_and_for_urls(
    s3_settings: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The process's own role: here a program, as the AWS tools allow, whose credentials last a minute.

    The program runs for each signature, so the store is not probed, which takes dozens.
    """
    asked = tmp_path / "asked"
    answer = {"Version": 1, "AccessKeyId": s3_settings.access_key, "SecretAccessKey": s3_settings.secret_key}
    program = tmp_path / "program"
    said = json.dumps({**answer, "Expiration": "END"}).replace("END", "'\"$end\"'")
    program.write_text(
        f"printf x >>{shlex.quote(str(asked))}\nend=$(date -u -d '+1 minute' +%Y-%m-%dT%H:%M:%SZ)\necho '{said}'\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = /bin/sh {program}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    store = S3BlobStore(replace(s3_settings, access_key="", secret_key=""), capabilities=Capabilities())
    await store.open()
    with pytest.raises(NotFound):
        await store.head(KEY)
    at_first = len(asked.read_text())
    until = datetime.now(dt.UTC) + timedelta(seconds=30)
    request = await store.presign_put(KEY, size=2, mime="text/plain", sha256=None, expires_at=until)
    assert len(asked.read_text()) > at_first
    async with aiohttp.ClientSession() as client, client.put(request.url, data=b"hi", headers=request.headers) as sent:
        assert sent.status == 200
    assert (await store.head(KEY)).size_bytes == 2
    await store.close()
