"""``godrive setup``: ask four questions, write the configuration, and add the first user."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import msgspec

from godrive import network
from godrive.about import is_executable
from godrive.commands import Commands, add_command
from godrive.commands.user import add_user
from godrive.config import Config
from godrive.configfile import load
from godrive.errors import ConfigError, DriveError, refused
from godrive.paths import exists, is_file, is_folder

SIGNUP = ("open", "invite", "closed")

UNIT = Path("/etc/systemd/system/godrive.service")
PACKAGED_UNIT = Path("/usr/lib/systemd/system/godrive.service")
"""What --systemd writes, and what the Debian package has."""

SERVICE_USER = "godrive"

_HOMES = ("/home/", "/root/")
_HIDDEN = ("/tmp/", "/var/tmp/")  # noqa: S108 - nothing is written there

_TEXT = """\
# Written by `godrive setup`.  `godrive check-config` checks this file.  The documentation has every setting.

[server]
data_dir = {data_dir}
host = {host}
port = {port}
public_url = {public_url}

[auth]
signup = {signup}
"""


class Answers(msgspec.Struct, frozen=True):
    """What the operator chose."""

    data_dir: str
    host: str
    port: int
    public_url: str
    signup: str


def register(commands: Commands, shared: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = add_command(commands, "setup", shared)
    parser.add_argument("--listen", metavar="ADDRESS", help="the address and port to listen on, such as 127.0.0.1:8080")
    parser.add_argument("--public-url", metavar="URL", help="the URL at which people reach this server")
    parser.add_argument("--signup", choices=SIGNUP, help="who may sign up")
    parser.add_argument(
        "--email",
        help="the first user; the password is read from the terminal or from the first line of standard input",
    )
    parser.add_argument("--no-user", action="store_true", help="add no user")
    parser.add_argument("--systemd", action="store_true", help=f"also write {UNIT} and add its user")
    parser.set_defaults(run=_setup)


def _setup(arguments: argparse.Namespace) -> int:
    path = Path(arguments.config or "config.toml").absolute()
    before = _existing(path)
    if arguments.systemd and os.geteuid() != 0:
        raise ConfigError("--systemd needs root.", hint="Run the command with sudo.")
    answers = _answers(arguments, before, path)
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(_TEXT.format(**{key: _toml(value) for key, value in msgspec.structs.asdict(answers).items()}))
        load(new)  # before anything that was there is replaced
        if is_file(path):
            shutil.copy2(path, path.with_name(f"{path.name}.before"))
        new.replace(path)
    except OSError as error:
        raise refused(f"{path} cannot be written", error) from None
    finally:
        new.unlink(missing_ok=True)
    _say(f"Wrote {path}.")
    if arguments.systemd:
        _write_unit(path, answers)
    if not arguments.no_user:
        email = arguments.email or _ask("E-mail address of the first user", "")
        if email:
            arguments.config = path
            add_user(arguments, email)
        else:
            _say(f"No user was added. Add one with: godrive user add EMAIL --config {shlex.quote(str(path))}")
    _say(f"Start it with: {_start(path, new_unit=arguments.systemd)}")
    return 0


def _start(config: Path, *, new_unit: bool) -> str:
    """Return the command that starts a server with that configuration, or has it read the new one."""
    if new_unit:
        return "systemctl enable --now godrive"
    for unit in (UNIT, PACKAGED_UNIT):
        if is_file(unit) and f"--config {config}\n" in unit.read_text():
            return "systemctl restart godrive"
    return f"godrive serve --config {shlex.quote(str(config))}"


def _existing(path: Path) -> Config:
    """Return the configuration at *path*, or the defaults.

    Raises ``ConfigError`` if it has settings that this command would drop.
    """
    if not is_file(path):
        return Config()
    config = load(path)
    known = Config(
        server=msgspec.structs.replace(
            Config().server,
            data_dir=config.server.data_dir,
            host=config.server.host,
            port=config.server.port,
            public_url=config.server.public_url,
        ),
        auth=msgspec.structs.replace(Config().auth, signup=config.auth.signup),
    )
    if known != config:
        raise ConfigError(f"{path} has other settings, which would be lost.", hint="Edit it, or name another file.")
    return config


def _answers(arguments: argparse.Namespace, before: Config, path: Path) -> Answers:
    server = before.server
    default = str(path.parent / server.data_dir)
    data_dir = arguments.data_dir or _ask("Folder for all data", default, _check_folder)
    host = server.host if network.socket_path(server.host) is not None else _listen(server.host, server.port)
    host, port = _parse(arguments.listen or _ask("Address and port to listen on", host, _parse))
    at = server.public_url or ("" if network.socket_path(host) is not None else network.local_url(host, port))
    public_url = arguments.public_url or _ask("URL at which people reach it", at, _check_url)
    _check_url(public_url)
    signup = arguments.signup or _ask("Who may sign up: open, invite or closed", "closed", _check_signup)
    is_local = network.socket_path(host) is None and public_url == network.local_url(host, port)
    return Answers(
        data_dir=str(Path(data_dir).absolute()),
        host=host,
        port=port,
        public_url="" if is_local else network.base_url(public_url),
        signup=signup,
    )


def _ask(question: str, default: str, check: Callable[[str], object] = str) -> str:
    """Ask on the terminal until the answer is valid.  Without a terminal, the default is the answer."""
    if not sys.stdin.isatty():
        return default
    while True:
        answer = input(f"{question} [{default}]: " if default else f"{question}: ").strip() or default
        try:
            check(answer)
        except (ValueError, DriveError) as error:
            _say(f"That does not do: {error}.")
        else:
            return answer


def _listen(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parse(text: str) -> tuple[str, int]:
    """Return host and port.  Raises ``ConfigError``."""
    if network.socket_path(text) is not None:
        return text, 8080
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{text!r} is not an address and a port", hint="For example 127.0.0.1:8080, or *:8080")
    try:
        network.bind_addresses(host)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_folder(text: str) -> None:
    path = Path(text)
    if exists(path) and not is_folder(path):
        raise ConfigError(f"{text} is not a folder")


def _check_url(text: str) -> None:
    try:
        network.base_url(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a URL at which people reach a server", field="server.public_url") from None


def _check_signup(text: str) -> None:
    if text not in SIGNUP:
        raise ConfigError(f"{text!r} is not one of the choices")


def _toml(value: object) -> str:
    """Return a value in TOML; a JSON string or number is one too."""
    return msgspec.json.encode(value).decode()


def _write_unit(config: Path, answers: Answers) -> None:
    text = (files("godrive.commands") / "godrive.service").read_text()
    command = [sys.executable] if is_executable() else [sys.executable, "-m", "godrive"]
    start = " ".join(_quoted(part) for part in (*command, "serve", "--config", str(config)))
    used = command[0], str(config), answers.data_dir
    lines = []
    for line in text.splitlines():
        if line.startswith("ExecStart="):
            lines += [f"ExecStart={start}", f"ReadWritePaths={_quoted(answers.data_dir)}"]
        elif line.startswith("ProtectHome=") and any(path.startswith(_HOMES) for path in used):
            lines.append("ProtectHome=read-only")
        elif not line.startswith("Documentation="):  # which the Debian package brings
            lines.append(line)
    _make_user()
    folder = Path(answers.data_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.chown(folder, SERVICE_USER, SERVICE_USER)
    _check_service(command, config, answers.data_dir)
    UNIT.write_text("\n".join(lines) + "\n")
    _say(f"Wrote {UNIT}.")


def _check_service(command: list[str], config: Path, data_dir: str) -> None:
    """Raises ``ConfigError`` unless the service can run the program, read the configuration and write its data."""
    for path in (command[0], str(config), data_dir):
        if path.startswith(_HIDDEN):
            raise ConfigError(f"A service cannot see {path}, because it has folders of its own for temporary files.")
    _try_as_service([*command, "check-config", "--config", str(config)], f"run {command[0]} with {config}")
    _try_as_service(["/bin/sh", "-c", 'test -w "$1"', "sh", data_dir], f"write to {data_dir}")


def _try_as_service(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            command,
            user=SERVICE_USER,
            group=pwd.getpwnam(SERVICE_USER).pw_gid,
            extra_groups=[],
            cwd="/",
            env={"LANG": "C.UTF-8", "PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        why = f": {error.strerror}"
    else:
        if done.returncode == 0:
            return
        why = f": {said[-1]}" if (said := done.stderr.strip().splitlines()) else ""
    hint = "Put the program, its configuration and its data where that user may go, such as /opt, /etc and /var/lib."
    raise ConfigError(f"The user {SERVICE_USER} cannot {what}{why}", hint=hint)


def _make_user() -> None:
    try:
        pwd.getpwnam(SERVICE_USER)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--shell", "/usr/sbin/nologin", SERVICE_USER]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
        if done.returncode:
            raise ConfigError(f"The user {SERVICE_USER} cannot be added: {done.stderr.strip()}") from None


def _quoted(text: str) -> str:
    """Quote a word of a unit: percent signs are specifiers there."""
    return f'"{text}"'.replace("%", "%%") if " " in text else text.replace("%", "%%")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
