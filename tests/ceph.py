"""Stores on the S3 gateway of the run."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.config import S3
from tests.servers import CephGateway

_known: dict[str, Capabilities] = {}
"""What each gateway honours, by its endpoint."""


ONE_AUTHORITY = str(Path(__file__).parent / "fixtures" / "authority.pem")
"""A file for ``ca_file``: an S3 client without TLS reads it too, and its default of 140 takes longer than a test."""


def own_bucket(gateway: CephGateway, *, prefix: str = "") -> S3:
    """A bucket of the test's own, not made yet."""
    return S3(
        endpoint=gateway.endpoint,
        bucket=f"t{uuid.uuid4().hex}",
        prefix=prefix,
        access_key=gateway.access_key,
        secret_key=gateway.secret_key,
        ca_file=ONE_AUTHORITY,
    )


class ProbedOnce(S3BlobStore):
    """A store that probes its gateway only if none of this process has: a probe takes longer than most tests."""

    def __init__(self, settings: S3, **options: Any) -> None:
        super().__init__(settings, capabilities=_known.get(settings.endpoint), **options)
        self._endpoint = settings.endpoint

    async def honours(self) -> Capabilities:
        """Remember what the first probe found: a guest that is only opened knows nothing, and a test may pretend."""
        found = await super().honours()
        _known.setdefault(self._endpoint, found)
        return found
