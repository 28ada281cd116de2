"""The reference server: ``python -m bench.bare PORT`` runs aiohttp and uvloop with a constant answer."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

ANSWER = b'{"ok":true}'


async def answer(_: web.Request) -> web.Response:
    """A constant."""
    return web.Response(body=ANSWER, content_type="application/json")


def main() -> None:
    """Serve until told to end."""
    app = web.Application()
    app.router.add_get("/", answer)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=loop)


if __name__ == "__main__":
    main()
