"""What docs/embedding.md shows, run; and the example, used."""

from __future__ import annotations

import ast
import inspect
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

from godrive.testing import open_drive, sign_up, upload
from tests.daemon import free_port

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).resolve().parent.parent
GUIDE = REPOSITORY / "docs" / "embedding.md"


def snippets() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
async def test_every_snippet_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    async with open_drive() as drive:
        user = await sign_up(drive, "reader@example.org")
        await upload(drive, user.id, "Report 1.txt", b"12345")
        for number, snippet in enumerate(snippets()):
            code = compile(snippet, f"snippet {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result
            if number == 0:  # from here on the guide speaks of a drive that is open
                names |= {"drive": drive, "user": user}
    assert len(snippets()) > 8
    shown = capsys.readouterr().out
    for expected in ("Report 1.txt 5", "not_found", r"b'line 2\n'", "GET http://drive.test/v1/files/"):
        assert expected in shown


def example() -> ModuleType:
    spec = spec_from_file_location("embedded", REPOSITORY / "examples" / "embedded.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
async def test_the_example_serves_its_own_pages_and_a_drive_below_a_prefix(tmp_path: Path) -> None:
    port = free_port()
    async with example().application(tmp_path, port) as url, aiohttp.ClientSession() as http:
        person = {"email": "ann@example.org", "password": "correct horse"}
        async with http.post(f"{url}/drive/v1/signup", json=person) as answer:
            assert answer.status == 201
        async with http.post(f"{url}/drive/v1/login", json=person) as answer:
            bearer = {"Authorization": f"Bearer {(await answer.json())['token']}"}
        wanted = {"filename": "a.txt", "mime": "text/plain", "size_bytes": 5}
        async with http.post(f"{url}/drive/v1/files/upload-intent", json=wanted, headers=bearer) as answer:
            intent = await answer.json()
        assert intent["upload_url"].startswith(f"{url}/drive/v1/uploads/")
        async with http.put(intent["upload_url"], data=b"hello", headers=intent["headers"]) as answer:
            assert answer.status == 201
            file = (await answer.json())["file"]
        async with http.get(f"{url}/drive/v1/files/{file['id']}/download", headers=bearer) as answer:
            download = await answer.json()
        async with http.get(download["url"]) as answer:
            assert await answer.read() == b"hello"
        async with http.get(f"{url}/") as answer:
            assert await answer.text() == "1 files came today, 0 are on their way.\n"
