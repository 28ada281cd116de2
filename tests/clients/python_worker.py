"""Runs jobs with the clients that docs/uploads.md shows for Python: ``python python_worker.py DESK``."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import snippet_aiotus  # type: ignore[import-not-found]
import snippet_tuspy  # type: ignore[import-not-found]

DESK = sys.argv[1]


async def main() -> None:
    """Ask for jobs and run each beside those that run already."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))
    running = set()
    while True:
        text = await asyncio.to_thread(_fetch, "next/python")
        if text:
            running.add(task := asyncio.create_task(run(json.loads(text))))
            task.add_done_callback(running.discard)


def token_of(job: dict[str, Any]) -> Callable[[], str]:
    """Return what returns the access token of now."""
    return lambda: _fetch(f"token/{job['key']}").decode()


async def run(job: dict[str, Any]) -> None:
    """Upload, and say what came of it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / job["name"]
            path.write_bytes(await asyncio.to_thread(_fetch, f"content/{job['number']}"))
            outcome = {"result": await CLIENTS[job["client"]](path, job)}
            assert outcome["result"] is not None, "it gave up"
    except Exception as error:
        outcome = {"error": f"{getattr(error, 'status_code', '')} {error} {traceback.format_exc()}"}
    await asyncio.to_thread(_fetch, f"done/{job['number']}", json.dumps(outcome).encode())


async def tuspy(path: Path, job: dict[str, Any]) -> str:
    """tuspy blocks."""
    url: str = await asyncio.to_thread(
        snippet_tuspy.upload, str(path), token_of(job), job["endpoint"], **job["options"]
    )
    return url


async def aiotus(path: Path, job: dict[str, Any]) -> str | None:
    """With ``parts``, several partial uploads."""
    send = snippet_aiotus.upload_in_parts if "parts" in job["options"] else snippet_aiotus.upload
    url = await send(str(path), token_of(job), job["endpoint"], **job["options"])
    return url and str(url)


CLIENTS = {"tuspy": tuspy, "aiotus": aiotus}


def _fetch(path: str, body: bytes | None = None) -> bytes:
    with urlopen(Request(f"{DESK}/{path}", data=body)) as answer:
        return bytes(answer.read())


asyncio.run(main())
