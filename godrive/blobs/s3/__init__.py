"""Blobs in an S3-compatible store: Ceph, MinIO, RustFS, SeaweedFS, Garage, AWS.

Needs aiobotocore, so it is imported only where it is configured.

How a blob comes to be written once, in a store that overwrites by nature:

- Where the store honours ``If-None-Match: *`` (a probe at ``open`` finds out),
  every single PUT carries it, ours and the client's presigned one alike.
- Where it does not, a client's PUT is signed for a key below ``incoming/``,
  and the first ``head`` of the blob publishes it by a copy that no URL leads
  to.  What is sent to the URL later changes nothing and is swept.
- Some stores let the holder of a URL turn its PUT into a copy, which heeds no
  ``If-None-Match``, by a header that nobody signed.  There the URL signs a
  condition that no copy fulfils; where none helps, publication is by copy.
- Few stores make CompleteMultipartUpload or CopyObject conditional.  Where the
  probe finds that completion is not, both look for the key first, under a lock
  of this process.  Two *processes* that publish different bytes under one key
  within the same few milliseconds are not kept apart there; an object key
  belongs to one upload, so only its owner could do that, to themselves.
"""

from godrive.blobs.s3.store import S3BlobStore

__all__ = ["S3BlobStore"]
