"""Where things lie in a bucket.  Every prefix ends in a slash, so that none is the beginning of another.

Apart from the S3 driver, because who reads bucket events has to know it too.
"""

from __future__ import annotations

from godrive.blobs import split_key
from godrive.errors import ConfigError, Invalid
from godrive.model import ObjectKey


class Layout:
    """The keys of one drive in a bucket that it may share with others.

    *prefix* is empty or ends in ``/``.
    """

    def __init__(self, prefix: str = "") -> None:
        if prefix and (not prefix.endswith("/") or prefix.startswith("/") or "//" in prefix):
            raise ConfigError(
                f"blobs.s3.prefix is {prefix!r}: it must be empty, or end in '/' and not begin with one.",
                field="blobs.s3.prefix",
            )
        self.prefix = prefix
        self.objects = f"{prefix}objects/"
        self.incoming = f"{prefix}incoming/"
        self.quarantined = f"{prefix}quarantine/"
        self.probes = f"{prefix}probe/"

    def object(self, key: ObjectKey) -> str:
        """Where the blob lies."""
        return self.objects + _checked(key)

    def arrival(self, key: ObjectKey) -> str:
        """Where a client's bytes wait to be published, in a store without conditional writes."""
        return self.incoming + _checked(key)

    def quarantine(self, key: ObjectKey) -> str:
        """Where a blob is set aside."""
        return self.quarantined + _checked(key)

    def object_key(self, bucket_key: str) -> ObjectKey | None:
        """The blob that a key of the bucket (as events name it) is the bytes of; ``None`` when it is not ours."""
        for prefix in (self.objects, self.incoming):
            if bucket_key.startswith(prefix):
                try:
                    return ObjectKey(_checked(bucket_key[len(prefix) :]))
                except Invalid:
                    return None
        return None


def _checked(key: str) -> str:
    split_key(key)
    return key
