"""The largest GoDrive: PostgreSQL, an S3 store, NATS, and actors in several processes.

For the tests, and for people: ``scripts/stack`` runs this module, which starts
everything in a temporary folder, says where it is, and ends it on Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import botocore.session

from godrive.credentials import Keyring
from godrive.http.routes.bucket_events import PATH as WEBHOOK
from tests.drive_server import DriveServer, Tables, merged
from tests.servers import CephGateway, MissingProgram, NatsServer, PostgresServer, free_port

TOKEN = "the store's word to the drive"

Services = tuple[NatsServer, PostgresServer, CephGateway]


class Stack:
    """Servers and, on top of them, GoDrive in three processes or more.

    ``gateway`` has the HTTP edge and no actor; each of ``cores`` has auth,
    metadata and storage; ``background`` has ingest and janitor.  With *events*
    the store tells the gateway of each object; without, the reconciler finds
    them.  Stacks on the same services need a *name* each: of the bucket, and
    of the subjects.
    """

    def __init__(
        self,
        folder: Path,
        services: Services,
        *,
        name: str = "godrive",
        cores: int = 1,
        events: bool = True,
        port: int | None = None,
        tables: Tables | None = None,
        quick: bool = True,
    ) -> None:
        self.nats, self.postgres, self.store = services
        self.events = events
        self.bucket = name
        folder.mkdir(parents=True, exist_ok=True)
        keys = folder / "secret.key"
        Keyring.load_or_create(keys)
        port = port or free_port()
        shared = merged(self._shared(keys, port), tables or {})

        def process(name: str, *parts: str, port: int | None = None) -> DriveServer:
            only = ("--only", ",".join(parts))
            return DriveServer(folder / name, port, tables=shared, arguments=only, quick=quick, http="http" in parts)

        self.cores = [process(f"core-{n}", "auth", "metadata", "storage") for n in range(1, cores + 1)]
        self.background = process("background", "ingest", "janitor")
        self.gateway = process("gateway", "http", port=port)

    def _shared(self, keys: Path, port: int) -> dict[str, dict[str, Any]]:
        s3 = {
            "endpoint": self.store.endpoint,
            "bucket": self.bucket,
            "region": self.store.region,
            "access_key": self.store.access_key,
            "secret_key": self.store.secret_key,
        }
        return {
            "server": {"public_url": f"http://127.0.0.1:{port}"},
            "auth": {"secret_file": str(keys)},
            "catalog": {"driver": "postgres", "dsn": self.postgres.create_database()},
            "blobs": {"driver": "s3", "s3": s3},
            "ingest": {"webhook_token": TOKEN},
            "nats": {"url": self.nats.url, "namespace": self.bucket},
            "log": {"format": "json"},
        }

    @property
    def url(self) -> str:
        """Where clients go."""
        return self.gateway.url

    @property
    def processes(self) -> list[DriveServer]:
        """In the order in which they are started: who is asked, before who asks."""
        return [*self.cores, self.background, self.gateway]

    def start(self) -> None:
        """Start what does not run."""
        for process in self.processes:
            process.start()
        if self.events:
            push_events(self.store, self.bucket, f"{self.url}{WEBHOOK}?token={TOKEN}")

    def close(self) -> None:
        """Stop in reverse."""
        for process in reversed(self.processes):
            process.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def push_events(store: CephGateway, bucket: str, url: str) -> None:
    """Have the store POST an event to *url* for every object that is made in *bucket*.  Idempotent."""
    options = {
        "endpoint_url": store.endpoint,
        "region_name": store.region,
        "aws_access_key_id": store.access_key,
        "aws_secret_access_key": store.secret_key,
        "verify": True,
    }
    session = botocore.session.Session()
    topic = session.create_client("sns", **options).create_topic(Name=bucket, Attributes={"push-endpoint": url})
    # Created only: with a subscription to removals, this release of the gateway dies of DeleteObjects.
    rule = {"Id": "godrive", "TopicArn": topic["TopicArn"], "Events": ["s3:ObjectCreated:*"]}
    session.create_client("s3", **options).put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [rule]}
    )


def main() -> int:
    """Start everything, say where it is, wait for Ctrl-C or SIGTERM, end everything."""
    parser = argparse.ArgumentParser("scripts/stack", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="where GoDrive listens (8080)")
    parser.add_argument("--folder", type=Path, help="keep everything here; by default in a folder that goes at the end")
    options = parser.parse_args()
    os.environ.pop("AWS_CA_BUNDLE", None)  # it makes S3 clients fail even with a plain endpoint
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="godrive-stack-")))
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)  # PostgreSQL, which does not run as root, has to get to its own
            run(folder.resolve(), options.port, stack)
            stop.wait()
            say("stopping")
    except (MissingProgram, RuntimeError) as error:
        sys.stderr.write(f"stack: {error}\n")
        return 2
    return 0


def run(folder: Path, port: int, stack: ExitStack) -> None:
    """Start the servers, then GoDrive on top."""
    services = NatsServer(folder / "nats"), PostgresServer(folder / "postgres"), CephGateway(folder / "ceph")
    for service in services:
        stack.enter_context(service)
    nats, postgres, store = services
    say(f"NATS        {nats.url}")
    say(f"PostgreSQL  {postgres.dsn}")
    say(f"S3 (Ceph)   {store.endpoint}  access key {store.access_key}, secret key {store.secret_key}")
    drive = stack.enter_context(Stack(folder / "godrive", services, port=port, quick=False))
    for process in drive.processes:
        parts = process.arguments[-1]
        say(f"{process.folder.name:<11} pid {process.pid}, runs {parts}, log in {process.folder}/godrive.log")
    say(f"GoDrive listens on {drive.url}; Ctrl-C ends everything")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
