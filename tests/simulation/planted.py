"""Planted faults: small patches, each of which some seed must find.

``python -m tests.simulation.planted`` looks for a seed of each patch that has
none, and records it in the patch.
"""

from __future__ import annotations

import argparse
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
    shutil.copytree(ROOT / "godrive", folder / "godrive")  # with what is compiled, which takes longer than a run
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


def find(patch: Path, first: int, most: int) -> str:
    """The first line about a seed that finds the fault, and that fails only with it; "" if none does."""
    options = options_of(seed_of(patch))
    with tempfile.TemporaryDirectory() as folder:
        plant(patch, Path(folder))
        while most > 0:
            done = simulate(Path(folder), "--seeds", str(most), "--from", str(first), *options)
            # A run that took too long says only that this machine is busy.
            found = re.search(r"^seed (\d+)\S* fails(?!: the simulation died).*$", done.stdout, re.MULTILINE)
            if found is None:
                break
            seed = found.group(1)
            if simulate(ROOT, "--seeds", "1", "--from", seed, *options).returncode == 0:
                return found.group(0)
            first, most = int(seed) + 1, most - (int(seed) + 1 - first)
    return ""


def main() -> None:
    """Find a seed for each patch that has none, or that is no longer found by its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted", description=main.__doc__)
    parser.add_argument("most", type=int, nargs="?", default=MOST, help=f"how many seeds to try ({MOST})")
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="S", help="the first seed to try (1)")
    parser.add_argument(
        "--again", action="store_true", help="replay the recorded seeds too, and replace those that pass"
    )
    parser.add_argument("--only", default="", metavar="WORD", help="patches whose name has this")
    options = parser.parse_args()
    for patch in patches():
        has_seed = not seed_of(patch).startswith("none")
        if options.only not in patch.stem or misfits(patch) or (has_seed and not options.again):
            continue
        if has_seed:
            with tempfile.TemporaryDirectory() as folder:
                if replay(patch, Path(folder)).returncode == 1:
                    continue
        line = find(patch, options.first, options.most)
        print(f"{patch.stem}: {line or 'not found'}", flush=True)
        world = seed_of(patch).partition(_IN_WORLD)
        seed = line.split()[1] if line else "none" + "".join(world[1:])
        patch.write_text(_SEED.sub(f"Seed: {seed}", patch.read_text()))


if __name__ == "__main__":
    main()
