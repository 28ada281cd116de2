"""The digest and the type of a blob, in extended attributes of its file.

On a file system without extended attributes a blob has neither.  A caller that
needs the digest reads the blob.
"""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta

from godrive.model import BlobInfo, ETag, ObjectKey

SHA256 = "user.godrive.sha256"
MIME = "user.godrive.mime"

_ABSENT = {errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.EACCES, errno.EROFS}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def note(fd: int, digest: str | None, mime: str | None) -> None:
    """Write digest and type to the open file, if the file system can."""
    for name, value in ((SHA256, digest), (MIME, mime)):
        if value is not None:
            try:
                os.setxattr(fd, name, value.encode())
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise


def noted(file: int | str, name: str) -> str | None:
    """A value that :func:`note` wrote to the open file, or to the one at a path, or ``None``."""
    try:
        return os.getxattr(file, name, follow_symlinks=isinstance(file, int)).decode()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None


def describe(key: ObjectKey, status: os.stat_result, digest: str | None = None, mime: str | None = None) -> BlobInfo:
    """Describe the blob in a file.  Blobs are immutable, so time and size make a strong ETag."""
    return BlobInfo(
        key=key,
        size_bytes=status.st_size,
        etag=ETag(f"{status.st_mtime_ns:x}-{status.st_size:x}"),
        modified_at=_EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000),
        sha256=digest,
        mime=mime,
    )
