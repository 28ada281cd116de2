"""A small S3 store with faults that can be switched on, for what no store at hand does wrong.

It verifies signatures as S3 does, and looks at signed headers only.  A request
for which one of ``holes`` is true needs no signature.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web
from aiohttp.test_utils import RawTestServer

from godrive.config import S3
from tests.ceph import ONE_AUTHORITY

ACCESS_KEY, SECRET_KEY, BUCKET, REGION = "FAKEACCESSKEY", "fake-secret", "fake", "us-east-1"

Hole = Callable[[web.BaseRequest], bool]

OVERRIDES = {
    "response-content-type": "Content-Type",
    "response-content-disposition": "Content-Disposition",
    "response-cache-control": "Cache-Control",
    "response-content-encoding": "Content-Encoding",
    "response-content-language": "Content-Language",
    "response-expires": "Expires",
}


@dataclass
class Object:
    body: bytes
    headers: dict[str, str]
    public: bool = False
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class FakeStore(RawTestServer):
    """Listens while it is entered."""

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.objects: dict[str, Object] = {}
        self.uploads: dict[tuple[str, str], dict[int, bytes]] = {}
        self.holes: list[Hole] = []
        self.copies = False
        """Honours x-amz-copy-source, signed or not, unless a signed condition forbids it."""
        self.guarded = True
        """Heeds a condition on the source of a copy."""
        self.busy = False
        """Completes another multipart upload of the same key."""
        self.copies_parts = False
        """Honours x-amz-copy-source on a part, signed or not."""
        self.heeded_on_parts: set[str] = set()
        """Headers with which it refuses to copy a part, unless they are those of a usual copy."""
        self.acls = False
        """Honours x-amz-acl, signed or not."""
        self.overrides = set(OVERRIDES)
        """The response-* parameters that it honours."""
        self.unanswered: list[Hole] = []
        """For each of these, one request that it does without an answer."""
        self.made = True
        """Whether the bucket is there."""
        self.waits_to_make = 0
        """How often it leaves CreateBucket without an answer before it makes the bucket."""
        self.heads: dict[str, int] = {}
        """Statuses of HEAD for some keys."""
        self.denied: set[str] = set()
        """Operations that the access key has no right to, as the SDK names them."""
        self.cors = True
        """Lets every origin in; set by a PUT of rules."""
        self.exposes = True
        """Lets pages read the ETag of its answers."""
        self.cors_rules = True
        """Has rules for a bucket."""
        self.versioning = ""
        """``Enabled`` or ``Suspended``."""
        self.lists_uploads_by_prefix = True
        self.asked: list[str] = []
        self._ids = count()

    @property
    def settings(self) -> S3:
        return S3(
            endpoint=str(self.make_url("/")).rstrip("/"),
            bucket=BUCKET,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            ca_file=ONE_AUTHORITY,
        )

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect") and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await request.read()
        served = self._answered(request, body)
        if self.exposes and "Origin" in request.headers:
            served.headers["Access-Control-Expose-Headers"] = "Content-Range, ETag"
        for lost in [lost for lost in self.unanswered if lost(request)]:
            self.unanswered.remove(lost)
            while request.transport is not None:
                await asyncio.sleep(0.01)
        return served

    def _answered(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        try:
            return self._serve(request, body)
        except Refused as refused:
            text = f"<Error><Code>{refused.code}</Code><Message>no</Message></Error>"
            return web.Response(status=refused.status, text=text, content_type="application/xml")

    def _serve(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        if request.method == "OPTIONS":
            allowed = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, HEAD, PUT"}
            allowed["Access-Control-Allow-Headers"] = "*"
            return web.Response(status=200 if self.cors else 403, headers=allowed)
        path = unquote(request.raw_path.partition("?")[0])
        key = path.removeprefix(f"/{BUCKET}").removeprefix("/")
        operation = self._operation(request, key)
        self.asked.append(operation)
        stored = self.objects.get(key)
        if not (any(hole(request) for hole in self.holes) or (operation == "GetObject" and stored and stored.public)):
            self._authorise(request, body)
            if operation in self.denied:
                raise Refused(403, "AccessDenied")
        if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            body = _unchunk(body)
        return getattr(self, f"_{operation}")(request, key, body)  # type: ignore[no-any-return]

    @staticmethod
    def _operation(request: web.BaseRequest, key: str) -> str:
        query, method = request.query, request.method
        if not key:
            if "cors" in query:
                return "PutBucketCors"
            if "versioning" in query:
                return "GetBucketVersioning"
            if "uploads" in query:
                return "ListMultipartUploads"
            return {"POST": "PostForm", "PUT": "CreateBucket"}.get(method, "ListObjectsV2")
        if "uploadId" in query:
            return {
                "PUT": "UploadPart",
                "POST": "CompleteMultipartUpload",
                "DELETE": "AbortMultipartUpload",
                "GET": "ListParts",
            }[method]
        if "uploads" in query:
            return "CreateMultipartUpload"
        return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[method]

    def _authorise(self, request: web.BaseRequest, body: bytes) -> None:
        query, headers = dict(request.query), request.headers
        if "X-Amz-Signature" in query:
            given, signed = query.pop("X-Amz-Signature"), query.get("X-Amz-SignedHeaders", "")
            stamp, credential = query.get("X-Amz-Date", ""), query.get("X-Amz-Credential", "")
            payload = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            until = datetime.strptime(stamp, "%Y%m%dT%H%M%S%z") + timedelta(seconds=int(query["X-Amz-Expires"]))
            if until < datetime.now(UTC):
                raise Refused(403, "AccessDenied")
        elif headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            fields = dict(part.strip().split("=", 1) for part in headers["Authorization"][17:].split(","))
            given, signed, credential = fields["Signature"], fields["SignedHeaders"], fields["Credential"]
            stamp, payload = headers.get("x-amz-date", ""), headers.get("x-amz-content-sha256", "")
        else:
            raise Refused(403, "AccessDenied")
        if credential != f"{ACCESS_KEY}/{stamp[:8]}/{REGION}/s3/aws4_request":
            raise Refused(403, "InvalidAccessKeyId")
        names = signed.split(";")
        pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
        canonical = "\n".join(
            [
                request.method,
                request.raw_path.partition("?")[0],
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
                "",
                signed,
                payload,
            ]
        )
        scope = credential.partition("/")[2]
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{SECRET_KEY}".encode()
        for word in [*scope.split("/"), text]:
            key = hmac.digest(key, word.encode(), "sha256")
        if key.hex() != given:
            raise Refused(403, "SignatureDoesNotMatch")
        if len(payload) == 64 and payload != hashlib.sha256(body).hexdigest():
            raise Refused(400, "XAmzContentSHA256Mismatch")

    @staticmethod
    def make_object(body: bytes) -> Object:
        """An object as nobody put it."""
        return Object(body, {})

    # Objects

    def _PutObject(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        headers = request.headers
        if headers.get("If-None-Match") == "*" and key in self.objects:
            raise Refused(412, "PreconditionFailed")
        kept = {name: headers[name] for name in OVERRIDES.values() if name in headers}
        kept |= {name: value for name, value in headers.items() if name.lower().startswith("x-amz-meta-")}
        if headers.get("x-amz-meta-snowball-auto-extract"):
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                for entry in archive.getmembers():
                    unpacked = archive.extractfile(entry)
                    self.objects[entry.name] = Object(unpacked.read() if unpacked else b"", {})
        source = unquote(headers.get("x-amz-copy-source", "")).removeprefix(f"/{BUCKET}/")
        if source:
            if not self.copies:
                raise Refused(403, "AccessDenied")
            if self.guarded and "x-amz-copy-source-if-match" in headers:
                raise Refused(412, "PreconditionFailed")
            body = self.objects[source].body
        stored = Object(body, kept, self.acls and headers.get("x-amz-acl") == "public-read")
        self.objects[key] = stored
        return web.Response(headers={"ETag": stored.etag})

    def _GetObject(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        stored = self._found(key)
        headers = self._headers(stored)
        for parameter in self.overrides & request.query.keys():
            headers[OVERRIDES[parameter]] = request.query[parameter]
        if "Range" not in request.headers:
            return web.Response(body=stored.body, headers=headers)
        start, part = request.http_range.start, stored.body[request.http_range]
        if not part:
            raise Refused(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(stored.body)}"
        return web.Response(status=206, body=part, headers=headers)

    def _HeadObject(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        if key in self.heads:
            return web.Response(status=self.heads[key])
        stored = self._found(key)
        headers = {**self._headers(stored), "Content-Length": str(len(stored.body))}
        return web.Response(headers=headers)

    def _DeleteObject(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        self.objects.pop(key, None)
        return web.Response(status=204)

    def _PostForm(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        name = body.partition(b'name="key"\r\n\r\n')[2].partition(b"\r\n")[0].decode()
        self.objects[name] = Object(body.partition(b'filename="a"\r\n\r\n')[2].partition(b"\r\n")[0], {})
        return web.Response(status=204)

    def _found(self, key: str) -> Object:
        if key not in self.objects:
            raise Refused(404, "NoSuchKey")
        return self.objects[key]

    @staticmethod
    def _headers(stored: Object) -> dict[str, str]:
        modified = format_datetime(stored.modified_at, usegmt=True)
        return {"Content-Type": "binary/octet-stream", **stored.headers, "ETag": stored.etag, "Last-Modified": modified}

    # The bucket

    def _CreateBucket(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        if self.waits_to_make:
            self.waits_to_make -= 1
            self.unanswered.append(lambda lost: lost is request)
        else:
            self.made = True
        return web.Response()

    def _PutBucketCors(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        if not self.cors_rules:
            raise Refused(501, "NotImplemented")
        self.cors = True
        return web.Response()

    def _GetBucketVersioning(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        status = f"<Status>{self.versioning}</Status>" if self.versioning else ""
        return _xml(f"<VersioningConfiguration>{status}</VersioningConfiguration>")

    def _ListObjectsV2(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        if not self.made:
            raise Refused(404, "NoSuchBucket")
        prefix, after = request.query.get("prefix", ""), request.query.get("start-after", "")
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{stored.modified_at:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.body)}</Size></Contents>"
            for name, stored in sorted(self.objects.items())
            if name.startswith(prefix) and name > after
        )
        return _xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>")

    # Multipart uploads

    def _CreateMultipartUpload(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        upload = f"upload-{next(self._ids)}"
        self.uploads[key, upload] = {}
        return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")

    def _UploadPart(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        parts = self._parts(request, key)
        source = unquote(request.headers.get("x-amz-copy-source", "")).removeprefix(f"/{BUCKET}/")
        if source and self.copies_parts:
            if any(request.headers.get(name) == "none" for name in self.heeded_on_parts):
                raise Refused(400, "InvalidArgument")
            body = self.objects[source].body
        parts[int(request.query["partNumber"])] = body
        return web.Response(headers={"ETag": Object(body, {}).etag})

    def _parts(self, request: web.BaseRequest, key: str) -> dict[int, bytes]:
        if (key, request.query["uploadId"]) not in self.uploads:
            raise Refused(404, "NoSuchUpload")
        return self.uploads[key, request.query["uploadId"]]

    def _ListParts(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(Object(part, {}).etag)}</ETag>"
            f"<Size>{len(part)}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Part>"
            for number, part in sorted(self._parts(request, key).items())
        )
        return _xml(f"<ListPartsResult><IsTruncated>false</IsTruncated>{rows}</ListPartsResult>")

    def _CompleteMultipartUpload(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        if self.busy:
            raise Refused(409, "ConditionalRequestConflict")
        if request.headers.get("If-None-Match") == "*" and key in self.objects:
            raise Refused(412, "PreconditionFailed")
        parts = self._parts(request, key)
        del self.uploads[key, request.query["uploadId"]]
        numbers = [
            int(element.text or 0) for element in ElementTree.fromstring(body).iter() if "PartNumber" in element.tag
        ]
        self.objects[key] = Object(b"".join(parts[number] for number in numbers), {})
        return _xml(f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key></CompleteMultipartUploadResult>")

    def _AbortMultipartUpload(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        self.uploads.pop((key, request.query["uploadId"]), None)
        return web.Response(status=204)

    def _ListMultipartUploads(self, request: web.BaseRequest, key: str, body: bytes) -> web.Response:
        prefix = request.query.get("prefix", "")
        rows = "".join(
            f"<Upload><Key>{escape(name)}</Key><UploadId>{upload}</UploadId>"
            "<Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
            for name, upload in self.uploads
            if name.startswith(prefix) and (prefix in ("", name) or self.lists_uploads_by_prefix)
        )
        return _xml(f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{rows}</ListMultipartUploadsResult>")


def _unchunk(body: bytes) -> bytes:
    """The content of a body in chunks, whatever their signatures."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        content, body = content + body[:length], body[length + 2 :] if length else b""
    return content


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")
