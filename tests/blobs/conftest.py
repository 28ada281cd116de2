"""Stores on a real S3 gateway."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.config import S3
from tests.servers import CephGateway

_probed: list[Capabilities] = []
"""What the first store of the run found out about the gateway: probing takes longer than most tests."""


@pytest.fixture
def s3_settings(ceph_gateway: CephGateway) -> S3:
    """A bucket of the test's own, not made yet, shared with others as its prefix says."""
    return S3(
        endpoint=ceph_gateway.endpoint,
        bucket=f"t{uuid.uuid4().hex}",
        prefix="drive/",
        access_key=ceph_gateway.access_key,
        secret_key=ceph_gateway.secret_key,
    )


@pytest.fixture
async def s3_store(s3_settings: S3) -> AsyncIterator[S3BlobStore]:
    """An open store with small parts, so that little data goes up in many."""
    store = S3BlobStore(s3_settings, part=5 * 1024 * 1024, capabilities=_probed[0] if _probed else None)
    await store.open()
    _probed[:] = [store.capabilities]
    yield store
    await store.close()
