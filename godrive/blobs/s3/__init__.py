"""Blobs in an S3-compatible store: Ceph, MinIO, RustFS, SeaweedFS, Garage, AWS.

The package needs aiobotocore, so it is imported only if it is configured.

How a key is written once, in a store that overwrites by nature:

- If the store honours ``If-None-Match: *`` (a probe at ``open`` tries it), every
  PUT sends it: ours, and the client's presigned one.
- If it does not, a client's PUT is signed for a key below ``incoming/``.  The
  first ``head`` of the blob publishes it by a copy that no URL leads to.  A later
  PUT to the URL changes nothing and is swept.
- Some stores let the holder of a URL turn its PUT into a copy, which ignores
  ``If-None-Match``, by adding an unsigned header.  Then the URL signs a
  condition that no copy fulfils.  If no condition helps, the blob is published
  by a copy, and the store has a fault that the operator must accept.
- Few stores make CompleteMultipartUpload or CopyObject conditional.  If
  completion is not, both look for the key first, under a lock of this process.
  Two *processes* can then publish different bytes under one key within the same
  milliseconds.  An object key belongs to one upload, so only its owner can do
  that, to themselves.

HEAD, GET, PUT, DELETE, lists and parts go over one HTTP session and are signed
by us (:mod:`godrive.blobs.s3.transport`).  The SDK does the rest: credentials,
the settings of the bucket, and requests that the store redirects.

What a store lets people do without a right is probed in
:mod:`godrive.blobs.s3.exposure`.
"""

from godrive.blobs.s3.store import S3BlobStore

__all__ = ["S3BlobStore"]
