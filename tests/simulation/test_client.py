"""The client of the simulated network."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from godrive.simulation.client import Client, Lost
from godrive.simulation.loop import SimulatedLoop
from godrive.simulation.network import Network
from godrive.simulation.seams import installed
from godrive.simulation.threads import Threads

ADDRESS = ("10.0.0.1", 80)


def test_a_client_that_hangs_up_while_it_sends_leaves_no_error_behind() -> None:
    loop = SimulatedLoop(random.Random(1))  # type: ignore[abstract]
    loop.network = Network(loop, random.Random(1))
    loop.threads = Threads(loop, random.Random(1))

    async def hang_up() -> None:
        loop.network.listen(asyncio.Protocol, *ADDRESS)
        client = Client(loop.network, ADDRESS)
        with pytest.raises(Lost):
            await client.request("POST", "/", body=bytes(100), pieces=50, cut_after=0.1)
        await asyncio.sleep(1)

    with installed(loop, random.Random(1)):
        loop.run_until_complete(hang_up())
        gc.collect()
    assert loop.unhandled == []
