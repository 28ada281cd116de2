"""Translates the errors of the SDK and the store into ours."""

from __future__ import annotations

from typing import Any

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's name
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from godrive.errors import (
    ConfigError,
    DriveError,
    Invalid,
    NotFound,
    RangeNotSatisfiable,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UploadFinished,
)
from godrive.unanswered import why

CONNECTION_FAULTS = (HTTPClientError, ConnectionError, ResponseStreamingError, IncompleteReadError, aiohttp.ClientError)
FAULTS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError)
"""Every error of a call that the store or the network causes."""

_ANSWERS: dict[str, type[DriveError]] = {
    "404": NotFound,
    "NoSuchKey": NotFound,
    "NoSuchUpload": NotFound,
    "412": UploadFinished,
    "PreconditionFailed": UploadFinished,
    "ConditionalRequestConflict": UploadFinished,
    "InvalidRange": RangeNotSatisfiable,
    "416": RangeNotSatisfiable,
    "EntityTooLarge": TooLarge,
    "EntityTooSmall": Invalid,
    "InvalidPart": Invalid,
    "InvalidPartOrder": Invalid,
    "QuotaExceeded": StorageFull,
    "InsufficientStorage": StorageFull,
    "XMinioStorageFull": StorageFull,
    "XMinioAdminBucketQuotaExceeded": StorageFull,
    "507": StorageFull,
}

_BUSY = {"SlowDown", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict"}
"""Codes below 500 of a store that has no time, or is busy with another request for the same object."""

_OUT = (502, 503, 504)
"""Answers of a proxy whose store is down, and of a store that is overloaded."""

RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject and s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject and s3:GetObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListParts": "s3:ListMultipartUploadParts",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CreateBucket": "s3:CreateBucket",
    "PutBucketCors": "s3:PutBucketCORS",
    "GetBucketVersioning": "s3:GetBucketVersioning",
}
"""The right that each operation needs."""

_ALL_RIGHTS = (
    "The access key needs s3:ListBucket and s3:ListBucketMultipartUploads on the bucket, and s3:GetObject, "
    "s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts below blobs.s3.prefix."
)
_DENIED = ("AccessDenied", "403")

_MISTAKES = {
    "InvalidAccessKeyId": "The store does not know blobs.s3.access_key.",
    "SignatureDoesNotMatch": "blobs.s3.secret_key does not belong to blobs.s3.access_key.",
    "ExpiredToken": "The store's credentials have expired and were not renewed.",
    "InvalidToken": "The store refuses the session token of the credentials.",
    "NoSuchBucket": "The bucket does not exist: create it, or set blobs.s3.create_bucket.",
    "InvalidBucketName": "blobs.s3.bucket is not a name that the store allows.",
    "AccessDenied": _ALL_RIGHTS,
    "403": _ALL_RIGHTS,
    "AuthorizationHeaderMalformed": "blobs.s3.region is not the region of the store.",
    "PermanentRedirect": "blobs.s3.region or blobs.s3.endpoint is not that of the bucket.",
    "301": "blobs.s3.region or blobs.s3.endpoint is not that of the bucket.",
    "IllegalLocationConstraintException": "blobs.s3.region is not the region of the store.",
    "InvalidLocationConstraint": "blobs.s3.region is not the region of the store.",
}

_REFUSALS = _MISTAKES | {  # a machine without a battery starts with a wrong clock, until NTP has set it
    "RequestTimeTooSkewed": "The clocks here and in the store differ by more than 15 minutes: synchronise both by NTP.",
}


def code_of(error: BaseException | None) -> str:
    """The store's error code, or an empty string."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_denied(error: BaseException | None) -> bool:
    """Whether the store denied the operation to our access key."""
    return code_of(error) in _DENIED


def is_outage(error: BaseException) -> bool:
    """Whether the store is down, rather than failing for one object.

    A store may answer 500 for a single damaged object and serve all others.
    """
    if isinstance(error, ClientError):
        return int(_metadata(error).get("HTTPStatusCode", 0)) in _OUT
    return is_passing(error)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, ClientError):
        status = int(_metadata(error).get("HTTPStatusCode", 0))
        if status == 429 or code_of(error) in _BUSY:
            return True
        return status >= 500 and status != 501 and code_of(error) not in _ANSWERS  # 501 is permanent
    return isinstance(error, (*CONNECTION_FAULTS, OSError))


def translate(error: Exception) -> DriveError:
    """The ``DriveError`` with the same meaning."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return StoreUnavailable(
            "There are no credentials for the store.",
            hint="Set blobs.s3.access_key and blobs.s3.secret_key, or give the process a role: " + str(error),
        )
    code = code_of(error)
    if kind := _ANSWERS.get(code):
        return kind()
    if is_denied(error) and isinstance(error, ClientError):
        right = RIGHTS.get(error.operation_name, "a right")
        detail = f"The store denies {error.operation_name} ({code}): the access key lacks {right}."
        return StoreUnavailable(detail, hint=_ALL_RIGHTS)
    if hint := _REFUSALS.get(code):
        return StoreUnavailable(f"The store refuses us: {code}.", hint=hint)
    if code:
        return StoreUnavailable(f"The store answers {code}.", hint=str(error))
    return StoreUnavailable("The store does not answer.", hint=why(error))


def as_config_error(error: StoreUnavailable) -> ConfigError | None:
    """The refusal as a mistake of the operator, or ``None`` if waiting may end it."""
    cause = error.__cause__
    if isinstance(cause, (NoCredentialsError, PartialCredentialsError)) or code_of(cause) in _MISTAKES:
        return ConfigError(error.detail, hint=error.hint, field="blobs.s3")
    return None


def _metadata(error: ClientError) -> dict[str, Any]:
    metadata: dict[str, Any] = error.response.get("ResponseMetadata", {})
    return metadata
