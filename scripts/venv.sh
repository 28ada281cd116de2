# shellcheck shell=sh
# Sourced by the other scripts.  `venv run` or `venv dev` makes .venv hold what is needed to run GoDrive, or to work
# on it.  It is made on first use, made again when its Python has changed, and updated when pyproject.toml or
# constraints.txt change.  Needs Python 3.11 or newer, and the network the first time.  PYTHON names another
# interpreter than python3.

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

# What .venv is made of: this folder, the interpreter, and what is to be installed.
stamp() {
    {
        echo "$root"
        "$python" -c "$interpreter" 2>/dev/null || true
        cat "$root/pyproject.toml" "$root/constraints.txt"
    } | cksum
}
interpreter='import sys; print(sys.implementation.cache_tag, sys.platform)'

# Whether .venv has the interpreter that PYTHON asks for, if it asks for one.
is_as_asked() {
    [ -z "${PYTHON:-}" ] || [ "$("$python" -c "$interpreter" 2>/dev/null)" = "$("$PYTHON" -c "$interpreter" 2>/dev/null)" ]
}

venv() {
    for kind in "$1" dev; do # what is enough to work on it is enough to run it
        [ "$(cat "$root/.venv/.$kind" 2>/dev/null)" = "$(stamp)" ] && is_as_asked && return
    done
    # After an upgrade of the system the interpreter of .venv is a newer one, which does not find pip there.
    if ! is_as_asked || ! "$python" -m pip --version >/dev/null 2>&1; then
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
    stamp >"$root/.venv/.$1"
}
