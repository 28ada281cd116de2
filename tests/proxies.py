"""nginx and Caddy in front of a server, with the configuration that docs/operations.md shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.daemon import Daemon, Server, answers
from tests.drive_server import REPOSITORY

_PAGE = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the first block of the page in that language."""
    found = re.search(rf"^```{language}\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def nginx_server(port: int, behind: int, *, buffers: bool = False, limit: str = "0") -> str:
    """Return the server of the page without TLS.  It *buffers* requests or not, and has a *limit* on their bodies."""
    text = re.sub(r"^ *ssl_.*\n", "", block("nginx"), flags=re.MULTILINE)
    for written, meant in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
        ("client_max_body_size 0", f"client_max_body_size {limit}"),
        ("proxy_request_buffering off", f"proxy_request_buffering {'on' if buffers else 'off'}"),
        ("Host $host;", "Host $http_host;"),  # with the port, which is not 443 here
    ):
        assert written in text
        text = text.replace(written, meant)
    return text


def caddy_site(port: int, behind: int, *, buffers: bool = False, limit: str = "") -> str:
    """Return the site of the page without TLS.  It *buffers* requests or not, and has a *limit* on their bodies."""
    written = f"reverse_proxy 127.0.0.1:{behind}"
    site = block("caddyfile").replace("drive.example.org", f"http://127.0.0.1:{port}").replace("8080", str(behind))
    assert written in site
    body = f"request_body {{\n        max_size {limit}\n    }}\n    " if limit else ""
    return site.replace(written, body + written + (" {\n        buffer_requests\n    }" if buffers else ""))


class Nginx(Server):
    """nginx with some servers (:func:`nginx_server`), of which one listens on *port*."""

    programs = ("nginx",)
    packages = ("nginx",)

    def __init__(self, servers: str, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._servers = servers

    def _launch(self) -> Daemon:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/temp; " for kind in kinds)
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(
            f"{user} daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{self._servers} }}\n"
        )
        (self.folder / "temp").mkdir(exist_ok=True)
        command: list[str | Path] = [self.path("nginx"), "-p", self.folder, "-c", config]
        daemon = Daemon(command, self.folder / "nginx.log")
        daemon.wait_until(lambda: answers(self.port))
        return daemon


class Caddy(Server):
    """Caddy with some sites (:func:`caddy_site`), of which one listens on *port*."""

    programs = ("caddy",)
    packages = ("caddy",)

    def __init__(self, sites: str, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._sites = sites

    def _launch(self) -> Daemon:
        config = self.folder / "Caddyfile"
        config.write_text("{\n    admin off\n}\n" + self._sites)
        command: list[str | Path] = [self.path("caddy"), "run", "--config", config, "--adapter", "caddyfile"]
        environment = {**os.environ, "HOME": str(self.folder)}
        daemon = Daemon(command, self.folder / "caddy.log", env=environment)
        daemon.wait_until(lambda: answers(self.port))
        return daemon
