"""A bucket of a simulated S3 store: what it keeps, and how it answers.

It knows the operations that the S3 driver and the holders of its URLs use, with
the conditions and errors of the Amazon S3 API reference.  It verifies every
signature with its own clock.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from godrive.blobs.s3.signing import UNSIGNED, Credentials, presign, sign
from godrive.errors import Invalid
from godrive.simulation.http_server import Reply, Request

BUCKET = "godrive"
CREDENTIALS = Credentials("simulated", "simulated-secret")
REGION = "us-east-1"

_MOST_SKEW = timedelta(minutes=15)
_PAGE = 1000
_CHECKSUM = "x-amz-checksum-sha256"
_KEPT = (
    _CHECKSUM,
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)


@dataclass(frozen=True)
class Honours:
    """Which conditions the store takes seriously."""

    conditional_put: bool = True
    conditional_complete: bool = True


@dataclass
class Stored:
    """An object, or a part."""

    data: bytes
    etag: str
    at: datetime
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Multipart:
    """A multipart upload that has not ended."""

    key: str
    id: str
    begun_at: datetime
    headers: dict[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


class Refused(Exception):
    """The store refuses."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class Bucket:
    """The bucket.  *on_created* is called with the key of every object that was written."""

    def __init__(
        self,
        address: str,
        honours: Honours,
        chance: random.Random,
        now: Callable[[], datetime],
        on_created: Callable[[str, Stored], None],
    ) -> None:
        self.honours = honours
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Multipart] = {}
        self._address = address
        self._chance = chance
        self._now = now
        self._on_created = on_created

    def answer(self, request: Request) -> Reply:
        """Do what a request asks for."""
        try:
            self._authorize(request)
            return self._act(request)
        except Refused as refusal:
            body = f"<Error><Code>{refusal.code}</Code><Message>simulated</Message></Error>".encode()
            return Reply(refusal.status, b"" if request.method == "HEAD" else body, {"Content-Type": "application/xml"})

    # Signatures

    def _authorize(self, request: Request) -> None:
        if "X-Amz-Signature" in request.query:
            self._check_url(request)
        elif request.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            self._check_header(request)
        else:
            raise Refused(403, "AccessDenied")
        digest = request.headers.get("x-amz-content-sha256", UNSIGNED)
        if digest != UNSIGNED and digest != hashlib.sha256(request.body).hexdigest():
            raise Refused(400, "XAmzContentSHA256Mismatch")

    def _check_url(self, request: Request) -> None:
        query = dict(request.query)
        signature, stamp = query.pop("X-Amz-Signature"), query["X-Amz-Date"]
        begun = _instant(stamp)
        expires = begun + timedelta(seconds=int(query["X-Amz-Expires"]))
        now = self._now()
        if now > expires or begun > now + _MOST_SKEW:
            raise Refused(403, "AccessDenied")
        headers = _signed(request, query["X-Amz-SignedHeaders"])
        own = {name: value for name, value in query.items() if not name.startswith("X-Amz-")}
        try:
            url = presign(
                request.method,
                f"http://{self._address}{request.place}",
                credentials=CREDENTIALS,
                region=REGION,
                now=begun,
                expires_at=expires,
                headers=headers,
                query=own,
                payload=headers.get("x-amz-content-sha256", UNSIGNED),
            )
        except Invalid:
            raise Refused(403, "AccessDenied") from None
        if parse_qs(urlsplit(url).query)["X-Amz-Signature"] != [signature]:
            raise Refused(403, "SignatureDoesNotMatch")

    def _check_header(self, request: Request) -> None:
        fields = dict(
            part.strip().split("=", 1) for part in request.headers["authorization"].split(" ", 1)[1].split(",")
        )
        now = _instant(request.headers["x-amz-date"])
        if abs(self._now() - now) > _MOST_SKEW:
            raise Refused(403, "RequestTimeTooSkewed")
        headers = _signed(request, fields["SignedHeaders"])
        payload = headers.pop("x-amz-content-sha256")
        del headers["x-amz-date"]
        _, made = sign(
            request.method,
            f"http://{self._address}{request.place}",
            credentials=CREDENTIALS,
            region=REGION,
            now=now,
            headers=headers,
            query=request.query,
            payload=payload,
        )
        if not made["Authorization"].endswith(f"Signature={fields['Signature']}"):
            raise Refused(403, "SignatureDoesNotMatch")

    # Operations

    def _act(self, request: Request) -> Reply:
        bucket, _, key = request.place.removeprefix("/").partition("/")
        if bucket != BUCKET:
            raise Refused(404, "NoSuchBucket")
        query = request.query
        upload = query.get("uploadId")
        if not key:
            return self._list_uploads(query) if "uploads" in query else self._list(query)
        if request.method == "PUT":
            return self._put_part(request, key, upload) if upload else self._put(request, key)
        if request.method == "POST":
            return self._complete(request, key, upload) if upload else self._begin(request, key)
        if request.method == "DELETE":
            if upload:
                self._upload(key, upload)
                del self.uploads[upload]
            else:
                self.objects.pop(key, None)
            return Reply(204)
        return self._list_parts(key, upload) if upload else self._get(request, key)

    def _get(self, request: Request, key: str) -> Reply:
        found = self.objects.get(key)
        if found is None:
            raise Refused(404, "NoSuchKey")
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted.strip('"') != found.etag:
            raise Refused(412, "PreconditionFailed")
        headers = {**found.headers, "ETag": f'"{found.etag}"', "Last-Modified": format_datetime(found.at, usegmt=True)}
        if request.headers.get("x-amz-checksum-mode") != "ENABLED":
            headers.pop(_CHECKSUM, None)
        for name, value in request.query.items():
            if name.startswith("response-"):
                headers[name.removeprefix("response-")] = value
        status, data, size = 200, found.data, len(found.data)
        if asked := request.headers.get("range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or size), size - 1)
            if start >= size:
                raise Refused(416, "InvalidRange")
            status, data = 206, data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Reply(status, data, headers)

    def _put(self, request: Request, key: str) -> Reply:
        if self.honours.conditional_put and request.headers.get("if-none-match") == "*" and key in self.objects:
            raise Refused(412, "PreconditionFailed")
        if "x-amz-copy-source" in request.headers:
            source = self._source(request)
            self._keep(key, Stored(source.data, source.etag, self._now(), source.headers))
            return _xml("CopyObjectResult", f"<ETag>&quot;{source.etag}&quot;</ETag>")
        _check_sum(request)
        self._keep(key, Stored(request.body, _etag(request.body), self._now(), _kept(request)))
        return Reply(200, headers={"ETag": f'"{self.objects[key].etag}"'})

    def _source(self, request: Request) -> Stored:
        source = unquote(request.headers["x-amz-copy-source"]).removeprefix("/")
        found = self.objects.get(source.partition("/")[2])
        if found is None:
            raise Refused(404, "NoSuchKey")
        wanted = request.headers.get("x-amz-copy-source-if-match")
        if wanted is not None and wanted.strip('"') != found.etag:
            raise Refused(412, "PreconditionFailed")
        return found

    def _keep(self, key: str, stored: Stored) -> None:
        self.objects[key] = stored
        self._on_created(key, stored)

    # Multipart uploads

    def _upload(self, key: str, upload: str) -> Multipart:
        found = self.uploads.get(upload)
        if found is None or found.key != key:
            raise Refused(404, "NoSuchUpload")
        return found

    def _begin(self, request: Request, key: str) -> Reply:
        id_ = f"{self._chance.getrandbits(64):016x}"
        self.uploads[id_] = Multipart(key, id_, self._now(), _kept(request))
        text = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><UploadId>{id_}</UploadId>"
        return _xml("InitiateMultipartUploadResult", text)

    def _put_part(self, request: Request, key: str, upload: str) -> Reply:
        found = self._upload(key, upload)
        if "x-amz-copy-source" in request.headers:
            data = self._source(request).data
            if asked := request.headers.get("x-amz-copy-source-range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                data = data[int(first) : int(last) + 1]
        else:
            _check_sum(request)
            data = request.body
        part = found.parts[int(request.query["partNumber"])] = Stored(data, _etag(data), self._now())
        if "x-amz-copy-source" in request.headers:
            return _xml("CopyPartResult", f"<ETag>&quot;{part.etag}&quot;</ETag>")
        return Reply(200, headers={"ETag": f'"{part.etag}"'})

    def _complete(self, request: Request, key: str, upload: str) -> Reply:
        found = self._upload(key, upload)
        conditional = request.headers.get("if-none-match") == "*" and self.honours.conditional_complete
        if conditional and key in self.objects:
            raise Refused(412, "PreconditionFailed")
        chosen: list[Stored] = []
        for entry in ElementTree.fromstring(request.body):  # noqa: S314 - our own driver has made it
            number, etag = (next(c.text or "" for c in entry if c.tag.endswith(n)) for n in ("PartNumber", "ETag"))
            part = found.parts.get(int(number))
            if part is None or part.etag != etag.strip('"'):
                raise Refused(400, "InvalidPart")
            chosen.append(part)
        data = b"".join(part.data for part in chosen)
        digest = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in chosen), usedforsecurity=False)
        etag = f"{digest.hexdigest()}-{len(chosen)}"
        del self.uploads[upload]
        self._keep(key, Stored(data, etag, self._now(), found.headers))
        return _xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>&quot;{etag}&quot;</ETag>")

    # Lists

    def _list(self, query: Mapping[str, str]) -> Reply:
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        found = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = found[: int(query.get("max-keys", _PAGE))]
        text = "<EncodingType>url</EncodingType>"
        text += f"<IsTruncated>{str(len(page) < len(found)).lower()}</IsTruncated>"
        if len(page) < len(found) and page:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        for key in page:
            each = self.objects[key]
            text += f"<Contents><Key>{quote(key)}</Key><Size>{len(each.data)}</Size>"
            text += f"<ETag>&quot;{each.etag}&quot;</ETag><LastModified>{_iso(each.at)}</LastModified></Contents>"
        return _xml("ListBucketResult", text)

    def _list_parts(self, key: str, upload: str) -> Reply:
        text = "<IsTruncated>false</IsTruncated>"
        for number, part in sorted(self._upload(key, upload).parts.items()):
            text += f"<Part><PartNumber>{number}</PartNumber><Size>{len(part.data)}</Size>"
            text += f"<ETag>&quot;{part.etag}&quot;</ETag><LastModified>{_iso(part.at)}</LastModified></Part>"
        return _xml("ListPartsResult", text)

    def _list_uploads(self, query: Mapping[str, str]) -> Reply:
        text = "<IsTruncated>false</IsTruncated>"
        for upload in sorted(self.uploads.values(), key=lambda each: (each.key, each.id)):
            if upload.key.startswith(query.get("prefix", "")):
                text += f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{upload.id}</UploadId>"
                text += f"<Initiated>{_iso(upload.begun_at)}</Initiated></Upload>"
        return _xml("ListMultipartUploadsResult", text)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _instant(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _signed(request: Request, names: str) -> dict[str, str]:
    """The headers that are signed, but for the host.

    Raises :class:`Refused` if one is missing, or if a header of S3 is not signed.
    """
    found = {}
    listed = names.split(";")
    if any(name.startswith("x-amz-") and name not in listed for name in request.headers):
        raise Refused(403, "AccessDenied")
    for name in listed:
        if name not in request.headers:
            raise Refused(403, "SignatureDoesNotMatch")
        if name != "host":
            found[name] = request.headers[name]
    return found


def _kept(request: Request) -> dict[str, str]:
    """The headers that downloads have later."""
    return {name: value for name, value in request.headers.items() if name in _KEPT or name.startswith("x-amz-meta-")}


def _check_sum(request: Request) -> None:
    wanted = request.headers.get(_CHECKSUM)
    if wanted is not None and wanted != base64.b64encode(hashlib.sha256(request.body).digest()).decode():
        raise Refused(400, "BadDigest")


def _xml(name: str, text: str) -> Reply:
    return Reply(200, f"<{name}>{text}</{name}>".encode(), {"Content-Type": "application/xml"})
