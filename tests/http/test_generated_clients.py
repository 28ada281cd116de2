"""Clients that generators make of openapi.json work: they compile under strict settings and use a real server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.http.client import Person, Site
from tests.npm import CLIENTS

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]


async def run(*command: str, cwd: Path) -> str:
    done = await anyio.run_process(command, cwd=cwd, stderr=subprocess.STDOUT, check=False)
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


async def write_document(stranger: Person, folder: Path) -> None:
    (folder / "openapi.json").write_bytes((await stranger("GET", "/openapi.json")).content)


@pytest.mark.slow
async def test_a_client_in_python(stranger: Person, site: Site, tmp_path: Path) -> None:
    await write_document(stranger, tmp_path)
    (tmp_path / "config.yaml").write_text(
        "post_hooks: []\ncontent_type_overrides:\n"
        "  application/zip: application/octet-stream\n"
        "  application/offset+octet-stream: application/octet-stream\n"
        "  application/partial-upload: application/octet-stream\n"
        "  application/xml: text/plain\n"
    )
    command = "generate --path openapi.json --meta none --output-path drive --config config.yaml --fail-on-warning"
    await run(sys.executable, "-m", "openapi_python_client", *command.split(), cwd=tmp_path)
    shutil.copy(CLIENTS / "usage.py", tmp_path)
    assert await run(sys.executable, "usage.py", site.url, cwd=tmp_path) == "done\n"


@pytest.mark.slow
async def test_a_client_in_typescript(stranger: Person, site: Site, workshop: Path) -> None:
    await write_document(stranger, workshop)
    await run("node_modules/.bin/openapi-typescript", "openapi.json", "--output", "schema.ts", cwd=workshop)
    await run("node_modules/.bin/tsc", "--project", "tsconfig.json", cwd=workshop)
    assert await run("node", "out/usage.mjs", site.url, cwd=workshop) == "done\n"


async def test_the_page_of_the_documentation_sends_a_put(ann: Person, workshop: Path) -> None:
    file = workshop / "notes.txt"
    file.write_bytes(b"Hello, drive.\n")
    body = {"filename": "invoice\u202efdp.exe", "size_bytes": file.stat().st_size, "mime": "text/plain"}
    intent = await ann("POST", "/v1/files/upload-intent", body)
    shown = await run("node", "page.mjs", ann.url, intent.json["upload_url"], str(file), cwd=workshop)
    assert shown.startswith("201 ")
    assert "invoice\\u202efdp.exe" in shown
    assert "\u202e" not in shown
    (stored,) = (await ann("GET", "/v1/files")).json["files"]
    assert (stored["size_bytes"], stored["mime"]) == (14, "text/plain")
