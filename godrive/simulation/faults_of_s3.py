"""What goes wrong with an S3 store and its events, and how it ends."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from godrive.simulation.faults import Fault
from godrive.simulation.s3_server import NAME, EventTroubles, Troubles

if TYPE_CHECKING:
    from godrive.simulation.s3_world import S3World
    from godrive.simulation.world import World


def _store_of(world: World) -> S3World:
    return world  # type: ignore[return-value]  # these faults are chosen only in a world that has a store


def _for_a_while(world: World, chance: random.Random, **shares: float) -> None:
    """Have troubles with the store for up to ten seconds."""
    troubles = _store_of(world).s3.troubles
    for name, share in shares.items():
        setattr(troubles, name, share)
        world.loop.call_later(chance.uniform(0.5, 10.0), setattr, troubles, name, 0.0)


def slow_store(world: World, chance: random.Random) -> None:
    """Answers take long."""
    _for_a_while(world, chance, slow=chance.choice((0.5, 3.0, 15.0)))


def refuse_requests(world: World, chance: random.Random) -> None:
    """The store answers 500 or 503, to all requests or to some."""
    _for_a_while(world, chance, refused=chance.choice((0.2, 0.6, 1.0)))


def lose_answers(world: World, chance: random.Random) -> None:
    """The store does what it is asked, and its answers are lost."""
    _for_a_while(world, chance, unanswered=chance.choice((0.2, 0.6)))


def delay_requests(world: World, chance: random.Random) -> None:
    """The store does what it is asked long after the connection was lost."""
    _for_a_while(world, chance, late=chance.choice((0.1, 0.3)))


def repeat_requests(world: World, chance: random.Random) -> None:
    """A proxy sends every request twice, and passes on the second answer."""
    _for_a_while(world, chance, twice=chance.choice((0.3, 1.0)))


def cut_off_store(world: World, chance: random.Random) -> None:
    """A server does not reach the store for a while."""
    network = world.loop.network
    network.partition(world.some_machine(chance).name, NAME)
    world.loop.call_later(chance.uniform(0.5, 30.0), network.heal)


def reset_store(world: World, chance: random.Random) -> None:
    """Connections of the store are reset."""
    world.loop.network.reset_some(NAME, chance.random())


def spoil_events(world: World, chance: random.Random) -> None:
    """Events are lost, doubled, late, and in another order, for a while."""
    troubles = _store_of(world).s3.event_troubles
    spoiled = EventTroubles(slow=chance.choice((0.5, 20.0)), lost=0.3, doubled=0.4, stale=0.4)
    usual = EventTroubles()
    for name in EventTroubles.__dataclass_fields__:
        setattr(troubles, name, getattr(spoiled, name))
        world.loop.call_later(20.0, setattr, troubles, name, getattr(usual, name))


FAULTS_OF_S3: dict[Fault, int] = {
    slow_store: 2,
    refuse_requests: 3,
    lose_answers: 4,
    delay_requests: 3,
    repeat_requests: 3,
    cut_off_store: 2,
    reset_store: 2,
    spoil_events: 3,
}
"""How often each of them is chosen."""


def end_faults_of_s3(world: S3World) -> None:
    """Nothing goes wrong with the store from now on."""
    world.s3.troubles = Troubles()
    world.s3.event_troubles = EventTroubles()
