"""A process of clients that repeat one request: ``python -m bench.attack PORT CONNECTIONS REQUEST``.

It runs at a low priority, so that it takes no processor time from the user whose waits are measured.  It prints a line
when every connection is open, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys


async def ask(port: int, request: bytes) -> None:
    """Send the request for ever, over a new connection whenever one ends."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                await reader.readexactly(length)
        except (OSError, EOFError):
            await asyncio.sleep(0.1)


async def main(port: int, connections: int, request: bytes) -> None:
    """Attack until standard input ends."""
    tasks = [asyncio.create_task(ask(port, request)) for _ in range(connections)]
    print("attacking", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()))
