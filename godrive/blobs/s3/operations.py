"""The operations that requests wait for, as requests and answers.

Each takes the arguments that the SDK takes and returns what the SDK returns, as
far as it is used, so a caller does not know which of the two calls the store.
An error is the SDK's ``ClientError``.

Source: Amazon S3 API reference, "API Reference, Actions".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from botocore.exceptions import ClientError, ResponseStreamingError

Headers = Mapping[str, str]

_METADATA = "x-amz-meta-"


@dataclass(frozen=True)
class Operation:
    """*headers* and *query* map the arguments to where they are sent.  *always* is part of every query."""

    name: str
    method: str
    read: Callable[[Headers, bytes], dict[str, Any]]
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False
    """The body of the answer is left to the caller."""

    def request(self, arguments: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """The headers and the query for *arguments*.  Raises ``KeyError`` for an unknown one."""
        headers: dict[str, str] = {}
        query = dict(self.always)
        for argument, value in arguments.items():
            if argument == "Metadata":
                headers |= {f"{_METADATA}{name}": text for name, text in value.items()}
            elif argument in self.query:
                query[self.query[argument]] = str(value)
            else:
                headers[self.headers[argument]] = str(value)
        return headers, query


def _describe(headers: Headers, _body: bytes) -> dict[str, Any]:
    """What the headers say about an object.

    Every answer of S3 about one has its ETag.  One without is that of something else, such as a page of a proxy, and
    says nothing of what is stored.
    """
    found: dict[str, Any] = {"Metadata": {}}
    for name, value in headers.items():
        lower = name.lower()
        if lower.startswith(_METADATA):
            found["Metadata"][lower.removeprefix(_METADATA)] = value
        elif lower in _DESCRIPTIONS:
            found[_DESCRIPTIONS[lower]] = value
    if "ContentLength" in found:
        found["ContentLength"] = int(found["ContentLength"])
    if "LastModified" in found:
        found["LastModified"] = parsedate_to_datetime(found["LastModified"])
    if "ETag" not in found:
        raise ResponseStreamingError(error="The answer is not one of S3: it has no ETag.")
    return found


_DESCRIPTIONS = {
    "content-length": "ContentLength",
    "content-range": "ContentRange",
    "content-type": "ContentType",
    "etag": "ETag",
    "last-modified": "LastModified",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-type": "ChecksumType",
}


def _nothing(_headers: Headers, _body: bytes) -> dict[str, Any]:
    return {}


def _read_list(_headers: Headers, body: bytes) -> dict[str, Any]:
    try:
        root = _parse(body)
        if root.tag != "ListBucketResult":
            raise ValueError(f"it is a {root.tag}")
        is_encoded = root.findtext("EncodingType") == "url"
        found: dict[str, Any] = {"IsTruncated": root.findtext("IsTruncated") == "true"}
        if following := root.findtext("NextContinuationToken"):
            found["NextContinuationToken"] = following
        entries = [
            {
                "Key": unquote_plus(_text(entry, "Key")) if is_encoded else _text(entry, "Key"),
                "Size": int(_text(entry, "Size")),
                "ETag": _text(entry, "ETag"),
                "LastModified": datetime.fromisoformat(_text(entry, "LastModified")),
            }
            for entry in root.findall("Contents")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise ResponseStreamingError(error=f"The list cannot be read: {error}") from error
    return found | ({"Contents": entries} if entries else {})


_CONDITIONS = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}
_CHECKSUM = {"ChecksumSHA256": "x-amz-checksum-sha256"}
_DOWNLOAD = {"Range": "Range", "ChecksumMode": "x-amz-checksum-mode", **_CONDITIONS}

OPERATIONS: Mapping[str, Operation] = {
    "head_object": Operation("HeadObject", "HEAD", _describe, _DOWNLOAD),
    "get_object": Operation("GetObject", "GET", _describe, _DOWNLOAD, streams=True),
    "put_object": Operation("PutObject", "PUT", _describe, {"ContentType": "Content-Type", **_CHECKSUM, **_CONDITIONS}),
    "upload_part": Operation(
        "UploadPart", "PUT", _describe, _CHECKSUM, {"PartNumber": "partNumber", "UploadId": "uploadId"}
    ),
    "delete_object": Operation("DeleteObject", "DELETE", _nothing),
    "list_objects_v2": Operation(
        "ListObjectsV2",
        "GET",
        _read_list,
        query={
            "Prefix": "prefix",
            "StartAfter": "start-after",
            "ContinuationToken": "continuation-token",
            "MaxKeys": "max-keys",
        },
        always={"list-type": "2", "encoding-type": "url"},
    ),
}
"""By the name of the SDK's method."""


def error_of(operation: Operation, status: int, body: bytes) -> ClientError:
    """The error for an answer with *status*.

    Without a body its code is the status, as for every HEAD.  A body that is no
    error of S3 is the answer of something else, such as a proxy; so is a 404
    without a body, unless to a HEAD.  Then a status below 500 says nothing about
    the object, so the code is no code of S3.
    """
    code, message = _read_error(body)
    if not code:
        is_plain = not body.strip() and (status != 404 or operation.method == "HEAD")
        code = str(status) if is_plain or status >= 500 else f"HTTP {status}"
    answer = {
        "Error": {"Code": code, "Message": message or responses.get(status, "")},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, operation.name)


def _read_error(body: bytes) -> tuple[str, str]:
    try:
        root = _parse(body)
    except ElementTree.ParseError:
        return "", ""
    error = root if root.tag == "Error" else root.find("Error")
    return ("", "") if error is None else (error.findtext("Code", ""), error.findtext("Message", ""))


_NAMESPACE = re.compile(rb"""\sxmlns=("[^"]*"|'[^']*')""")


def _parse(body: bytes) -> ElementTree.Element:
    """The XML without its default namespace.  The SDK also uses this parser, whose C library bounds expansions."""
    return ElementTree.fromstring(_NAMESPACE.sub(b"", body, count=1))  # noqa: S314


def _text(entry: ElementTree.Element, name: str) -> str:
    text = entry.findtext(name)
    if text is None:
        raise ValueError(f"there is no {name}")
    return text
