"""The server, the proxies before it and the clients of others, started once for the tests of this folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.jobs import Jobs
from tests.clients.site import LIMIT, Site
from tests.conftest import require, require_program
from tests.drive_server import REPOSITORY, DriveServer
from tests.npm import UPPY_5, furnish
from tests.proxies import Caddy, Nginx, caddy_site, nginx_server
from tests.servers import Daemon, free_port

PAGE = (REPOSITORY / "docs" / "uploads.md").read_text(encoding="utf-8")

_CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip


def snippet(client: str) -> str:
    """Return the first block of the section on *client* in docs/uploads.md."""
    found = re.search(rf"^### {client}\n.*?^```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, client
    return found[1]


@pytest.fixture(scope="package")
def jobs(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Iterator[Jobs]:
    """Node.js, a page in Chromium and Python, which run the clients as docs/uploads.md shows them."""
    chromium = require_program("chromium", "chromium")
    node = require_program("node", "nodejs")
    folder = furnish(tmp_path_factory.mktemp("clients"), node_modules)
    for client, name in (
        ("tus-js-client", "snippet-tus.mjs"),
        ("Uppy", "snippet-uppy.mjs"),
        ("Uppy with an S3 store", "snippet-uppy-s3.mjs"),
        ("Uppy 5 with an S3 store", "snippet-uppy-5-s3.mjs"),
        ("tuspy", "snippet_tuspy.py"),
        ("aiotus", "snippet_aiotus.py"),
    ):
        (folder / name).write_text(snippet(client))
    with (folder / "snippet_aiotus.py").open("a") as file:
        file.write("\nfrom snippet_tuspy import Bearer\n")  # as the page says
    older = tmp_path_factory.mktemp("uppy-5")
    (older / "node_modules").symlink_to(node_modules.parent / UPPY_5 / "node_modules")
    (folder / "snippet-uppy-5-s3.mjs").rename(older / "snippet.mjs")

    def bundle(source: Path, *options: str | Path) -> None:
        program = folder / "node_modules" / ".bin" / "esbuild"
        command = [program, source.name, "--bundle", "--log-level=warning", *options]
        subprocess.run(command, cwd=source.parent, check=True)

    bundle(older / "snippet.mjs", "--format=esm", f"--outfile={folder / 'uppy-5.mjs'}")
    bundle(folder / "page_worker.mjs", "--outfile=page.js")
    with ExitStack() as stack, Jobs(folder) as desk:
        profile = folder / "chromium"
        environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(folder)}
        commands: dict[str, list[str | Path]] = {
            "node": [node, folder / "node_worker.mjs", desk.url],
            "python": [sys.executable, folder / "python_worker.py", desk.url],
            "page": [chromium, *_CHROMIUM, f"--user-data-dir={profile}", f"{desk.url}/page.html"],
        }
        for name, command in commands.items():
            stack.callback(Daemon(command, folder / f"{name}.log", env=environment).stop)
        yield desk


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, jobs: Jobs) -> Iterator[Site]:
    """A server with an account, by itself and behind proxies that buffer requests or do not."""
    require(Nginx)
    require(Caddy)
    folder = tmp_path_factory.mktemp("site")
    lines = [free_port() for _ in range(Site.LINES)]
    settings = {
        "server": {
            "allowed_hosts": [f"127.0.0.1:{port}" for port in lines],
            "cors_origins": [jobs.url],
            "trusted_proxies": ["127.0.0.1"],
        }
    }
    ports = {name: free_port() for name in ("nginx", "nginx-buffers", "caddy", "caddy-buffers")}

    def configured(kind: str, configure: Callable[..., str]) -> str:
        names = [name for name in ports if name.startswith(kind)]
        return "\n".join(
            configure(ports[name], server.port, buffers=name.endswith("buffers"), limit=str(LIMIT)) for name in names
        )

    with DriveServer(folder / "drive", tables=settings) as server, ExitStack() as stack:
        nginx = Nginx(configured("nginx", nginx_server), folder / "nginx", ports["nginx"])
        caddy = Caddy(configured("caddy", caddy_site), folder / "caddy", ports["caddy"])
        stack.enter_context(nginx)
        stack.enter_context(caddy)
        (folder / "curl.sh").write_text(snippet("curl"))
        yield Site(server, {"direct": server.port, **ports}, lines, jobs, folder)
        sys.stderr.write("\n".join(line for line in server.log.splitlines() if '"event":"request"' not in line))
