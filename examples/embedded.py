"""An application that embeds a drive.

Run it with ``python examples/embedded.py``, then open http://127.0.0.1:8090/.
The API of the drive is below /drive/, beside the pages of the application,
which sends messages directly to the actors of the drive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from godrive import Config, GoDrive
from godrive.config import Server
from godrive.http.app import create_app
from godrive.messages.system import UploadCounts

HOST = "127.0.0.1"
DRIVE = web.AppKey("drive", GoDrive)


async def front_page(request: web.Request) -> web.Response:
    """A page of the application that shows data of the drive."""
    uploads = await request.app[DRIVE].metadata.ask(UploadCounts())
    return web.Response(text=f"{uploads['committed']} files came today, {uploads['pending']} are on their way.\n")


@asynccontextmanager
async def application(data_dir: Path, port: int) -> AsyncIterator[str]:
    """Serve the application with its drive.  Yields the URL."""
    url = f"http://{HOST}:{port}"
    # Signed URLs begin with the URL at which the drive is mounted.
    config = Config(server=Server(data_dir=str(data_dir), public_url=f"{url}/drive"))
    async with GoDrive(config) as drive:
        app = web.Application()
        app[DRIVE] = drive
        app.router.add_get("/", front_page)
        app.add_subapp("/drive/", create_app(drive))
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port).start()
            yield url
        finally:
            await runner.cleanup()  # before the drive closes: edges first


async def main() -> None:
    async with application(Path("data"), 8090) as url:
        print(f"The application is at {url}/ and its drive at {url}/drive/")
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
