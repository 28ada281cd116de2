"""The clients that make the load: wrk, curl, and a latency probe."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = re.compile(r"(50|99)%\s+([\d.]+)(us|ms|s)\b")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_DONE = re.compile(r"Units: (\d+) in (\d+) us")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class MissingClientError(Exception):
    """A program that a measurement needs is not installed."""


def program(name: str, package: str) -> str:
    """Where it is.  Raises :class:`MissingClientError`."""
    found = shutil.which(name, path="/usr/sbin:/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise MissingClientError(f"{name} not found: apt-get install -y --no-install-recommends {package}")
    return found


@dataclass(frozen=True)
class Load:
    """What a load found: requests or units a second, and latencies of requests in seconds."""

    rate: float
    p50: float
    p99: float
    refused: int = 0
    units: int = 0
    """The units that a script has counted."""


def wrk(
    url: str, *, seconds: float, connections: int = 32, threads: int = 2, token: str = "", script: str = ""
) -> Load:
    """Ask as fast as *connections* can.  *script* is Lua.  Any answer that is not 2xx or 3xx is counted.

    If the script counts units, of several requests each, the rate is that of units.
    """
    command = [program("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    if token:
        command += ["-H", f"Authorization: Bearer {token}"]
    with tempfile.TemporaryDirectory() as folder:
        if script:
            path = Path(folder) / "load.lua"
            path.write_text(script)
            command += ["-s", str(path)]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    if done.stderr:
        raise RuntimeError(f"wrk: {done.stderr}")
    rate = _RATE.search(done.stdout)
    assert rate is not None, done.stdout
    latency = {percent: float(value) * _UNITS[unit] for percent, value, unit in _PERCENTILE.findall(done.stdout)}
    refused = _BAD.search(done.stdout)
    found = Load(float(rate[1]), latency["50"], latency["99"], int(refused[1]) if refused else 0)
    counted = _DONE.search(done.stdout)
    if counted is None:
        return found
    units = int(counted[1])
    return replace(found, rate=units / int(counted[2]) * 1e6, units=units)


def curl(*arguments: str) -> float:
    """Seconds that one transfer took.  An answer that is not 2xx raises."""
    command = [program("curl", "curl"), "-sS", "--fail", "-o", "/dev/null", "-w", "%{time_total}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"curl {' '.join(arguments)}: {done.stderr}")
    return float(done.stdout)


def latencies(url: str, *, token: str, count: int, every: float = 0.0) -> list[float]:
    """Seconds that each of *count* requests took, one after another on one connection, sorted."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port)
    found = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", f"{parts.path}?{parts.query}", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        found.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
        time.sleep(max(0.0, every - found[-1]))
    connection.close()
    return sorted(found)
