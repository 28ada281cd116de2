"""The scripts of the YunoHost package, run with stand-ins for YunoHost's helpers: they name what YunoHost would do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from godrive.cli import main
from godrive.configfile import load
from tests.drive_server import REPOSITORY, environment
from tests.proxies import block

PACKAGE = REPOSITORY / "examples" / "yunohost"
SCRIPTS = ("install", "remove", "upgrade", "backup", "restore")
HELPERS = "/usr/share/yunohost/helpers"

STAND_INS = r"""
set -eu
note() { echo "$*" >>"$NOTES"; }
ynh_script_progression() { :; }
ynh_print_info() { :; }
ynh_hide_warnings() { "$@"; }
ynh_exec_as_app() { "$@"; }
chown() { :; }
systemctl() { note systemctl "$@"; }
yunohost() { note yunohost "$@"; }
ynh_systemctl() { note "${@:1}"; }
ynh_setup_source() { cp "$EXECUTABLE" "$install_dir/godrive"; chmod 600 "$install_dir/godrive"; }
ynh_config_add() {
    local template=${1#--template=} destination=$ROOT${2#--destination=} name
    destination=${destination/$ROOT$ROOT/$ROOT}
    mkdir -p "$(dirname "$destination")"
    cp "$PACKAGE/conf/$template" "$destination"
    for name in $(grep -o '__[A-Z_]*__' "$destination" | sort -u); do
        local variable=${name//__/}
        variable=${variable,,}
        sed -i "s@$name@${!variable}@g" "$destination"
    done
}
ynh_config_add_nginx() { ynh_config_add --template=nginx.conf "--destination=/etc/nginx/conf.d/$domain.d/$app.conf"; }
ynh_config_add_systemd() { ynh_config_add --template=systemd.service "--destination=/etc/systemd/system/$app.service"; }
ynh_config_remove_nginx() { rm "$ROOT/etc/nginx/conf.d/$domain.d/$app.conf"; }
ynh_config_remove_systemd() { rm "$ROOT/etc/systemd/system/$app.service"; }
ynh_backup() { mkdir -p "$PWD$(dirname "$1")"; cp -a "$(within "$1")" "$PWD$1"; }
ynh_restore() { mkdir -p "$(dirname "$(within "$1")")"; rm -rf "$(within "$1")"; cp -a "$PWD$1" "$(within "$1")"; }
within() { case $1 in "$ROOT"*) echo "$1" ;; *) echo "$ROOT$1" ;; esac; }
"""


class Host:
    """A folder that stands for a machine with YunoHost."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archive = root / "archive"
        self.install_dir, self.data_dir = root / "var/www/godrive", root / "home/yunohost.app/godrive"
        (root / "helpers").write_text(STAND_INS)
        (root / "godrive").write_text(f'#!/bin/sh\nexec {sys.executable} -m godrive "$@"\n')
        self.archive.mkdir()
        self.provision()

    def provision(self) -> None:
        """Make what the resources of the manifest stand for."""
        self.install_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, **variables: str) -> None:
        """Run a script of the package."""
        script = (PACKAGE / "scripts" / name).read_text()
        assert f"source {HELPERS}\n" in script
        named = {
            "app": "godrive", "domain": "drive.example.org", "port": "8095", "signup": "invite",
            "email": "ann@example.org", "password": "correct horse", "install_dir": str(self.install_dir),
            "data_dir": str(self.data_dir), "ROOT": str(self.root), "NOTES": str(self.root / "notes"),
            "PACKAGE": str(PACKAGE), "EXECUTABLE": str(self.root / "godrive"), "PYTHONPATH": str(REPOSITORY),
        }  # fmt: skip
        subprocess.run(
            ["bash", "-c", script.replace(HELPERS, str(self.root / "helpers"))],
            cwd=self.archive,
            env=environment() | os.environ | named | variables,
            check=True,
        )

    def notes(self) -> list[str]:
        """What YunoHost was asked since the last time."""
        path = self.root / "notes"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def users(host: Host, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["user", "list", "--config", str(host.install_dir / "config.toml")]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_of_bash_that_may_be_run(name: str) -> None:
    path = PACKAGE / "scripts" / name
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.slow
def test_an_installation_is_a_drive_with_a_user_behind_nginx(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.run("install")
    config = load(host.install_dir / "config.toml", {})
    assert (config.server.port, config.server.public_url) == (8095, "https://drive.example.org")
    assert (config.data_dir, config.auth.signup) == (host.data_dir, "invite")
    assert "ann@example.org" in users(host, capsys)
    assert host.notes() == [
        "yunohost service add godrive --description=Drive backend",
        "--service=godrive --action=start",
    ]
    nginx = (host.root / "etc/nginx/conf.d/drive.example.org.d/godrive.conf").read_text()
    assert "proxy_pass http://127.0.0.1:8095;" in nginx
    unit = (host.root / "etc/systemd/system/godrive.service").read_text()
    assert f"ExecStart={host.install_dir}/godrive serve --config {host.install_dir}/config.toml\n" in unit
    assert f"BindPaths={host.data_dir}\n" in unit
    assert "__" not in nginx + unit

    host.run("remove")
    assert host.notes()[1:] == ["yunohost service remove godrive"]
    assert list((host.root / "etc").rglob("godrive*")) == []
    assert (host.data_dir / "LAYOUT").exists()


@pytest.mark.slow
def test_what_is_backed_up_is_restored(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.run("install")
    (host.root / "godrive").write_text((host.root / "godrive").read_text() + "# newer\n")
    config = host.install_dir / "config.toml"
    config.write_text(config.read_text() + "\n[log]\nlevel = 'warning'\n")
    host.run("upgrade")
    assert (host.install_dir / "godrive").read_text().endswith("# newer\n")
    assert load(config, {}).log.level == "warning"

    host.run("backup", BACKUP_CORE_ONLY="1")
    assert not (host.archive / "drive").exists()
    before = users(host, capsys)
    subprocess.run(["rm", "-r", *host.archive.iterdir()], check=True)
    host.run("backup")
    host.run("remove")
    subprocess.run(["rm", "-r", host.install_dir, host.data_dir], check=True)
    host.provision()
    (host.data_dir / "LAYOUT").write_text("godrive 2\n")  # of a restore that was interrupted
    (host.data_dir / "godrive.db.restoring").write_bytes(b"half")
    host.run("restore")
    assert users(host, capsys) == before
    assert load(config, {}).log.level == "warning"

    kept = (host.data_dir / "godrive.db").stat().st_ino
    host.run("restore")  # of an app that was not purged
    assert (host.data_dir / "godrive.db").stat().st_ino == kept
    assert users(host, capsys) == before


def test_the_unit_is_as_closed_as_ours() -> None:
    def lines(path: Path) -> set[str]:
        return {line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")}

    ours, theirs = lines(REPOSITORY / "godrive/commands/godrive.service"), lines(PACKAGE / "conf/systemd.service")
    other = {re.sub("=.*", "", line) for line in ours - theirs}
    assert other == {
        "Description", "Documentation", "User", "ExecStart", "StateDirectory", "StateDirectoryMode",
        "RuntimeDirectory", "AmbientCapabilities", "CapabilityBoundingSet", "ProtectHome",
    }  # fmt: skip
    assert {"CapabilityBoundingSet=", "ProtectHome=tmpfs"} <= theirs


def test_nginx_is_told_what_the_documentation_says() -> None:
    def directives(text: str) -> set[str]:
        return set(re.findall(r"^\s*((?:proxy|client)_.*;)$", text, re.MULTILINE))

    documented = {line.replace(":8080", ":__PORT__") for line in directives(block("nginx"))}
    assert directives((PACKAGE / "conf/nginx.conf").read_text()) == documented


def test_the_source_is_the_executable() -> None:
    source = tomllib.loads((PACKAGE / "manifest.toml").read_text())["resources"]["sources"]["main"]
    assert (source["extract"], source["rename"]) == (False, "godrive")
    assert re.fullmatch("[0-9a-f]{64}", source["sha256"])
