"""The scripts: short, the same for people and CI, and clear about what they lack."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import each
from tests.drive_server import REPOSITORY

SCRIPTS = sorted(path for path in (REPOSITORY / "scripts").iterdir() if path.is_file() and not path.suffix)


@each("script", SCRIPTS)
def test_a_script_is_executable_and_says_what_it_does(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shebang, comment, *_ = script.read_text().splitlines()
    assert shebang == "#!/bin/sh"
    assert comment.startswith("# ")
    subprocess.run(["sh", "-n", script], check=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts and what they read, where nobody has run them yet, below a folder whose name has a space."""
    place = tmp_path / "a clone"
    shutil.copytree(REPOSITORY / "scripts", place / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, place)
    return place


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("exit 1", "needs Python 3.11 or newer"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "apt-get install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_one_clear_line(clone: Path, tmp_path: Path, body: str, hint: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        [clone / "scripts" / "serve"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert hint in line


def test_an_environment_is_made_again_when_its_python_has_changed(clone: Path, tmp_path: Path) -> None:
    tag = tmp_path / "tag"
    tag.write_text("cpython-311 linux")
    (clone / ".venv" / "bin").mkdir(parents=True)
    python = clone / ".venv" / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in "-m godrive"*) echo it runs;; "-m pip"*) exit 1;; *) cat {tag};; esac\n'
    )
    (tmp_path / "bin").mkdir()
    system = tmp_path / "bin" / "python3"
    system.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n')
    for program in (python, system):
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    environment.pop("PYTHON", None)
    make_stamp = f'. "{clone}/scripts/venv.sh"; stamp > "{clone}/.venv/.run"'
    subprocess.run(["sh", "-c", make_stamp, clone / "scripts" / "serve"], env=environment, check=True)

    def serve() -> subprocess.CompletedProcess[str]:
        command = [clone / "scripts" / "serve"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert serve().stdout == "it runs\n"
    tag.write_text("cpython-313 linux")
    done = serve()
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot make a virtual environment" in done.stderr
    tag.write_text("cpython-311 linux")
    environment["PYTHON"] = str(system)  # another interpreter than the one of the environment
    assert serve().returncode == 2


NEWER_THAN_DEBIAN_11 = ("--json", "--fail-with-body", "--url-query", "--variable", "--no-clobber", "--remove-on-error")
"""Options of curl that its release 7.74 lacks."""


@pytest.mark.parametrize("document", ["README.md", "docs/api.md", "docs/operations.md", "docs/embedding.md"])
def test_commands_in_documents_work_with_the_curl_of_debian_11(document: str) -> None:
    commands = [line for line in (REPOSITORY / document).read_text().splitlines() if "curl " in line]
    assert [line for line in commands for option in NEWER_THAN_DEBIAN_11 if option in line] == []


def test_everything_that_ci_installs_is_pinned() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    if Path(sys.prefix) != REPOSITORY / ".venv":
        pytest.skip("only the environment that the scripts make has just what is pinned")
    installed = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    for name in ("godrive-server", "pip", "setuptools"):
        installed.pop(name, None)
    assert {name: version for name, version in installed.items() if pins.get(name) != version} == {}


def test_the_constraints_are_names_and_versions_alone() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+|#.*", line)] == []


@each("left", [("config.toml",), ("config.toml", "config.toml.before", "backup-passphrase", "secret.key")])
def test_a_purge_of_the_package_leaves_the_keys_of_the_operator(tmp_path: Path, left: tuple[str, ...]) -> None:
    folder = tmp_path / "".join(left)
    folder.mkdir()
    for name in left:
        (folder / name).write_text("")
    script = (REPOSITORY / "scripts" / "packaging" / "postrm").read_text().replace("/etc/godrive", str(folder))
    script = script.replace("/usr/bin/deb-systemd-helper", "/nowhere").replace("/run/systemd/system", "/nowhere")
    done = subprocess.run(["sh", "-c", script, "postrm", "purge"], capture_output=True, text=True, check=True)
    if len(left) == 1:
        assert not folder.exists()
    else:
        assert {path.name for path in folder.iterdir()} == {"backup-passphrase", "secret.key"}
        assert str(folder) in done.stdout


def test_soak_gives_each_size_of_the_tests_to_the_file_that_reads_it() -> None:
    script = REPOSITORY / "scripts" / "soak"
    given = {
        name: (set(re.findall(r"(\w+)=", sizes)), tests.split())
        for name, sizes, tests in re.findall(r'(\w+)\)\s+sizes="(.*)"\s+tests="?([^";\n]*[^"; \n])', script.read_text())
    }
    parts = re.search('^parts="(.*)"$', script.read_text(), re.MULTILINE)
    assert parts is not None
    assert list(given) == parts[1].split()
    for file in (REPOSITORY / "tests").rglob("test_*.py"):
        name, text = str(file.relative_to(REPOSITORY)), file.read_text()
        sizes = set(re.findall(r"GODRIVE_TEST_(\w+)", text)) - {"PROGRAM"}
        if "GODRIVE_TEST_{name}" in text:
            sizes |= set(re.findall(r'\("([A-Z]+)", "\d+"\)', text))
        found = [known for known, tests in given.values() if any(name.startswith(test) for test in tests)]
        assert not sizes or any(sizes <= known for known in found), name


def test_soak_names_its_parts_and_refuses_others() -> None:
    soak = REPOSITORY / "scripts" / "soak"
    told = subprocess.run([soak, "--help"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([soak, "full", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for part in done.stderr.splitlines()[-1].partition(": nonsense is no part: ")[2].split():
        assert re.search(rf"^  {part} ", told, re.MULTILINE), part
