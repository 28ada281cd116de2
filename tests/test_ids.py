"""Ids: of their time, unique, and never the same in two processes."""

from __future__ import annotations

import os
import re
import threading
import time

from godrive import ids
from godrive.ids import new_id


def test_an_id_is_a_uuid_of_version_7_of_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = new_id()
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert before <= int(made.replace("-", "")[:12], 16) <= time.time_ns() // 1_000_000


def test_threads_make_different_ids() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend([new_id() for _ in range(1000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each[19:] for each in made}) == 4000


def test_a_child_does_not_make_the_ids_of_its_parent() -> None:
    while not ids.tails:  # the last id may have taken the last of them
        new_id()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, b"%d" % len(ids.tails))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"0"
    os.close(read)
    os.close(write)
