"""``python -m bench [--quick] [NAME ...]``: run benchmarks, print and store the results, compare with the last run."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from bench.ask import Asks
from bench.clients import MissingClientError
from bench.distributed import Distributed
from bench.exchange import Exchange
from bench.fairness import Fairness
from bench.feed import Feed
from bench.folders import Folders
from bench.keep import Keep
from bench.one_request import OneRequest
from bench.report import Result, line, previous, save, say
from bench.requests import Requests
from bench.resumable import Resumable
from bench.search import Search
from bench.settle import Settle
from bench.standing import Standing
from bench.stored import Stored
from bench.table import Table
from bench.transfer import Transfer
from bench.trees import Trees
from tests.servers import MissingProgram


def measures(*, quick: bool) -> dict[str, Callable[[], Result | list[Result]]]:
    """Return all benchmarks by name."""
    requests, standing, transfer = Requests(quick=quick), Standing(quick=quick), Transfer(quick=quick)
    asks, distributed, fairness = Asks(quick=quick), Distributed(quick=quick), Fairness(quick=quick)
    trees, settle = Trees(quick=quick), Settle(quick=quick)
    search = Search(quick=quick)
    stored, keep = Stored(quick=quick), Keep(quick=quick)
    return {
        "ask": asks.near,
        "far": asks.far,
        "rest": standing.rest,
        "list": requests.list,
        "intent": requests.intent,
        "uploads": requests.uploads,
        "onerequest": OneRequest(quick=quick).run,
        "transfer": transfer.run,
        "resumable": Resumable(quick=quick).run,
        "depth": standing.depth,
        "storm": standing.storm,
        "fairness": fairness.run,
        "folders": Folders(quick=quick).run,
        "trees": trees.sqlite,
        "trees_postgres": trees.postgres,
        "table": Table(quick=quick).run,
        "exchange": Exchange(quick=quick).run,
        "settle": settle.sqlite,
        "settle_postgres": settle.postgres,
        "feed": Feed(quick=quick).run,
        "search": search.sqlite,
        "search_postgres": search.postgres,
        "postgres": distributed.postgres,
        "events": distributed.events,
        "stored": stored.sqlite,
        "stored_postgres": stored.postgres,
        "stored_seaweed": stored.seaweed,
        "faults": keep.found,
        "keep": keep.scale,
        "full": distributed.rest,
    }


def main() -> int:
    """Run the selected benchmarks.  Returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds and small files: a look, not a measurement")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(measures(quick=True))}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises, so that the servers are stopped
    known = measures(quick=options.quick)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(known)}")
    before = previous()
    results: list[Result] = []
    for name in options.names or known:
        try:
            found = known[name]()
        except (MissingClientError, MissingProgram) as missing:
            say(f"{name:<34} skipped: {missing}")
            continue
        for result in found if isinstance(found, list) else [found]:
            results.append(result)
            say(line(result, before.get(result.name)))
    say(f"kept in {save(results, quick=options.quick)}")
    return 0 if all(result.reached for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
