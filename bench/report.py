"""Results of benchmarks: format, store, and compare with the last run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One result.

    *mark* is the goal; with *lower*, smaller values are better.  *parts* are
    the numbers that the result was computed from, by name.
    """

    name: str
    value: float
    unit: str
    mark: float | None = None
    lower: bool = False
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        if self.mark is None:
            return True
        return self.value <= self.mark if self.lower else self.value >= self.mark


def median_of(values: Iterable[float]) -> float:
    """Return the median, which one disturbed round does not change."""
    return statistics.median(values)


def quartiles_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the values that bound the middle half."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def number(value: float) -> str:
    """Format with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(result: Result, before: Result | None) -> str:
    """Format a result as one line, with the change since the last run."""
    mark = ""
    if result.mark is not None:
        sign = "<=" if result.lower else ">="
        mark = f"{'ok  ' if result.reached else 'MISS'} {sign} {number(result.mark)}"
    change = "new" if before is None else f"{_change(before.value, result.value)}"
    parts = ", ".join(f"{name} {number(value)}" for name, value in result.parts.items())
    return f"{result.name:<34} {number(result.value):>8} {result.unit:<6} {mark:<16} {change:>8}  {parts}"


def _change(old: float, new: float) -> str:
    return f"{(new - old) / old:+.0%}" if old else "="


def machine() -> dict[str, str | int]:
    """Describe the machine."""
    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count() or 0}


def previous(results: Path = RESULTS) -> dict[str, Result]:
    """Return the latest stored result of each name."""
    found: dict[str, Result] = {}
    for path in sorted(results.glob("*.json")):
        for entry in json.loads(path.read_text())["results"]:
            found[entry["name"]] = Result(**entry)
    return found


def save(results: list[Result], *, quick: bool, folder: Path = RESULTS) -> Path:
    """Store the results.  Returns the path."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y%m%dT%H%M%S}{'-quick' if quick else ''}.json"
    run = {"at": now.isoformat(), "quick": quick, "machine": machine(), "results": [asdict(r) for r in results]}
    path.write_text(json.dumps(run, indent=1) + "\n")
    return path


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
