"""docs/api.md and docs/uploads.md: their commands work, and their tables are complete."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from godrive.errors import STATUS
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, UPLOADS = ((DOCS / name).read_text(encoding="utf-8") for name in ("api.md", "uploads.md"))


async def run_commands(page: str, folder: Path, site: Site, curl: str = "curl -s") -> str:
    """Run all commands of the page, and return what they show."""
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: apt-get install {program}")
    script = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    script = script.replace("http://127.0.0.1:8080", site.url).replace("curl -s", curl)
    with anyio.fail_after(60):
        done = await anyio.run_process(
            ["bash", "-euo", "pipefail", "-c", script], cwd=folder, stderr=subprocess.STDOUT, check=False
        )
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    assert "problem" not in shown
    return shown


@pytest.mark.slow
async def test_the_commands_of_the_page_work(site: Site, ann: Person, tmp_path: Path) -> None:
    await ann("DELETE", "/v1/me", {"password": "correct horse"})
    shown = await run_commands(PAGE, tmp_path, site, "curl -s --fail-with-body")
    assert "Hello, drive." in shown
    assert '"name":"letter.txt"' in shown


@pytest.mark.slow
async def test_the_commands_for_uploads_work(site: Site, tmp_path: Path) -> None:
    shown = (await run_commands(UPLOADS, tmp_path, site)).splitlines()
    interim = "HTTP/1.1 104 Upload Resumption Supported"
    assert shown == ["photo.raw is there", "5", "460", "204", "parallel.raw is there", interim, "parts.raw is there"]
    assert json.loads((tmp_path / "wrong.json").read_text())["code"] == "checksum_mismatch"


EXAMPLE = re.compile(r"<!-- (\w+) (\d+) -->\n\s*```json\n(.*?)```", re.DOTALL)
VARYING = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}"), "<id>"),
    (re.compile(r"[0-9a-f]{8}/<id>"), "<key>"),
    (re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z$"), "<instant>"),
    (re.compile(r"^http://[^/]+(/[^?]+)\?.*"), r"<url>\1"),
    (re.compile(r"^[0-9a-f]{32}$"), "<request>"),
]


def generalized(value: Any) -> Any:
    """The value with what differs from one server to the next replaced by what it is."""
    if isinstance(value, dict):
        varying = {"revision": "<revision>", "etag": "<etag>"}
        return {name: varying.get(name) or generalized(inner) for name, inner in value.items()}
    for pattern, kind in VARYING if isinstance(value, str) else ():
        value = pattern.sub(kind, value)
    return value


async def test_the_answers_of_the_page_are_those_of_the_server(ann: Person) -> None:
    content = b"Hello, drive.\n"
    body = {"filename": "notes.txt", "mime": "text/plain", "size_bytes": len(content)}
    intent = await ann("POST", "/v1/files/upload-intent", body)
    put = await ann("PUT", intent.json["upload_url"], data=content, headers=intent.json["headers"])
    answers = {"begin_upload": intent, "put_content": put, "list_files": await ann("GET", "/v1/files?limit=0")}
    examples = EXAMPLE.findall(PAGE)
    assert sorted(name for name, _, _ in examples) == sorted(answers)
    assert PAGE.count("```json") == len(examples)
    for name, status, example in examples:
        assert answers[name].status == int(status)
        assert generalized(answers[name].json) == generalized(json.loads(example))


def test_every_code_is_in_the_table_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert {code: int(status) for code, status in rows} == STATUS
    assert [int(status) for _, status in rows] == sorted(int(status) for _, status in rows)
