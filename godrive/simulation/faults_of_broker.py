"""What goes wrong with the broker between processes, and how it ends."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from godrive.simulation.faults import Fault
from godrive.simulation.nats_server import NAME, Broker, BrokerTroubles

if TYPE_CHECKING:
    from godrive.simulation.processes_world import ProcessesWorld
    from godrive.simulation.world import World


def _broker_of(world: World) -> Broker:
    return world.broker  # type: ignore[attr-defined,no-any-return]  # these faults are chosen only where there is one


def _for_a_while(world: World, chance: random.Random, name: str, value: float) -> None:
    troubles = _broker_of(world).troubles
    setattr(troubles, name, value)
    world.loop.call_later(chance.uniform(0.5, 15.0), setattr, troubles, name, 0.0)


def restart_broker(world: World, chance: random.Random) -> None:
    """The broker is killed, and starts again: its streams are on its disk."""
    broker = _broker_of(world)
    if broker.is_up:
        broker.restart(chance.uniform(0.1, 10.0))


def forget_streams(world: World, chance: random.Random) -> None:
    """The broker is killed, and starts again with an empty disk."""
    broker = _broker_of(world)
    if broker.is_up:
        broker.jetstream.forget()
        broker.restart(chance.uniform(0.1, 10.0))


def slow_broker(world: World, chance: random.Random) -> None:
    """Messages stay in the broker for up to seconds, so those of two connections overtake one another."""
    _for_a_while(world, chance, "slow", chance.choice((0.05, 0.5, 5.0)))


def lose_messages(world: World, chance: random.Random) -> None:
    """Messages to subscribers are lost: requests, replies and notices."""
    _for_a_while(world, chance, "lost", chance.choice((0.05, 0.3)))


def lose_acknowledgements(world: World, chance: random.Random) -> None:
    """What JetStream or a consumer acknowledges is not heard, so it is sent or delivered again."""
    _for_a_while(world, chance, "acks_lost", chance.choice((0.3, 0.8)))


def refuse_to_store(world: World, chance: random.Random) -> None:
    """Streams refuse some of the messages: there is no room for them."""
    _for_a_while(world, chance, "refused", chance.choice((0.1, 0.5)))


def cut_off_broker(world: World, chance: random.Random) -> None:
    """One process does not reach the broker for a while."""
    network = world.loop.network
    network.partition(world.some_machine(chance).name, NAME)
    world.loop.call_later(chance.uniform(0.5, 40.0), network.heal)


def reset_broker(world: World, chance: random.Random) -> None:
    """Connections of the broker are reset."""
    world.loop.network.reset_some(NAME, chance.random())


FAULTS_OF_BROKER: dict[Fault, int] = {
    restart_broker: 3,
    forget_streams: 1,
    slow_broker: 3,
    lose_messages: 4,
    lose_acknowledgements: 3,
    refuse_to_store: 2,
    cut_off_broker: 3,
    reset_broker: 2,
}
"""How often each of them is chosen."""


def end_faults_of_broker(world: ProcessesWorld) -> None:
    """Nothing goes wrong with the broker from now on."""
    world.broker.troubles = BrokerTroubles()
