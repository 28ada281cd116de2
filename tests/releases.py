"""What two releases say to one another: ``scripts/soak releases`` runs this with a wheel of another commit.

Each release makes messages of all its types, and the other one hears them.  It
must understand a message whole, or refuse it as not understood.  This file is
run by both, each with its own package, so it imports nothing else of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from msgspec import inspect
from wire_values import values  # type: ignore[import-not-found]  # the folder of this file is the path

from godrive.errors import NotUnderstood
from godrive.runtime import codec
from godrive.tree import CONTRACTS

EXAMPLES = 30

Said = tuple[str, str, str]
"""The contract, the name, and the bytes of a message in hexadecimal."""


def say() -> list[Said]:
    """Make messages of all types of this release."""
    return [
        (contract.name, name, codec.encode(message).hex())
        for contract in CONTRACTS
        for name, type_ in contract.messages.items()
        for message in _examples(type_)
    ]


def _examples(type_: type[Any]) -> list[Any]:
    found: list[Any] = []

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(sent=values(inspect.type_info(type_)))
    def note(sent: Any) -> None:
        found.append(sent)

    note()
    return found


def hear(said: list[Said]) -> list[str]:
    """Say again what this release has understood of each message; "" for one that it refuses."""
    contracts = {contract.name: contract for contract in CONTRACTS}
    heard = []
    for contract, name, data in said:
        try:
            heard.append(codec.encode(codec.decode(contracts[contract], name, bytes.fromhex(data))).hex())
        except NotUnderstood:
            heard.append("")
    return heard


def differences(said: list[Said], heard: list[str]) -> tuple[Counter[str], list[str]]:
    """Count what came of the messages of this release, and name those that were understood as something else."""
    contracts = {contract.name: contract for contract in CONTRACTS}
    counts: Counter[str] = Counter()
    wrong = []
    for (contract, name, sent), again in zip(said, heard, strict=True):
        if not again:
            counts["refused"] += 1
        elif codec.decode(contracts[contract], name, bytes.fromhex(again)) == codec.decode(
            contracts[contract], name, bytes.fromhex(sent)
        ):
            counts["understood"] += 1
        else:
            wrong.append(f"{contract}.{name}: {sent} was understood as {again}")
    return counts, wrong


def _ask(package: str, work: str, value: Any = None) -> Any:
    """Have the release in the folder *package* do *work*."""
    done = subprocess.run(
        [sys.executable, __file__, work],
        input=json.dumps(value),
        env={**os.environ, "PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> int:
    """Compare this release with the one in the folder that is given; the exit code is 1 if one misunderstands."""
    ours, other = str(Path(__file__).parents[1]), sys.argv[1]
    failed = False
    for what, speaker, listener in (("new to old", ours, other), ("old to new", other, ours)):
        said = _ask(speaker, "say")
        heard = _ask(listener, "hear", said)
        counts, wrong = _ask(speaker, "compare", [said, heard])
        refused = sorted(
            {f"{contract}.{name}" for (contract, name, _), again in zip(said, heard, strict=True) if not again}
        )
        print(f"{what}: {counts.get('understood', 0)} understood, {counts.get('refused', 0)} refused {refused}")
        for line in wrong[:10]:
            print(f"  {line}")
        failed = failed or bool(wrong) or not counts.get("understood")
    return failed


if __name__ == "__main__":
    match sys.argv[1]:
        case "say":
            print(json.dumps(say()))
        case "hear":
            print(json.dumps(hear(json.load(sys.stdin))))
        case "compare":
            print(json.dumps(differences(*json.load(sys.stdin))))
        case _:
            sys.exit(main())
