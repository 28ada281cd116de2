"""The speed of the disk: ``python -m bench.synced FOLDER SECONDS`` creates small durable files, and nothing else.

Each of 32 threads writes files of 4 KiB, syncs and links them, without a sync
of the folder.  Prints the number of files per second.
"""

from __future__ import annotations

import os
import sys
import threading
import time

SIZE = 4096
THREADS = 32


def fill(folder: int, number: int, until: float, counts: list[int]) -> None:
    """Make one file after another until the time is over."""
    content = os.urandom(SIZE)
    while time.perf_counter() < until:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o600, dir_fd=folder)
        os.write(fd, content)
        os.fsync(fd)
        os.link(f"/proc/self/fd/{fd}", f"{number}-{counts[number]}", dst_dir_fd=folder, follow_symlinks=True)
        os.close(fd)
        counts[number] += 1


def main() -> None:
    """Fill the folder."""
    folder, seconds = os.open(sys.argv[1], os.O_RDONLY), float(sys.argv[2])
    counts = [0] * THREADS
    until = time.perf_counter() + seconds
    threads = [threading.Thread(target=fill, args=(folder, number, until, counts)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(f"{sum(counts) / seconds}\n")


if __name__ == "__main__":
    main()
