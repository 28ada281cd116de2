"""The blob store in an S3 bucket, put together from its verbs."""

from __future__ import annotations

from godrive.blobs.s3.cors import Cors
from godrive.blobs.s3.reading import Reading
from godrive.blobs.s3.rights import Rights
from godrive.blobs.s3.urls import Urls
from godrive.blobs.s3.writing import Writing


class S3BlobStore(Reading, Writing, Urls, Cors, Rights):
    """A :class:`~godrive.blobs.BlobStore` that is also a :class:`~godrive.blobs.Presigner`.

    Takes the ``[blobs.s3]`` table, its keys resolved.  No more than two parts of
    a body are held at a time, 8 MiB each for bodies of up to 78 GiB.
    """
