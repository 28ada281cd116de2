"""Room that is known for a moment: never more than the catalog said, less what was stored since."""

from __future__ import annotations

from godrive.known_room import RECENT, KnownRoom
from godrive.model import UserId
from godrive.testing import ManualClock

ANN = UserId("ann")


def test_room_is_taken_until_it_is_used_up_or_no_longer_recent() -> None:
    clock = ManualClock()
    known = KnownRoom(clock)
    assert not known.take(ANN, 1, replaces=False)
    known.keep(ANN, 7, 2, replaces=False)
    assert not known.take(ANN, 8, replaces=False)
    assert known.take(ANN, 7, replaces=False)
    assert not known.take(ANN, 1, replaces=False)
    known.keep(ANN, 9, 1, replaces=False)
    assert not known.take(ANN, 1, replaces=True)
    assert not known.take(UserId("bob"), 1, replaces=False)
    assert known.take(ANN, 0, replaces=False)
    assert not known.take(ANN, 0, replaces=False)  # no rows are left
    known.keep(ANN, 9, 8, replaces=False)
    clock.advance(RECENT)
    assert not known.take(ANN, 1, replaces=False)


def test_room_that_was_less_than_known_is_forgotten() -> None:
    known = KnownRoom(ManualClock())
    for replaces in (False, True):
        known.keep(ANN, 9, 8, replaces=replaces)
    known.forget(ANN)
    assert not known.take(ANN, 1, replaces=False)
    assert not known.take(ANN, 1, replaces=True)
