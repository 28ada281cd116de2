"""All expected errors of GoDrive.

A :class:`DriveError` is an answer, not a bug.  It has a stable ``code`` that
clients may switch on, and it passes unchanged between processes.  The table
:data:`STATUS` gives the HTTP status of every code.  Any other exception is a
bug and crashes the actor that raised it.

::

    DriveError
    ├── NotFound                 missing, or not yours (the same answer)
    ├── Gone                     has ended: an expired or aborted upload
    │   └── CursorReset          read the whole drive again: the log does not reach back to the cursor
    ├── Conflict                 the current state forbids it
    │   ├── EmailTaken
    │   ├── NameTaken
    │   ├── Cycle                the folder would lie in itself
    │   ├── UploadFinished       the upload already has its bytes
    │   ├── OffsetMismatch       the bytes do not begin where those of the upload end; has the offset
    │   ├── UploadTakenOver      another request goes on with the upload
    │   └── IdempotencyMismatch  the key was used for another request
    ├── PreconditionFailed       If-Match did not match
    ├── Invalid                  a value is invalid; names the field
    │   ├── TooDeep              too many folders above an entry
    │   ├── LengthMismatch       more or fewer bytes than declared
    │   ├── DigestMismatch       the SHA-256 differs from the declared one
    │   └── ChecksumMismatch     the bytes of one request differ from their checksum
    ├── Unauthenticated          no credential, or not a valid one
    ├── Forbidden                authenticated, but not allowed
    │   └── UrlInvalid           forged, expired or foreign signed URL
    ├── TooLarge                 over a limit of this server
    ├── RangeNotSatisfiable      a byte range outside the content
    ├── QuotaExceeded            over the owner's quota
    ├── StorageFull              the disk is full; reads still work
    ├── TooManyRequests          rate limit exceeded
    ├── StoreUnavailable         database or blob store is down
    ├── ConfigError              an operator's mistake; exit code 2
    ├── AddressUnavailable       the listen address does not exist yet
    └── DeliveryError            the message may not have arrived
        ├── AskTimeout           the outcome is unknown
        ├── MailboxFull
        └── ActorCrashed
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar, Self


class DriveError(Exception):
    """Base of all expected errors.

    *detail* is one sentence for the user, *field* the name of the invalid
    input, *hint* a remedy for the operator, and *retry_after* the seconds to
    wait before another attempt.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    default_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        detail: str = "",
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.field = field
        self.hint = hint
        self.retry_after = self.default_retry_after if retry_after is None else retry_after

    @property
    def status(self) -> int:
        """The HTTP status for this error."""
        return STATUS.get(self.code, 500)

    def another(self) -> Self:
        """Return the same error for another caller, because each raises it elsewhere."""
        return type(self)(self.detail, field=self.field, hint=self.hint, retry_after=self.retry_after)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.code, self.detail, self.field, self.hint, self.retry_after))


class NotFound(DriveError):
    code = "not_found"
    title = "Not found"


class Gone(DriveError):
    code = "gone"
    title = "Gone"


class CursorReset(Gone):
    code = "cursor_reset"
    title = "The cursor no longer names a place in the log of changes"


class Conflict(DriveError):
    code = "conflict"
    title = "Conflict"


class EmailTaken(Conflict):
    code = "email_taken"
    title = "E-mail address is taken"


class NameTaken(Conflict):
    code = "name_taken"
    title = "Name is taken"


class Cycle(Conflict):
    code = "cycle"
    title = "A folder cannot lie in itself"


class UploadFinished(Conflict):
    code = "upload_finished"
    title = "Upload is finished"


class OffsetMismatch(Conflict):
    """*offset* is that of the upload: the number of its bytes that are durable.  *provided* is that of the request."""

    code = "offset_mismatch"
    title = "Offset does not match"

    def __init__(self, detail: str = "", *, offset: int = 0, provided: int = 0, **options: Any) -> None:
        super().__init__(detail, **options)
        self.offset = offset
        self.provided = provided


class UploadTakenOver(Conflict):
    code = "upload_taken_over"
    title = "Another request has taken over the upload"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"
    title = "Idempotency key was used for another request"


class PreconditionFailed(DriveError):
    code = "precondition_failed"
    title = "Precondition failed"


class Invalid(DriveError):
    code = "invalid"
    title = "Invalid request"


class TooDeep(Invalid):
    code = "too_deep"
    title = "Too many levels of folders"


class LengthMismatch(Invalid):
    code = "length_mismatch"
    title = "Length does not match"


class DigestMismatch(Invalid):
    code = "digest_mismatch"
    title = "Digest does not match"


class ChecksumMismatch(Invalid):
    code = "checksum_mismatch"
    title = "Checksum does not match"


class Unauthenticated(DriveError):
    code = "unauthenticated"
    title = "Not authenticated"


class Forbidden(DriveError):
    code = "forbidden"
    title = "Forbidden"


class UrlInvalid(Forbidden):
    code = "url_invalid"
    title = "Signed URL is not valid"


class TooLarge(DriveError):
    code = "too_large"
    title = "Too large"


class RangeNotSatisfiable(DriveError):
    code = "range_not_satisfiable"
    title = "Range not satisfiable"


class QuotaExceeded(DriveError):
    code = "quota_exceeded"
    title = "Quota exceeded"


class StorageFull(DriveError):
    code = "storage_full"
    title = "Storage is full"


class TooManyRequests(DriveError):
    code = "too_many_requests"
    title = "Too many requests"
    default_retry_after = 1.0


class StoreUnavailable(DriveError):
    code = "store_unavailable"
    title = "Store is unavailable"
    default_retry_after = 2.0


class ConfigError(DriveError):
    code = "config"
    title = "Configuration error"


class AddressUnavailable(DriveError):
    code = "address_unavailable"
    title = "Address is not available"


def refused(what: str, error: OSError, *, hint: str | None = None) -> DriveError:
    """Return the error for a failed system call.  *what* says what failed.

    If a restart may help (a full disk, a limit on open files, an unreachable
    network file system), it is ``StorageFull`` or ``StoreUnavailable``.
    Otherwise it is ``ConfigError``, for which the program exits with code 2.
    """
    detail = f"{what}: {error.strerror or error}."
    if error.errno in _FULL:
        return StorageFull(detail, hint="Free space on the disk.")
    if error.errno in PASSING:
        return StoreUnavailable(detail)
    return ConfigError(detail, hint=hint)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset(
    {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
"""What a failed system call says when a restart may help."""


class DeliveryError(DriveError):
    code = "unavailable"
    title = "Unavailable"
    default_retry_after: ClassVar[float | None] = 1.0


class AskTimeout(DeliveryError):
    code = "timeout"
    title = "Timed out"


class MailboxFull(DeliveryError):
    code = "overloaded"
    title = "Overloaded"


class ActorCrashed(DeliveryError):
    code = "crashed"
    title = "Internal error"
    default_retry_after = None


class NotUnderstood(DeliveryError):
    """The other process does not know the message as it was sent, because it is of another release."""

    code = "not_understood"
    title = "Not understood"


class GaveUp(Exception):
    """A supervisor has stopped, because there were too many restarts.  The last crash is chained."""


def _tree(root: type[DriveError]) -> dict[str, type[DriveError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[str, type[DriveError]] = _tree(DriveError)
"""All error classes by code, to rebuild an error from another process."""

STATUS: dict[str, int] = {
    "error": 500,
    "not_found": 404,
    "gone": 410,
    "cursor_reset": 410,
    "conflict": 409,
    "email_taken": 409,
    "name_taken": 409,
    "cycle": 409,
    "upload_finished": 409,
    "offset_mismatch": 409,
    "upload_taken_over": 409,
    "idempotency_mismatch": 409,
    "precondition_failed": 412,
    "invalid": 422,
    "too_deep": 422,
    "length_mismatch": 422,
    "digest_mismatch": 422,
    "checksum_mismatch": 460,
    "unauthenticated": 401,
    "forbidden": 403,
    "url_invalid": 403,
    "too_large": 413,
    "range_not_satisfiable": 416,
    "quota_exceeded": 507,
    "storage_full": 507,
    "too_many_requests": 429,
    "store_unavailable": 503,
    "config": 500,
    "address_unavailable": 503,
    "unavailable": 503,
    "timeout": 504,
    "overloaded": 503,
    "crashed": 500,
    "not_understood": 503,
    "unsupported_tus_version": 412,
    "inconsistent_length": 400,
    "malformed": 400,
    "range_not_supported": 400,
    "method_not_allowed": 405,
    "unsupported_media_type": 415,
    "request_timeout": 408,
    "expectation_failed": 417,
    "url_too_long": 414,
    "headers_too_large": 431,
    "internal": 500,
}
"""The HTTP status of every code, including those that the HTTP edge adds."""


def _rebuild(code: str, detail: str, field: str | None, hint: str | None, retry_after: float | None) -> DriveError:
    return BY_CODE.get(code, DriveError)(detail, field=field, hint=hint, retry_after=retry_after)
