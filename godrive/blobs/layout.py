"""The keys of a bucket.  Every prefix ends in a slash, so that none is the beginning of another.

Not part of the S3 driver, because the reader of bucket events needs it without the SDK.
"""

from __future__ import annotations

from godrive.blobs import split_key
from godrive.errors import Invalid
from godrive.model import ObjectKey


class Layout:
    """The keys of one drive in a bucket that it may share with others.

    *prefix* is empty or ends in one slash, as the configuration checks.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.objects = f"{prefix}objects/"
        self.incoming = f"{prefix}incoming/"
        self.quarantined = f"{prefix}quarantine/"
        self.probes = f"{prefix}probe/"
        self.staged = f"{prefix}staging/"

    def object(self, key: ObjectKey) -> str:
        """The key of a blob."""
        return self.objects + _checked(key)

    def arrival(self, key: ObjectKey) -> str:
        """The key under which a client's bytes wait to be published, in a store without conditional writes."""
        return self.incoming + _checked(key)

    def quarantine(self, key: ObjectKey) -> str:
        """The key of a blob in quarantine."""
        return self.quarantined + _checked(key)

    def tails(self, key: ObjectKey) -> str:
        """The beginning of the keys of what is staged for a blob and fills no part."""
        return f"{self.staged}{_checked(key)}/"

    def tail_key(self, bucket_key: str) -> ObjectKey | None:
        """The blob for which that key of the bucket is staged, or ``None`` for a key that is not ours."""
        try:
            return ObjectKey(_checked(bucket_key.removeprefix(self.staged).rpartition("/")[0]))
        except Invalid:
            return None

    def object_key(self, bucket_key: str) -> ObjectKey | None:
        """The blob whose bytes are under that key of the bucket, or ``None`` for a key that is not ours."""
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
