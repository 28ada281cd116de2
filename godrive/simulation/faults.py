"""What goes wrong, and how each of it ends."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from godrive.simulation.invariants import has_noted_time
from godrive.simulation.machine import Death

if TYPE_CHECKING:
    from godrive.simulation.world import World

Fault = Callable[["World", random.Random], None]

_DAY = 86_400.0


def kill(world: World, chance: random.Random) -> None:
    """The process of a server is killed."""
    world.some_machine(chance).kill()


def kill_at_an_effect(world: World, chance: random.Random) -> None:
    """The process is killed right before or after one of its next statements or calls of the file system."""
    life = world.some_machine(chance).life
    if life is not None:
        life.dies_at = life.effects + chance.randrange(1, 600)


def cut_power(world: World, chance: random.Random) -> None:
    """The machine loses power: the process is gone, and so is what was not synced."""
    world.some_machine(chance).cut_power()


def cut_power_at_an_effect(world: World, chance: random.Random) -> None:
    """The machine loses power right before or after one of its next effects."""
    life = world.some_machine(chance).life
    if life is not None:
        life.dies_at, life.loses_power = life.effects + chance.randrange(1, 600), True


def die_twice_at_syncs(world: World, chance: random.Random) -> None:
    """A process dies right before it syncs, and so does the next one, with the power: what recovery did is tried."""
    world.some_machine(chance).deaths = [
        Death(chance.randrange(1, 10), loses_power=chance.random() < 0.5),
        Death(chance.randrange(1, 4), loses_power=True),
    ]


def stop(world: World, chance: random.Random) -> None:
    """The server is stopped in good order, as for an update."""
    life = world.some_machine(chance).life
    if life is not None:
        life.stop()


def freeze(world: World, chance: random.Random) -> None:
    """The machine is suspended for a while, as a virtual one may be: its clocks go on, and nothing runs."""
    life = world.some_machine(chance).life
    if life is not None:
        world.loop.suspend(life, chance.choice((0.1, 2.0, 15.0, 35.0)))


def freeze_at_a_message(world: World, chance: random.Random) -> None:
    """The machine is suspended while one of its next messages waits, for longer than its asker does."""
    life = world.some_machine(chance).life
    if life is not None:
        life.freezes_at, life.freezes_for = len(life.letters) + chance.randrange(1, 100), chance.choice((16.0, 35.0))


def reset(world: World, chance: random.Random) -> None:
    """Connections of a server are reset."""
    world.loop.network.reset_some(world.some_machine(chance).name, chance.random())


def partition(world: World, chance: random.Random) -> None:
    """Two processes do not reach one another for a while."""
    network = world.loop.network
    one, other = world.some_machine(chance).name, chance.choice(world.neighbours())
    network.partition(one, other)
    world.loop.call_later(chance.uniform(0.5, 30.0), network.heal)


def slow_network(world: World, chance: random.Random) -> None:
    """Segments take up to seconds for a while."""
    network, usual = world.loop.network, world.loop.network.usual_latency
    network.latency = chance.uniform(0.05, 2.0)
    world.loop.call_later(chance.uniform(0.5, 10.0), lambda: setattr(network, "latency", usual))


def fail_disk(world: World, chance: random.Random) -> None:
    """The next calls of some function of the file system fail."""
    disk = world.some_machine(chance).disk
    disk.errno = chance.choice((errno.EIO, errno.ENOSPC, errno.EDQUOT))
    disk.failing[chance.choice(("fsync", "write", "open", "link", "unlink", "mkdir"))] = chance.randrange(1, 5)


def fill_disk(world: World, chance: random.Random) -> None:
    """The disk is full for a while."""
    disk = world.some_machine(chance).disk
    disk.capacity = disk.used + chance.randrange(0, 2_000_000)
    world.loop.call_later(chance.uniform(0.5, 20.0), lambda: setattr(disk, "capacity", disk.usual_capacity))


def slow_disk(world: World, chance: random.Random) -> None:
    """Calls of the file system take long for a while."""
    disk = world.some_machine(chance).disk
    disk.slow = chance.choice((0.05, 0.5, 3.0))
    world.loop.call_later(chance.uniform(0.5, 10.0), lambda: setattr(disk, "slow", 0.0))


def shorten_writes(world: World, chance: random.Random) -> None:
    """Writes take only a part of what they are given, for a while."""
    disk = world.some_machine(chance).disk
    disk.short_writes = 0.5
    world.loop.call_later(chance.uniform(5.0, 30.0), lambda: setattr(disk, "short_writes", 0.0))


def jump(world: World, chance: random.Random) -> None:
    """The wall clock of a machine is wrong for a while.

    Not before the catalog has a time with which the next process can compare its clock.
    """
    machine = world.some_machine(chance)
    if not has_noted_time(world):
        return
    machine.offset += (by := chance.choice((-1.0, 1.0)) * chance.choice((0.5, 30.0, 600.0, 3 * _DAY, 40 * _DAY)))
    world.trace("jump", machine.name, seconds=by)
    world.loop.call_later(chance.uniform(1.0, 30.0), _jump_back, machine, by)


def _jump_back(machine: object, by: float) -> None:
    machine.offset -= by  # type: ignore[attr-defined]


def coarsen_clock(world: World, chance: random.Random) -> None:
    """The wall clock of a machine moves on in steps from now on, so that different things happen at the same time."""
    world.some_machine(chance).tick = chance.choice((0.02, 0.5, 2.0))


def fail_statement(world: World, chance: random.Random) -> None:
    """One of the next statements of the catalog fails, as if the disk below it were full or broken."""
    machine = world.some_machine(chance)
    machine.statement_fails_in = chance.randrange(1, 60)
    machine.statement_error = chance.choice((13, 10, 5))  # SQLITE_FULL, SQLITE_IOERR, SQLITE_BUSY


def fail_index(world: World, chance: random.Random) -> None:
    """One of the next statements of the index of the packs fails, as if the disk below it were full or broken."""
    machine = world.some_machine(chance)
    machine.index_fails_in = chance.randrange(1, 60)
    machine.index_error = chance.choice((13, 10, 5))  # SQLITE_FULL, SQLITE_IOERR, SQLITE_BUSY


def crash_actor(world: World, chance: random.Random) -> None:
    """A bug: one of the next statements raises what nobody handles, so its actor crashes."""
    machine = world.some_machine(chance)
    machine.statement_fails_in = chance.randrange(1, 60)
    machine.statement_error = 0


FAULTS_OF: dict[Fault, int] = {
    kill: 1,
    kill_at_an_effect: 3,
    cut_power: 1,
    cut_power_at_an_effect: 3,
    stop: 1,
    die_twice_at_syncs: 3,
    freeze: 1,
    freeze_at_a_message: 1,
    reset: 3,
    partition: 3,
    slow_network: 2,
    fail_disk: 4,
    fill_disk: 2,
    slow_disk: 2,
    shorten_writes: 1,
    jump: 2,
    fail_statement: 2,
    crash_actor: 1,
}
"""How often each of them is chosen."""

FAVOURED_FAULTS: dict[Fault, int] = {coarsen_clock: 0, fail_index: 0}
"""What goes wrong only in runs that favour it.  Behind all others, so that it changes no choice among them."""


def end_all(world: World) -> None:
    """Nothing goes wrong from now on."""
    world.loop.network.heal()
    world.loop.network.latency = world.loop.network.usual_latency
    for machine in world.machines:
        disk = machine.disk
        disk.failing.clear()
        disk.slow = disk.short_writes = 0.0
        disk.capacity = disk.usual_capacity
        machine.offset, machine.tick = machine.usual_offset, 0.0
        machine.statement_fails_in = machine.index_fails_in = 0
        machine.deaths.clear()
        if machine.life is not None:
            machine.life.dies_at = machine.life.freezes_at = 0
            world.loop.resume(machine.life)
