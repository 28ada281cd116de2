"""Planted faults: small patches, each of which some seed must find.

``python -m tests.simulation.planted`` looks for a seed of each patch that has
none, and records it in the patch.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults")
_SEED = re.compile(r"^Seed: (.*)$", re.MULTILINE)
_IN_WORLD = ",world="
MOST = 1000
"""Seeds within which a fault must be found."""


def patches() -> list[Path]:
    """Every planted fault."""
    return sorted(FAULTS.glob("*.patch"))


def seed_of(patch: Path) -> str:
    """The seed that finds it, "none" if none is recorded; with ``,world=s3`` or the like if it needs that world."""
    found = _SEED.search(patch.read_text())
    assert found is not None, f"{patch.name} has no line for its seed"
    return found.group(1)


def changes(patch: Path) -> list[tuple[str, str, str]]:
    """Each hunk: the file, the text that must be in it, and the text in its place.  Line numbers do not matter."""
    found: list[tuple[str, str, str]] = []
    path, old, new = "", "", ""
    for line in [*patch.read_text().splitlines(keepends=True), "@@ end"]:
        if line.startswith(("@@", "--- ")):
            if old or new:
                found.append((path, old, new))
            old = new = ""
        elif line.startswith("+++ b/"):
            path = line[6:].strip()
        elif path:
            if line[0] in " -":
                old += line[1:]
            if line[0] in " +":
                new += line[1:]
    return found


def misfits(patch: Path) -> list[str]:
    """Why the patch does not apply to the code as it is."""
    return [
        f"{path} has {count} times: {old!r}"
        for path, old, _ in changes(patch)
        if (count := (ROOT / path).read_text().count(old)) != 1
    ]


def plant(patch: Path, folder: Path) -> None:
    """Copy the package into the folder, with the fault."""
    shutil.copytree(ROOT / "godrive", folder / "godrive", ignore=shutil.ignore_patterns("__pycache__"))
    for path, old, new in changes(patch):
        target = folder / path
        target.write_text(target.read_text().replace(old, new))


def simulate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the simulation of the copy."""
    return subprocess.run(
        [sys.executable, "-m", "godrive.simulation", "--stop", *options],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def options_of(seed: str) -> tuple[str, ...]:
    """The options that choose the world of a seed."""
    world = seed.partition(_IN_WORLD)[2]
    return ("--world", world) if world else ()


def replay(patch: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the seed that is recorded in a patch, with its fault, in a copy."""
    plant(patch, folder)
    seed = seed_of(patch)
    return simulate(folder, "--seeds", "1", "--from", seed.partition(",")[0], "--jobs", "1", *options_of(seed))


def find(patch: Path, most: int = MOST) -> str:
    """The first line about a seed that finds the fault; "" if none does."""
    with tempfile.TemporaryDirectory() as folder:
        plant(patch, Path(folder))
        done = simulate(Path(folder), "--seeds", str(most), *options_of(seed_of(patch)))
    found = re.search(r"^seed \S+ fails.*$", done.stdout, re.MULTILINE)
    return found.group(0) if found else ""


def main() -> None:
    """Find a seed for each patch that has none."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else MOST
    for patch in patches():
        if seed_of(patch).startswith("none") and not misfits(patch):
            line = find(patch, most)
            print(f"{patch.stem}: {line or 'not found'}", flush=True)
            if line:
                patch.write_text(_SEED.sub(f"Seed: {line.split()[1]}", patch.read_text()))


if __name__ == "__main__":
    main()
