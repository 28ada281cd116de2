"""The blob store in an S3 bucket, composed of its operations."""

from __future__ import annotations

from godrive.blobs.s3.appends import Appends
from godrive.blobs.s3.cors import Cors
from godrive.blobs.s3.parts import Parts
from godrive.blobs.s3.rights import Rights
from godrive.blobs.s3.urls import Urls


class S3BlobStore(Parts, Appends, Urls, Cors, Rights):
    """A :class:`~godrive.blobs.BlobStore` that is also ``Appendable``, a ``Presigner`` and a ``PartSigner``.

    Takes the ``[blobs.s3]`` table with its ``*_file`` keys resolved.  Holds at
    most two parts of a body in memory, 8 MiB each for bodies of up to 78 GiB.
    """
