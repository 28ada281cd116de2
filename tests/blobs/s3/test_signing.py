"""Signed URLs against the SDK that everybody signs with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from godrive.blobs.s3.signing import Credentials, presign
from godrive.errors import Invalid

NOW = datetime(2026, 11, 22, 7, 0, 11, tzinfo=UTC)
TOKENS = st.none() | st.text(alphabet="abc+/=", min_size=1, max_size=20)
NAMES = st.sampled_from(["content-type", "content-length", "if-none-match", "x-amz-meta-a", "x-amz-checksum-sha256"])
VALUES = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
QUERY = st.dictionaries(
    st.sampled_from(["partNumber", "uploadId", "response-content-type", "response-content-disposition"]),
    st.text(max_size=20).filter(lambda text: text.isprintable()),
)


def sdk_signature(method: str, url: str, headers: dict[str, str], query: dict[str, str], token: str | None) -> str:
    auth = botocore.auth.S3SigV4QueryAuth(BotoCredentials("AKID", "SECRET", token), "s3", "eu-west-1", expires=600)
    request = AWSRequest(method=method, url=url, headers=headers, params=query)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: NOW.replace(tzinfo=None))
        auth.add_auth(request)
    signed: str = request.url
    return dict(parse_qsl(urlsplit(signed).query, keep_blank_values=True))["X-Amz-Signature"]


@given(
    st.sampled_from(["PUT", "GET"]),
    st.dictionaries(NAMES, VALUES),
    QUERY,
    TOKENS,
    st.sampled_from(
        ["https://s3.example/b/k/018f", "http://127.0.0.1:9000/b/drive/objects/a/b", "https://b.s3.example/k"]
    ),
)
def test_a_signature_is_the_one_the_sdk_makes(
    method: str, headers: dict[str, str], query: dict[str, str], token: str | None, url: str
) -> None:
    ours = presign(
        method,
        url,
        credentials=Credentials("AKID", "SECRET", token),
        region="eu-west-1",
        now=NOW,
        expires_at=NOW + timedelta(seconds=600),
        headers=headers,
        query=query,
    )
    signature = dict(parse_qsl(urlsplit(ours).query, keep_blank_values=True))["X-Amz-Signature"]
    assert signature == sdk_signature(method, url, headers, query, token)


@pytest.mark.parametrize("seconds", [-1, 0, 7 * 86_400 + 1])
def test_a_time_that_no_store_accepts_is_refused(seconds: int) -> None:
    with pytest.raises(Invalid):
        presign(
            "GET",
            "https://s3.example/b/k",
            credentials=Credentials("AKID", "SECRET"),
            region="us-east-1",
            now=NOW,
            expires_at=NOW + timedelta(seconds=seconds),
        )
