"""How long an import and an export of many files take, beside nothing, by the commands."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from bench import stage
from bench.report import Result

_SIZES = random.Random(1)
_IN_A_FOLDER = 100


class Exchange:
    """Files of about 11 KiB in the mean, a hundred in a folder: most are packed, one in six is a file of its own."""

    def __init__(self, *, quick: bool) -> None:
        self.files = 2_000 if quick else 100_000

    def run(self) -> list[Result]:
        """Import them, import them again, and export them."""
        with stage.folder() as place:
            source, data, target = (Path(place) / name for name in ("source", "data", "target"))
            total = self._make(source)
            _godrive("user", "add", "ann@example.org", "--data-dir", str(data), given="correct horse\n")
            who = ("--user", "ann@example.org", "--data-dir", str(data))
            took, memory = _godrive("import", str(source), *who)
            again, _ = _godrive("import", str(source), *who)
            out, _ = _godrive("export", str(target), *who)
            what = f"{self.files:,} files"
            parts = {"MiB": total / 2**20, "resident MiB": memory}
            goal = 300 if self.files == 100_000 else None
            return [
                Result(f"import, {what}", took, "s", goal, lower=True, parts=parts),
                Result(f"import again, {what}", again, "s", lower=True),
                Result(f"export, {what}", out, "s", lower=True),
            ]

    def _make(self, source: Path) -> int:
        content, total = os.urandom(400_000), 0
        for number in range(self.files):
            folder = source / f"{number // _IN_A_FOLDER % 40:02}" / f"{number // _IN_A_FOLDER:04}"
            if number % _IN_A_FOLDER == 0:
                folder.mkdir(parents=True)
            size, start = min(150_000, int(_SIZES.lognormvariate(8.5, 1.3))), _SIZES.randrange(200_000)
            (folder / f"file {number}").write_bytes(content[start : start + size])
            total += size
        return total


def _godrive(*arguments: str, given: str = "") -> tuple[float, float]:
    """Run a command; how long it took, and the most memory that any has had so far, in MiB."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "godrive", *arguments], input=given, text=True, check=True, stdout=subprocess.DEVNULL
    )
    took = time.perf_counter() - began
    return took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
