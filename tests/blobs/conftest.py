"""Stores on a real S3 gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from godrive.blobs.s3 import S3BlobStore
from godrive.config import S3
from tests.ceph import ProbedOnce, own_bucket
from tests.servers import CephGateway


@pytest.fixture
def s3_settings(ceph_gateway: CephGateway) -> S3:
    """A bucket of the test's own, shared with others as its prefix says."""
    return own_bucket(ceph_gateway, prefix="drive/")


@pytest.fixture
async def s3_store(s3_settings: S3) -> AsyncIterator[S3BlobStore]:
    """An open store with small parts, so that little data goes up in many."""
    store = ProbedOnce(s3_settings, part=5 * 1024 * 1024)
    await store.open()
    yield store
    await store.close()
