# Sourced by the other scripts.  `venv run` or `venv dev` sees to it that .venv holds what is needed to run
# GoDrive, or to work on it: made on first use, brought up to date when pyproject.toml or constraints.txt change.
# Needs Python 3.11 or newer, and the network the first time.  PYTHON names another interpreter than python3.

set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=$root/.venv/bin/python

say() { echo "${0##*/}: $*" >&2; }

die() {
    say "$*"
    exit 2
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$candidate" && return
    done
    die "needs Python 3.11 or newer, as python3 or as \$PYTHON (Debian 12: apt-get install python3 python3-venv)"
}

venv() {
    stamp=$({ echo "$root"; cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum)
    for kind in "$1" dev; do # what is enough to work on it is enough to run it
        [ "$(cat "$root/.venv/.$kind" 2>/dev/null)" = "$stamp" ] && "$python" -c '' 2>/dev/null && return
    done
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        base=$(find_python)
        "$base" -c 'import venv, ensurepip' 2>/dev/null ||
            die "$base cannot make a virtual environment: apt-get install python3-venv (other systems: the venv package of your Python)"
        say "making .venv with $("$base" --version)"
        "$base" -m venv --clear "$root/.venv"
    fi
    what=.
    [ "$1" = run ] || what=".[$1]"
    say "installing $what into .venv"
    # By environment, so that the constraints also hold for what builds the package (pip before 25.3, and after).
    (cd "$root" && PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
        "$python" -m pip install --quiet --disable-pip-version-check --editable "$what") ||
        die "pip could not install the dependencies; see above"
    echo "$stamp" >"$root/.venv/.$1"
}
