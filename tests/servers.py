"""Real servers, for tests and for ``scripts/stack``.

Each is a context manager that runs one server of Debian's packages on free
loopback ports with all it keeps in a temporary folder::

    with NatsServer() as nats:
        nats.url                 # nats://127.0.0.1:...
        nats.kill9()             # an outage
        nats.start()             # back, on the same port, with what it kept
        nats.wipe()              # stopped, and everything forgotten
        nats.start()

Starting waits until the server answers.  A program that is not installed is
:class:`MissingProgram`, which names the packages to install.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

READY_WITHIN = 30.0
"""Seconds that a server may take to start; the usual is under two."""

_BELOW_EPHEMERAL = range(20_000, 32_000)


class MissingProgram(Exception):
    """A server's program is not installed."""


def free_port(span: int = 1) -> int:
    """The first of *span* loopback ports that are free now.

    Below the range the kernel hands out itself, so that the port stays free
    while its server is down.
    """
    while True:
        first = random.choice(_BELOW_EPHEMERAL)
        if all(_is_free(first + offset) for offset in range(span)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Daemon:
    """One process, its output in a file."""

    def __init__(
        self, command: list[str | Path], log: Path, *, env: Mapping[str, str] | None = None, user: int | None = None
    ) -> None:
        self.log = log
        self.command = command
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C is for whoever runs us, not for the server
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that ended is left alone."""
        self._process.send_signal(number)

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def wait(self, within: float = 30.0) -> int:
        """Its exit status, once it has ended.  Raises ``TimeoutError``."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.command[0]} still runs after {within} s") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 15.0) -> None:
        """Ask it to end, and insist when it does not."""
        if self.running:
            self.send(signal.SIGCONT)
            self.send(number)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Return once *ready*; a process that ends or takes too long is a ``RuntimeError`` with its last words."""
        deadline = time.monotonic() + READY_WITHIN
        while not ready():
            if not self.running or time.monotonic() > deadline:
                state = "takes too long" if self.running else f"ended with {self._process.returncode}"
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{self.command[0]} {state}:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)


class Server(ABC):
    """What all servers have in common."""

    programs: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        """Keep everything in *folder*, which then stays; by default in one that goes with the server."""
        self.missing()
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process: Daemon | None = None

    @classmethod
    def missing(cls) -> None:
        """Raise :class:`MissingProgram` unless every program is there."""
        absent = [name for name in cls.programs if cls.find(name) is None]
        if absent:
            raise MissingProgram(
                f"{', '.join(absent)} not found: apt-get install -y --no-install-recommends {' '.join(cls.packages)}"
            )

    @classmethod
    def find(cls, program: str) -> str | None:
        """Where the program is, if it is installed."""
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

    def path(self, program: str) -> str:
        found = self.find(program)
        assert found is not None, program
        return found

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start, on the same port and folder as before, and wait until it answers."""
        if self.process is not None and self.process.running:
            return
        self.process = self._launch()

    @abstractmethod
    def _launch(self) -> Daemon: ...

    def stop(self) -> None:
        """End it in good order; what it kept stays."""
        if self.process is not None:
            self.process.stop()

    def kill9(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it hold connections open and answer nothing, as behind a cut network."""
        if self.process is not None:
            self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        if self.process is not None:
            self.process.send(signal.SIGCONT)

    def wipe(self) -> None:
        """Kill it and forget everything it kept."""
        self.kill9()
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


class NatsServer(Server):
    """NATS, with JetStream unless told otherwise."""

    programs = ("nats-server",)
    packages = ("nats-server",)

    def __init__(
        self,
        folder: Path | None = None,
        port: int | None = None,
        *,
        jetstream: bool = True,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """*arguments* are added to the command line: ``("--user", "u", "--pass", "p")``."""
        super().__init__(folder, port)
        self.jetstream = jetstream
        self.arguments = arguments

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def _launch(self) -> Daemon:
        command = [self.path("nats-server"), "-a", "127.0.0.1", "-p", str(self.port), *self.arguments]
        if self.jetstream:
            command += ["-js", "-sd", str(self.folder / "store")]
        daemon = Daemon([*command], self.folder / "nats.log")
        daemon.wait_until(lambda: answers(self.port))
        return daemon


class PostgresServer(Server):
    """PostgreSQL, user ``postgres``, no password.  It syncs nothing: the process may die, not the machine."""

    programs = ("initdb", "postgres")
    packages = ("postgresql",)

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._user: int | None = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = 65_534
            os.chown(self.folder, self._user, self._user)

    @classmethod
    def find(cls, program: str) -> str | None:
        places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
        for place in reversed(places):
            if (place / program).exists():
                return str(place / program)
        return super().find(program)

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database; its DSN."""
        name = name or f"t{uuid.uuid4().hex}"
        subprocess.run(
            [self.path("psql"), "-X", "-q", "-d", self.dsn, "-c", f'CREATE DATABASE "{name}"'],
            check=True,
            capture_output=True,
        )
        return self.dsn_of(name)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _launch(self) -> Daemon:
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        if not self._data.exists():
            command: list[str | Path] = [self.path("initdb"), "-D", self._data, "-U", "postgres"]
            init = [*command, "-A", "trust", "-E", "UTF8", "--no-sync"]
            maker = Daemon(init, self.folder / "initdb.log", env=env, user=self._user)
            if maker.wait(READY_WITHIN):
                raise RuntimeError(f"initdb: {maker.log.read_text(errors='replace')}")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "200",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [self.path("postgres"), "-D", self._data, *options]
        deadline = time.monotonic() + READY_WITHIN
        while True:
            daemon = Daemon([*command], self.folder / "postgres.log", env=env, user=self._user)
            try:
                daemon.wait_until(lambda: self._ready(daemon))  # noqa: B023
            except RuntimeError:
                # After kill9 the old backends hold the shared memory until they notice.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return daemon

    def _ready(self, daemon: Daemon) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(daemon.pid) and lines[7].strip() == "ready"

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGINT)  # "fast": does not wait for clients to leave


class CephGateway(Server):
    """An S3 store: Ceph's RADOS Gateway over one monitor and one storage daemon in memory.

    ``stop``, ``kill9``, ``freeze`` and ``start`` are of the gateway alone: a
    store outage, after which everything is still there.
    """

    programs = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    packages = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")

    access_key = "TESTACCESSKEY"
    secret_key = "TESTSECRETKEY"
    region = "us-east-1"

    def __init__(self, folder: Path | None = None, port: int | None = None) -> None:
        super().__init__(folder, port or free_port(64))
        self._cluster: list[Daemon] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def _config(self) -> Path:
        return self.folder / "ceph.conf"

    def _launch(self) -> Daemon:
        fresh = not self._cluster
        if fresh:
            self._launch_cluster()
        daemon = Daemon([self.path("radosgw"), "-c", self._config, "-n", "client.rgw", "-f"], self.folder / "rgw.out")
        daemon.wait_until(lambda: answers(self.port))
        if fresh:
            self.add_user("test", self.access_key, self.secret_key)
        return daemon

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """Make a user of the store."""
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", f"--uid={name}", "--display-name=t", *keys)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self.path(program), "-c", self._config, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def _launch_cluster(self) -> None:
        cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "rgw", "run"):
            (self.folder / name).mkdir(exist_ok=True)
        self._config.write_text(
            _CEPH_CONF.format(
                folder=self.folder,
                port=self.port,
                mon=self.port + 1,
                fsid=cluster,
                first=self.port + 2,
                last=self.port + 63,
            )
        )
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{self.port + 1}]"
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        monitor = Daemon([self.path("ceph-mon"), "-i", "a", "-c", self._config, "-f"], self.folder / "mon.out")
        self._cluster.append(monitor)
        monitor.wait_until(lambda: self._answers("osd", "new", disk))
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        storage = Daemon([self.path("ceph-osd"), "-i", "0", "-c", self._config, "-f"], self.folder / "osd.out")
        self._cluster.append(storage)
        storage.wait_until(lambda: "1 up" in self._run("ceph", "osd", "stat"))

    def _answers(self, *arguments: str) -> bool:
        try:
            self._run("ceph", *arguments)
        except RuntimeError:
            return False
        return True

    def _end_cluster(self) -> None:
        for daemon in reversed(self._cluster):
            daemon.stop(signal.SIGKILL)  # it keeps nothing that an orderly end would save
        self._cluster = []

    def wipe(self) -> None:
        self.kill9()
        self._end_cluster()
        super().wipe()

    def close(self) -> None:
        self.kill9()
        self._end_cluster()
        super().close()


_CEPH_CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_port_min = {first}
ms_bind_port_max = {last}
ms_mon_client_mode = crc
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = /dev/null
run_dir = {folder}/run
crash_dir = {folder}/run
admin_socket = {folder}/run/$name.asok
log_file = {folder}/$name.log
mon_data = {folder}/mon
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
paxos_propose_interval = 0.05
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off

[client.rgw]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_dns_name = localhost
rgw_rados_pool_pg_num_min = 1
rgw_run_sync_thread = false
rgw_thread_pool_size = 32
"""
