"""The simulated S3 store is one that the driver accepts: it refuses what it must, and honours what it says."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from godrive.blobs.s3 import S3BlobStore
from godrive.simulation.s3_bucket import Honours
from godrive.simulation.s3_world import S3World
from godrive.simulation.seams import installed
from godrive.simulation.world import Plan
from tests.cases import each


class Now:
    """The clock of the world."""

    def __init__(self, world: S3World) -> None:
        self.now, self.monotonic = world.s3.now, world.loop.time


@each("put, complete", product((True, False), repeat=2))
@pytest.mark.slow
def test_the_probe_finds_what_the_model_honours(tmp_path: Path, put: bool, complete: bool) -> None:
    world = S3World(Plan(1, world="s3"), tmp_path, None)
    world.s3.bucket.honours = Honours(conditional_put=put, conditional_complete=complete)

    async def probe() -> Any:
        store = S3BlobStore(world.machine.config.blobs.s3, clock=Now(world))
        await store.open()
        try:
            return store.capabilities
        finally:
            await store.close()

    with installed(world.loop, world.chance("entropy"), also=world.replaced()):
        found = world.loop.run_until_complete(probe())
    assert (found.conditional_put, found.conditional_complete) == (put, complete)
    assert (found.signed_digest, found.checksums, found.faults) == (True, True, {})
